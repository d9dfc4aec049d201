"""Resume state: what a killed job needs to resume, in one file named by the job's key.

Snakemake and DVC delete a job's outputs before it runs, so this state lives where neither looks. The key covers
everything the result depends on, so a changed experiment never resumes from the wrong state. Next to the state,
`begun.json` records the runs that train together and their threads.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from flp.system.artifacts import read_json, write_json, write_verified
from flp.system.errors import FLPError, explained
from flp.system.stopping import STOP

State = tuple[dict[str, Tensor], dict[str, Any]]

_GROUP = "begun.json"
_SECONDS, _MADE_BY = "seconds of the job", "made by"


def checkpoint_seconds() -> float:
    """Seconds between checkpoints: `FLP_CHECKPOINT_SECONDS`, or two minutes."""
    text = os.environ.get("FLP_CHECKPOINT_SECONDS", "120")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise FLPError(f"FLP_CHECKPOINT_SECONDS is {text!r}; give a number of seconds, such as 120")
    return seconds


def join(*states: State) -> State:
    """One state of several that share no names."""
    tensors: dict[str, Tensor] = {}
    info: dict[str, Any] = {}
    for more_tensors, more_info in states:
        tensors |= more_tensors
        info |= more_info
    return tensors, info


class Resume:
    """Checkpoints of one job.

    Args:
        folder: where the state lives, named by the key.
        clock: gives the seconds that count as the job's cost.
        made_by: what a state depends on besides the key (JSON); a state made by something else is ignored.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
        made_by: dict[str, Any] | None = None,
    ) -> None:
        self.file = folder / "state.safetensors"
        self.every, self.saved_at = checkpoint_seconds(), time.monotonic()
        self.clock, self.started_at = clock, clock()
        self.saved_seconds = self.earlier = 0.0
        self.made_by = made_by or {}

    @property
    def seconds(self) -> float:
        """What the job has cost so far by its clock, across interruptions."""
        return self.earlier + self.clock() - self.started_at

    def start(self) -> State | None:
        """Listen for signals and return the last whole state, if there is one."""
        STOP.listen()
        state = self.load()
        if state is not None:
            self.earlier = self.saved_seconds
            print(f"resuming from {self.file} (step {state[1].get('step', 0)})", file=sys.stderr)
        return state

    def load(self) -> State | None:
        """The last whole state, or None; one made by something else is ignored, an unreadable one set aside."""
        from safetensors import SafetensorError, safe_open

        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if metadata["digest"] != _digest(tensors, metadata["info"]):
                raise ValueError("its checksum differs")
            info = json.loads(metadata["info"])
            made_by, self.saved_seconds = info.pop(_MADE_BY, {}), float(info.pop(_SECONDS, 0.0))
        except OSError as error:  # it may be intact: a limit or a network is no reason to start over
            raise FLPError(f"cannot read {self.file}: {explained(error)}") from error
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            aside = self.file.with_suffix(".unreadable")
            print(f"warning: {self.file} cannot be read ({error}); it is set aside, starting over", file=sys.stderr)
            os.replace(self.file, aside)
            return None
        if made_by != self.made_by:
            others = {name for name in {*made_by, *self.made_by} if made_by.get(name) != self.made_by.get(name)}
            if others - {"device"}:  # whoever takes another device knows it
                names = ", ".join(sorted(others))
                print(f"warning: {self.file} is of another start ({names}); starting over", file=sys.stderr)
            return None
        return tensors, info

    def maybe(self, state: Callable[[], State]) -> None:
        """Save if it is time to; if a signal asked to stop, save and stop.

        Raises:
            InterruptedJobError: a signal came; the state is saved.
        """
        if STOP.signal is None and time.monotonic() - self.saved_at < self.every:
            return
        self.save(*state())
        STOP.raise_if_asked()

    def stop_if_asked(self, state: Callable[[], State]) -> None:
        """As `maybe`, but only on a signal: cheap enough for every step of an evaluation."""
        if STOP.signal is not None:
            self.maybe(state)

    def save(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Replace the state atomically."""
        from safetensors.torch import save_file

        # A clone where tensors share memory: safetensors refuses to store one buffer twice.
        whole = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        text = json.dumps(info | {_SECONDS: self.seconds, _MADE_BY: self.made_by})
        metadata = {"info": text, "digest": _digest(whole, text)}
        write_verified(self.file, lambda temporary: save_file(whole, temporary, metadata))
        self.saved_at = time.monotonic()

    def clear(self) -> None:
        """Remove the state: the job is done, and what cannot be removed does no harm."""
        shutil.rmtree(self.file.parent, ignore_errors=True)


def _digest(tensors: dict[str, Tensor], info: str) -> str:
    """SHA-256 of a state: a flipped bit must not silently change a result."""
    import torch

    digest = hashlib.sha256(info.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_group(folder: Path, runs: list[str], threads: int) -> None:
    """Record in a resume folder which runs (their keys) train together there, and on how many threads."""
    write_json(folder / _GROUP, {"runs": runs, "threads": threads})


def load_group(folder: Path) -> tuple[list[str], int] | None:
    """What `save_group` recorded, or None where there is nothing to read."""
    try:
        group = read_json(folder / _GROUP)
        return [str(run) for run in group["runs"]], int(group["threads"])
    except (FLPError, KeyError, TypeError, ValueError):
        return None

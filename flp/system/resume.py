"""Resume state: what a killed job needs to go on, in one file named by the job's key.

Snakemake and DVC delete a job's outputs before it runs, so this state lives where neither looks. The key
covers everything the result depends on, hence a changed experiment never goes on from the wrong state. Beside
the state lies what began it (`begun.json`): the runs that train together, and their threads.
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

BEGUN = "begun.json"
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
        every: seconds between checkpoints, if not `FLP_CHECKPOINT_SECONDS`.
        clock: tells the seconds that count as the job's cost.
        made_by: what a state depends on beside the key (JSON); one that was made by something else is not taken.
    """

    def __init__(
        self,
        folder: Path,
        every: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        made_by: dict[str, Any] | None = None,
    ) -> None:
        self.file = folder / "state.safetensors"
        self.every, self.saved_at = checkpoint_seconds() if every is None else every, time.monotonic()
        self.clock, self.began = clock, clock()
        self.saved_seconds = self.earlier = 0.0
        self.made_by = made_by or {}

    @property
    def seconds(self) -> float:
        """What the job has cost so far by its clock, over all interruptions."""
        return self.earlier + self.clock() - self.began

    def start(self) -> State | None:
        """Listen for signals and return the last whole state, if there is one."""
        STOP.listen()
        state = self.load()
        if state is not None:
            self.earlier = self.saved_seconds
            print(f"going on from {self.file} (step {state[1].get('step', 0)})", file=sys.stderr)
        return state

    def load(self) -> State | None:
        """The last whole state, or None; one made by something else is passed over, an unreadable one set aside."""
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
        except OSError as error:  # it may be whole: nothing is begun anew for a limit or a network
            raise FLPError(f"cannot read {self.file}: {explained(error)}") from error
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            aside = self.file.with_suffix(".unreadable")
            print(f"warning: {self.file} cannot be read ({error}); it is set aside, starting over", file=sys.stderr)
            os.replace(self.file, aside)
            return None
        return (tensors, info) if made_by == self.made_by else None

    def maybe(self, state: Callable[[], State]) -> None:
        """Save if it is time to, or if a signal asks for it, and then stop.

        Raises:
            InterruptedJobError: a signal came; the state is saved.
        """
        if STOP.signal is None and time.monotonic() - self.saved_at < self.every:
            return
        self.save(*state())
        STOP.raise_if_asked()

    def stop_if_asked(self, state: Callable[[], State]) -> None:
        """As `maybe`, but only if a signal asks for it: cheap enough for every step of an evaluation."""
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
        """Remove the state: the job is done."""
        shutil.rmtree(self.file.parent, ignore_errors=True)


def _digest(tensors: dict[str, Tensor], info: str) -> str:
    """SHA-256 of a state: a flipped bit must not become a silent change of a result."""
    import torch

    digest = hashlib.sha256(info.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def begin(folder: Path, runs: list[str], threads: int) -> None:
    """Note in a resume folder which runs (their keys) train together there, on how many threads."""
    write_json(folder / BEGUN, {"runs": runs, "threads": threads})


def begun(folder: Path) -> tuple[list[str], int] | None:
    """What `begin` noted, or None where there is nothing to read."""
    try:
        found = read_json(folder / BEGUN)
        return [str(run) for run in found["runs"]], int(found["threads"])
    except (FLPError, KeyError, TypeError, ValueError):
        return None

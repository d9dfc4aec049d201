"""Resume state: what a killed job needs to go on, in one file named by the job's key.

Snakemake and DVC delete a job's outputs before it runs, so this state lives where neither looks. The key
covers everything the result depends on, hence a changed experiment never goes on from the wrong state.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from flp.artifacts import write_verified
from flp.errors import FLPError

State = tuple[dict[str, Tensor], dict[str, Any]]


class InterruptedJobError(FLPError):
    """The scheduler asked the job to stop; its state is saved and its exit status is not zero."""


class Resume:
    """Checkpoints of one job.

    Args:
        folder: where the state lives, named by the key.
        every: seconds between checkpoints.
    """

    def __init__(self, folder: Path, every: float = 120.0) -> None:
        self.file = folder / "state.safetensors"
        self.every, self.saved_at = every, time.monotonic()
        self.stop_signal: int | None = None

    def listen(self) -> None:
        """On SIGTERM or SIGINT, save at the next opportunity and stop; a second signal stops at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_signal is not None:
            sys.exit(128 + number)
        self.stop_signal = number
        print(f"\n{signal.Signals(number).name}: saving the state, then stopping", file=sys.stderr)

    def start(self) -> State | None:
        """Listen for signals and return the last whole state, if there is one."""
        self.listen()
        state = self.load()
        if state is not None:
            print(f"going on from {self.file} (step {state[1].get('step', 0)})", file=sys.stderr)
        return state

    @staticmethod
    def join(state: State, **info: Any) -> State:
        """A state with more information."""
        return state[0], state[1] | info

    def load(self) -> State | None:
        """The last whole state, or None; an unreadable one is set aside with a warning."""
        from safetensors import SafetensorError, safe_open

        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, framework="pt") as file:
                info = json.loads(file.metadata()["info"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            aside = self.file.with_suffix(".unreadable")
            print(f"warning: {self.file} cannot be read ({error}); it is set aside, starting over", file=sys.stderr)
            os.replace(self.file, aside)
            return None
        return tensors, info

    def maybe(self, state: Callable[[], State]) -> None:
        """Save if it is time to, or if a signal asks for it, and then stop.

        Raises:
            InterruptedJobError: a signal came; the state is saved.
        """
        if self.stop_signal is None and time.monotonic() - self.saved_at < self.every:
            return
        self.save(*state())
        if self.stop_signal is not None:
            raise InterruptedJobError(
                f"stopped by {signal.Signals(self.stop_signal).name}; the state is saved, run the same "
                "command again to go on"
            )

    def save(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Replace the state atomically."""
        from safetensors.torch import save_file

        # A clone where tensors share memory: safetensors refuses to store one buffer twice.
        whole = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        metadata = {"info": json.dumps(info)}
        write_verified(self.file, lambda temporary: save_file(whole, temporary, metadata))
        self.saved_at = time.monotonic()

    def clear(self) -> None:
        """Remove the state: the job is done."""
        shutil.rmtree(self.file.parent, ignore_errors=True)

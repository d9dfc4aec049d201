"""Requests to stop: SIGTERM and SIGINT are noted once per process, and heeded where a state can be saved."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from flp.system.errors import FLPError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO = 0.5  # seconds within which a second signal is the first one's echo: a terminal and a scheduler both send it


def end_with_parent(end: Callable[[], object] = lambda: os._exit(1)) -> None:
    """Call `end` from a thread once this process's parent is gone, however it ended; for child processes."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            end()

    threading.Thread(target=watch, daemon=True).start()


def ignore_signals() -> None:
    """For a process whose work is done: Python's own exit takes a while, in which a signal would make it a failure."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class InterruptedJobError(FLPError):
    """The scheduler asked the job to stop; its state is saved and its exit status is not zero."""


class Stop:
    """Whether this process was asked to stop, which holds for all of its jobs, including those not yet started.

    Attributes:
        signal: the number of the signal, or None.
        asked_at: when it came, by `time.monotonic`.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.asked_at = 0.0
        self._then: Callable[[], None] | None = None

    def listen(self, then: Callable[[], None] | None = None) -> None:
        """From now on, only record the first signal and call `then`; a second one stops immediately."""
        self._then = then
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self.asked_at = number, time.monotonic()
            print(f"\n{signal.Signals(number).name}: saving the state, then stopping", file=sys.stderr)
            if self._then is not None:
                self._then()
        # A shard leaves that to its parent, which kills it.
        elif time.monotonic() - self.asked_at > ECHO and multiprocessing.parent_process() is None:
            sys.exit(128 + number)

    def raise_if_asked(self) -> None:
        """To be called once the state is saved.

        Raises:
            InterruptedJobError: a signal came.
        """
        if self.signal is not None:
            name = signal.Signals(self.signal).name
            raise InterruptedJobError(f"stopped by {name}; the state is saved, run the same command again to resume")


STOP = Stop()

"""Turns: which of the shards, each in its own process, may compute now.

The processes share memory by file descriptor, and permits as bytes in a pipe: the semaphores and arrays of
`multiprocessing` need /dev/shm, which some sandboxes lack or mount read-only.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection

_SLACK = 50  # steps a shard may be ahead of the slowest


class Permits:
    """A semaphore for spawned processes: a byte read from the pipe is a permit to compute, and is written back."""

    def __init__(self, count: int) -> None:
        self._reader, self._writer = Pipe(duplex=False)
        for _ in range(count):
            self.release()

    def acquire(self) -> None:
        """Wait for a permit."""
        os.read(self._reader.fileno(), 1)

    def release(self) -> None:
        """Give a permit back."""
        os.write(self._writer.fileno(), b"\0")


class SharedNumbers:
    """Integers, initially 0, shared with spawned processes."""

    def __init__(self, count: int) -> None:
        # A connection is the kind of descriptor that can be passed to spawned processes.
        self._descriptor = Connection(os.memfd_create("flp"))
        os.ftruncate(self._descriptor.fileno(), 8 * count)
        self._map()

    def _map(self) -> None:
        self._numbers = memoryview(mmap.mmap(self._descriptor.fileno(), 0)).cast("q")

    def __getstate__(self) -> Connection:
        return self._descriptor

    def __setstate__(self, descriptor: Connection) -> None:
        self._descriptor = descriptor
        self._map()

    def __getitem__(self, index: int) -> int:
        return self._numbers[index]

    def __setitem__(self, index: int, number: int) -> None:
        self._numbers[index] = number

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)


class Turns:
    """A shard's turns: `with turns(step):` waits until it may compute.

    Args:
        index: the shard's number; shard 0 shows the progress.
        permits: as many as threads; None if all may always compute.
        steps: every shard's step.
        holders: 1 for each shard that holds a permit, so that a dead process's permit can be released.
    """

    def __init__(
        self,
        index: int = 0,
        permits: Permits | None = None,
        steps: SharedNumbers | None = None,
        holders: SharedNumbers | None = None,
    ) -> None:
        self.index, self.permits, self.steps, self.holders = index, permits, steps, holders
        self.waited = 0.0

    def clock(self) -> float:
        """A clock in seconds that stands still while waiting for a turn."""
        return time.monotonic() - self.waited

    @contextmanager
    def __call__(self, step: int) -> Iterator[None]:
        """Wait for a permit and, if far ahead, for the slowest shard."""
        if self.permits is None or self.steps is None or self.holders is None:
            yield
            return
        self.steps[self.index], began = step, time.monotonic()
        while step > min(self.steps) + _SLACK:
            time.sleep(0.002)
        self.permits.acquire()
        self.holders[self.index] = 1
        self.waited += time.monotonic() - began
        try:
            yield
        finally:
            self.holders[self.index] = 0
            self.permits.release()

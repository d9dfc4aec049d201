"""On a CPU, runs are dealt to processes of one thread each: no barrier per operation, no idle core.

Runs do not touch one another, so a job of R runs on T threads is cut into shards that train by themselves. With a
few more shards than threads they take turns, chunk by chunk, the slowest first: never more than T compute.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from types import FrameType
from typing import Any, TypeVar

from flp.errors import FLPError
from flp.resume import InterruptedJobError

T = TypeVar("T")


class Turns:
    """A shard's turns: `with turns(step):` waits until it may compute.

    Args:
        index: the shard's number; the first one speaks for all where one line is enough.
        permits: a semaphore of as many permits as threads, or None if everyone may always compute.
        steps: every shard's step, shared.
    """

    def __init__(self, index: int = 0, permits: Any = None, steps: Any = None) -> None:
        self.index, self.permits, self.steps = index, permits, steps

    @contextmanager
    def __call__(self, step: int) -> Iterator[None]:
        """Wait for a permit, and for the slowest shard if this one is far ahead."""
        if self.permits is None:
            yield
            return
        self.steps[self.index] = step
        while step > min(self.steps) + _SLACK:
            time.sleep(0.002)
        with self.permits:
            yield


Work = Callable[[list[Any], int, Turns], None]
"""Called in a process of its own with a shard's runs, its threads, and its turns."""

_SLACK = 50  # steps a shard may be ahead of the slowest
_DONE = 2**62


def deal(items: Sequence[T], threads: int) -> list[list[T]]:
    """Cut runs into at most 2·threads shards of nearly equal size, in order."""
    count = min(len(items), 2 * threads) if len(items) > threads else len(items)
    size, larger = divmod(len(items), count)
    shards, start = [], 0
    for i in range(count):
        stop = start + size + (i < larger)
        shards.append(list(items[start:stop]))
        start = stop
    return shards


def run_shards(work: Work, shards: Sequence[list[Any]], threads: int) -> None:
    """Run `work` on every shard, at most `threads` computing at a time; a single shard runs right here.

    Raises:
        FLPError: shards failed; the others finished. The message is the first one's.
        InterruptedJobError: a signal came; every shard has saved its state.
    """
    if len(shards) == 1:
        work(shards[0], threads, Turns())
        return
    context = multiprocessing.get_context("spawn")
    with _Family(context, work, shards, threads) as family:
        family.watch()


class _Family:
    """The shards' processes, and the signals passed on to them."""

    def __init__(self, context: SpawnContext, work: Work, shards: Sequence[list[Any]], threads: int) -> None:
        self.steps = context.Array("q", len(shards), lock=False)
        # Kept: its name must outlive the start of every process.
        self.permits = context.Semaphore(threads) if len(shards) > threads else None
        each = max(1, threads // len(shards))
        self.pipes, self.processes = [], []
        for index, shard in enumerate(shards):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_child, args=(work, shard, index, each, self.permits, self.steps, sender), name=f"shard {index}"
            )
            self.pipes.append(receiver)
            self.processes.append(process)
            process.start()
            sender.close()
        self.stopped: int | None = None

    def __enter__(self) -> _Family:
        self.old = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
        for process in self.processes:
            if process.is_alive():
                process.kill()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped is None:
            print(f"\n{signal.Signals(number).name}: saving the state, then stopping", file=sys.stderr)
            self.stopped = number
            for process in self.processes:
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGTERM)
        else:
            sys.exit(128 + number)

    def watch(self) -> None:
        """Wait for all; then tell what went wrong."""
        running: dict[int, SpawnProcess] = {process.sentinel: process for process in self.processes}
        while running:
            for sentinel in wait(list(running)):
                process = running.pop(sentinel)  # type: ignore[call-overload]
                process.join()
                self.steps[self.processes.index(process)] = _DONE
        if self.stopped is not None:
            raise InterruptedJobError(
                f"stopped by {signal.Signals(self.stopped).name}; the state is saved, run the same command again to "
                "go on"
            )
        problems = [self._problem(i) for i, process in enumerate(self.processes) if process.exitcode != 0]
        if problems:
            raise FLPError(problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))

    def _problem(self, index: int) -> str:
        try:
            return str(self.pipes[index].recv())
        except EOFError:
            code = self.processes[index].exitcode
            cause = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
            return f"a training process died ({cause}); is there enough memory? Finished runs are kept: run again"


def _child(work: Work, shard: list[Any], index: int, threads: int, permits: Any, steps: Any, sender: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The terminal sends Ctrl-C to everyone; the parent decides and passes on SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work(shard, threads, Turns(index, permits, steps))
    except InterruptedJobError:
        sys.exit(1)
    except FLPError as error:
        sender.send(str(error))
        sys.exit(2)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

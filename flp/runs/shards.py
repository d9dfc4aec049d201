"""On a CPU, runs are dealt to processes of one thread each: no barrier per operation, no idle core.

Runs do not touch one another, so a job of R runs on T threads is cut into shards that train by themselves. With a
few more shards than threads they take turns, chunk by chunk, the slowest first: never more than T compute.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, ForkProcess, SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, cast

from flp.params.run import Run
from flp.runs.turns import Permits, SharedNumbers, Turns
from flp.system import layout
from flp.system.errors import FLPError, user_error
from flp.system.hashing import hash_of
from flp.system.resume import load_group, save_group
from flp.system.stopping import SIGNALS, STOP, InterruptedJobError


@dataclass(frozen=True)
class Shard:
    """Runs that train together in one process.

    Attributes:
        runs: the runs.
        threads: CPU threads of the process.
        folder: where its resume state lives.
    """

    runs: list[Run]
    threads: int
    folder: Path


def plan(
    stage: str, runs: Sequence[Run], missing: Sequence[Run], keys: dict[str, str], threads: int, device: str
) -> list[Shard]:
    """Deal the missing runs to shards, and note it where their states will lie.

    Runs that began together go on together, on as many threads, whatever else has changed: with a run in a batch of
    another size, or on other threads, sums would be rounded differently.

    Args:
        stage: the stage's name.
        runs: every run of the job.
        missing: those that are not finished.
        keys: every run's key by its name.
        threads: CPU threads of the job.
        device: "cpu", or "cuda" where all of the same N train at once.
    """
    by_key = {keys[run.name]: run for run in runs}
    left = {keys[run.name]: run for run in missing}
    shards: list[Shard] = []
    taken: set[str] = set()
    for folder in sorted(layout.resume_folder(stage, "").glob(f"*-{device}")):
        group, own_threads = load_group(folder) or ([], 1)
        if set(group) & left.keys() and set(group) <= by_key.keys() - taken:
            shards.append(Shard([by_key[key] for key in group], own_threads, folder))
            taken |= set(group)
    rest = [run for key, run in left.items() if key not in taken]
    # On a CPU shards train at once; on a GPU one after the other.
    dealt = deal(rest, threads) if device == "cpu" else _alike(rest)
    at_once = len(shards) + len(dealt) if device == "cpu" else 1
    each = max(1, threads // max(1, at_once))
    for part in dealt:
        group = [keys[run.name] for run in part]
        shards.append(Shard(part, each, layout.resume_folder(stage, f"{hash_of(group)}-{device}")))
        save_group(shards[-1].folder, group, each)
    return shards


Work = Callable[[Shard, Turns], None]
"""Called in a process of its own with a shard and its turns."""

_DONE = 2**62


def deal(runs: Sequence[Run], threads: int) -> list[list[Run]]:
    """Cut runs into at most 2·threads shards of like cost; one thread needs no second shard.

    A shard's runs all score as many candidates as the one that wants most, so those that want alike stay together.
    """
    shards = [sorted(runs, key=_candidates)] if runs else []
    while len(shards) < min(len(runs), 2 * threads if threads > 1 else 1):
        shard = max((shard for shard in shards if len(shard) > 1), key=_cost)
        cuts = [[shard[:i], shard[i:]] for i in reversed(range(1, len(shard)))]
        place = shards.index(shard)
        shards[place : place + 1] = min(cuts, key=lambda parts: (sum(map(_cost, parts)), max(map(_cost, parts))))
    return shards


def _alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs by their number of candidates, for the reason that `deal` has."""
    return [list(group) for _, group in groupby(sorted(runs, key=_candidates), _candidates)]


def _candidates(run: Run) -> int:
    return run.candidates


def _cost(shard: Sequence[Run]) -> int:
    """An update's time, in that of a candidate: the rest of a run's takes about eight times as long (FLP, 256×2)."""
    return len(shard) * (8 + max(map(_candidates, shard)))


def run_shards(work: Work, shards: Sequence[Shard], threads: int, *, together: bool = True) -> None:
    """Run `work` on every shard, at most `threads` computing at a time; a single shard runs right here.

    Args:
        work: what to do with a shard.
        shards: the shards.
        threads: CPU threads of the job.
        together: each in a process of its own; otherwise one after the other in this one (on a GPU).

    Raises:
        FLPError: shards failed; the others finished. The message is all of theirs.
        InterruptedJobError: a signal came; every shard has saved its state.
    """
    if together and len(shards) > 1:
        with _Family(_context(), work, shards, threads) as family:
            problems = family.watch()
    else:
        problems = []
        for shard in shards:
            try:
                work(shard, Turns())
            except InterruptedJobError:
                raise
            except FLPError as error:
                problems.append(str(error))
            _release_memory()
    if problems:
        raise FLPError("; ".join(dict.fromkeys(problems)))


def _context() -> ForkContext | SpawnContext:
    """How shards start: as copies of this process, which has loaded PyTorch already, or anew where copies could hang.

    A copy has one thread, and whatever another held in that moment stays locked in it for ever.
    """
    try:
        is_alone = len([*Path("/proc/self/task").iterdir()]) == 1
    except OSError:  # not Linux
        is_alone = False
    return multiprocessing.get_context("fork") if is_alone else multiprocessing.get_context("spawn")


def _release_memory() -> None:
    """Free what the last shard had on the GPU: its parts refer to one another, so that counting references does not."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class _Family:
    """The shards' processes, and the signals passed on to them."""

    def __init__(self, context: ForkContext | SpawnContext, work: Work, shards: Sequence[Shard], threads: int) -> None:
        self.context, self.work, self.shards = context, work, shards
        self.steps, self.holders = SharedNumbers(len(shards)), SharedNumbers(len(shards))
        self.permits = Permits(threads) if len(shards) > threads else None
        self.pipes: list[Connection[Any, Any]] = []
        self.processes: list[ForkProcess | SpawnProcess] = []
        self.parent = os.getpid()

    def __enter__(self) -> _Family:
        """Start them, already listening: a signal that comes in between is for all of them too."""
        self.old = {number: signal.getsignal(number) for number in SIGNALS}
        STOP.listen(self._pass_on)
        try:
            for index, shard in enumerate(self.shards):
                self._start(index, shard)
        except BaseException:
            self.__exit__()
            raise
        if STOP.signal is not None:  # asked before there was anyone to tell
            self._pass_on()
        return self

    def _start(self, index: int, shard: Shard) -> None:
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(
            target=_child,
            args=(self.work, shard, Turns(index, self.permits, self.steps, self.holders), sender),
            name=f"shard {index}",
        )
        process.start()
        self.pipes.append(receiver)
        self.processes.append(process)
        sender.close()

    def __exit__(self, *error: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
        for process in self.processes:
            if process.is_alive():
                process.kill()

    def _pass_on(self) -> None:
        if os.getpid() != self.parent:  # a copy that does not listen by itself yet
            return
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    def watch(self) -> list[str]:
        """Wait for all; return what went wrong."""
        running: dict[int, ForkProcess | SpawnProcess] = {process.sentinel: process for process in self.processes}
        while running:
            for sentinel in wait(list(running)):
                process = running.pop(cast(int, sentinel))
                process.join()
                index = self.processes.index(process)
                self.steps[index] = _DONE
                if self.permits is not None and self.holders[index]:
                    self.permits.release()
        STOP.raise_if_asked()
        return [self._problem(i) for i, process in enumerate(self.processes) if process.exitcode != 0]

    def _problem(self, index: int) -> str:
        try:
            return str(self.pipes[index].recv())
        except EOFError:
            code = self.processes[index].exitcode
            cause = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
            return f"a training process died ({cause}); is there enough memory? Finished runs are kept: run again"


def _child(work: Work, shard: Shard, turns: Turns, sender: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The terminal sends Ctrl-C to everyone; the parent decides and passes on SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a copy has its parent's; until there is a state it just ends
    if STOP.signal is not None:  # asked as a copy, or its parent before
        sys.exit(1)
    try:
        work(shard, turns)
    except InterruptedJobError:
        sys.exit(1)
    except FLPError as error:
        sender.send(str(error))
        sys.exit(2)
    except OSError as error:
        if (told := user_error(error)) is None:
            raise
        sender.send(str(told))
        sys.exit(2)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

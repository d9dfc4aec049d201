"""Shards: on a CPU, runs are split among single-threaded processes, with no barrier per operation and no idle core.

Runs are independent, so a job of R runs on T threads is cut into shards that train on their own. If there are more
shards than threads, they take turns, chunk by chunk, the slowest first: never more than T compute at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, ForkProcess, SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, cast

from flp.learner.devices import release_memory
from flp.params.run import Run
from flp.runs.turns import Permits, SharedNumbers, Turns
from flp.system import layout
from flp.system.errors import FLPError, user_error
from flp.system.hashing import hash_of
from flp.system.resume import load_group, save_group
from flp.system.stopping import SIGNALS, STOP, InterruptedJobError, end_with_parent


@dataclass(frozen=True)
class Shard:
    """Runs that train together in one process.

    Attributes:
        runs: the runs.
        threads: CPU threads of the process.
        folder: folder of its checkpoint.
    """

    runs: list[Run]
    threads: int
    folder: Path


def plan(
    stage: str, runs: Sequence[Run], missing: Sequence[Run], keys: dict[str, str], threads: int, device: str
) -> list[Shard]:
    """Divide the missing runs into shards, and record the division next to their checkpoints.

    Runs that started together continue together, on as many threads, whatever else has changed: in a batch of another
    size, or on another number of threads, sums would be rounded differently.

    Args:
        stage: the stage's name.
        runs: every run of the job.
        missing: the unfinished ones.
        keys: every run's key by its name.
        threads: CPU threads of the job.
        device: "cpu", or "cuda", where all runs with the same N train in one batch.
    """
    by_key = {keys[run.name]: run for run in runs}
    unassigned = {keys[run.name]: run for run in missing}
    shards: list[Shard] = []
    taken: set[str] = set()
    for folder in sorted(layout.resume_folder(stage, "").glob(f"*-{device}")):
        group, own_threads = load_group(folder) or ([], 1)
        if set(group) & unassigned.keys() and set(group) <= by_key.keys() - taken:
            shards.append(Shard([by_key[key] for key in group], own_threads, folder))
            taken |= set(group)
    rest = [run for key, run in unassigned.items() if key not in taken]
    # On a CPU the shards train concurrently, on a GPU one after the other.
    dealt = deal(rest, threads) if device == "cpu" else _by_candidates(rest)
    at_once = len(shards) + len(dealt) if device == "cpu" else 1
    each = max(1, threads // max(1, at_once))
    for part in dealt:
        group = [keys[run.name] for run in part]
        shards.append(Shard(part, each, layout.resume_folder(stage, f"{hash_of(group)}-{device}")))
        save_group(shards[-1].folder, group, each)
    return shards


def begun(stage: str, keys: Iterable[str]) -> Iterator[Path]:
    """The folders of this stage's shards that were begun with any of the runs with these keys."""
    wanted = set(keys)
    for folder in sorted(layout.resume_folder(stage, "").glob("*")):
        if (group := load_group(folder)) and wanted & set(group[0]):
            yield folder


TrainShard = Callable[[Shard, Turns], None]
"""Trains a shard, taking turns; called in the shard's own process."""

_DONE = 2**62  # the step of a finished shard, which nobody waits for


def deal(runs: Sequence[Run], threads: int) -> list[list[Run]]:
    """Cut runs into at most 2·threads shards of similar cost, or into one shard for a single thread.

    All runs of a shard score as many candidates as the largest N among them, so runs with similar N stay together.
    """
    shards = [sorted(runs, key=_candidates)] if runs else []
    while len(shards) < min(len(runs), 2 * threads if threads > 1 else 1):
        shard = max((shard for shard in shards if len(shard) > 1), key=_cost)
        cuts = [[shard[:i], shard[i:]] for i in reversed(range(1, len(shard)))]
        place = shards.index(shard)
        shards[place : place + 1] = min(cuts, key=lambda parts: (sum(map(_cost, parts)), max(map(_cost, parts))))
    return shards


def _by_candidates(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs grouped by their number of candidates, for the same reason as in `deal`."""
    return [list(group) for _, group in groupby(sorted(runs, key=_candidates), _candidates)]


def _candidates(run: Run) -> int:
    return run.candidates


def _cost(shard: Sequence[Run]) -> int:
    """Time of an update, in units of one candidate's; the rest of a run's update takes about eight (FLP, 256×2)."""
    return len(shard) * (8 + max(map(_candidates, shard)))


def run_shards(train: TrainShard, shards: Sequence[Shard], threads: int, *, together: bool = True) -> None:
    """Train every shard, at most `threads` computing at a time; a single shard trains in this process.

    Args:
        train: trains a shard.
        shards: the shards.
        threads: CPU threads of the job.
        together: each in its own process; otherwise one after the other in this process (on a GPU).

    Raises:
        FLPError: shards failed; the others finished. The message joins those of the failed ones.
        InterruptedJobError: a signal came; every shard has saved its state.
    """
    if together and len(shards) > 1:
        with _Family(_context(), train, shards, threads) as family:
            problems = family.watch()
    else:
        problems = []
        for shard in shards:
            try:
                train(shard, Turns())
            except InterruptedJobError:
                raise
            except FLPError as error:
                problems.append(str(error))
            release_memory()
    if problems:
        raise FLPError("; ".join(dict.fromkeys(problems)))


def _context() -> ForkContext | SpawnContext:
    """How shards start: forked, as PyTorch is already loaded, or spawned if this process has other threads.

    A forked process has one thread only; a lock that another thread held would stay locked in it for ever.
    """
    try:
        is_alone = len(list(Path("/proc/self/task").iterdir())) == 1
    except OSError:  # not Linux
        is_alone = False
    return multiprocessing.get_context("fork") if is_alone else multiprocessing.get_context("spawn")


class _Family:
    """The shards' processes, to which signals are passed on."""

    def __init__(
        self, context: ForkContext | SpawnContext, train: TrainShard, shards: Sequence[Shard], threads: int
    ) -> None:
        self.context, self.train, self.shards = context, train, shards
        self.steps, self.holders = SharedNumbers(len(shards)), SharedNumbers(len(shards))
        self.permits = Permits(threads) if len(shards) > threads else None
        self.pipes: list[Connection[Any, Any]] = []
        self.processes: list[ForkProcess | SpawnProcess] = []
        self.parent = os.getpid()

    def __enter__(self) -> _Family:
        """Start the processes while already listening for signals, so that one arriving now reaches them all."""
        self.old = {number: signal.getsignal(number) for number in SIGNALS}
        STOP.listen(self._pass_on)
        try:
            for index, shard in enumerate(self.shards):
                self._start(index, shard)
        except BaseException:
            self.__exit__()
            raise
        if STOP.signal is not None:  # a signal came before the processes started
            self._pass_on()
        return self

    def _start(self, index: int, shard: Shard) -> None:
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(
            target=_child,
            args=(self.train, shard, Turns(index, self.permits, self.steps, self.holders), sender),
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
        if os.getpid() != self.parent:  # a forked process that has not yet set its own handlers
            return
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    def watch(self) -> list[str]:
        """Wait for all processes; return the failures' messages."""
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


def _child(train: TrainShard, shard: Shard, turns: Turns, sender: Any) -> None:
    end_with_parent()
    # The terminal sends Ctrl-C to every process; the parent decides, and passes on SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the parent's: until there is a state to save, just end
    if STOP.signal is not None:  # a signal came before or during the fork
        sys.exit(1)
    try:
        train(shard, turns)
    except InterruptedJobError:
        sys.exit(1)
    except FLPError as error:
        sender.send(str(error))
        sys.exit(2)
    except OSError as error:
        if (message := user_error(error)) is None:
            raise
        sender.send(str(message))
        sys.exit(2)

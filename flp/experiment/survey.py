"""What of an experiment is measured on a machine, the weightiest first, until the budget is spent.

An update is timed in each setting. What needs the compiler goes to a process of its own, which can be ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from flp.data.environments import EnvironmentSpec, OGBenchSpec
from flp.experiment.forecast import START, Forecast, dealt
from flp.experiment.keys import Keys
from flp.experiment.workload import MOST_THREADS, flow_threads, known_spec
from flp.learner.devices import set_up
from flp.params.loading import Params
from flp.supervision.foresight import has_bfloat16
from flp.supervision.speeds import COMPILE, CROWDING, Book, Piece, Pieces
from flp.supervision.stopwatch import Stopwatch
from flp.system.errors import FLPError
from flp.system.stopping import end_with_parent

SHARE = 0.5  # of the budget, for all that needs no compiler
Found = dict[Piece, float]


@dataclass(frozen=True)
class Task:
    """Something to measure: what it is called, what it is above all, and how it is done in so many seconds."""

    name: str
    piece: Piece
    work: Callable[[float], Found]


class Survey:
    """Measures the pieces of an experiment.

    Args:
        keys: the experiment.
        budget: seconds that it may take.
        cores: CPU cores that the experiment will have.
        device: where learning happens.

    Attributes:
        book: what was measured.
        left: what there was no time for.
        busy: how many times longer all took beside the programs that were at work meanwhile.
        refusal: why nothing could be compiled, if so.
    """

    def __init__(self, keys: Keys, budget: float, cores: int, device: torch.device) -> None:
        self.keys, self.budget, self.cores, self.device = keys, budget, cores, device
        self.book, self.left, self.refusal, self.start = Book(), list[str](), "", time.monotonic()
        self.busy = 1.0
        usual = Forecast(keys, Book(), cores)

        def weight(dataset: str, agent: str = "") -> float:
            return sum(usual.seconds[j.name] for j in usual.jobs if j.dataset == dataset and agent in ("", j.agent))

        specs = {name: spec for name in keys.params.datasets if (spec := known_spec(keys.params, name))}
        self.specs = {name: specs[name] for name in sorted(specs, key=lambda name: -weight(name))}
        self.agents: dict[str, list[str]] = {
            name: sorted({a for d, a, _ in keys.jobs() if d == name}, key=lambda a: (-weight(name, a), a))
            for name in self.specs
        }

    def run(self) -> Book:
        """Measure until the budget is spent."""
        began = time.monotonic(), time.process_time()
        tasks = list({task.piece: task for task in self._quick()}.values())
        slice_ = min(1.0, max(0.01, SHARE * self.budget / (3 * max(1, len(tasks)))))
        for task in tasks:
            self._do(task, slice_, 0.5 + 2 * slice_ + 3 * self.book.seconds(task.piece))
        if not self._on_gpu:
            self.busy = max(1.0, (time.monotonic() - began[0]) / (time.process_time() - began[1] or 1.0))
        for task in self._compiled():
            if not self.refusal:
                compilation = replace(task.piece, kind="compile", usual=COMPILE)
                # A machine compiles as slowly as it updates, until it is known better.
                pace = self.book.pace("update") if self.book.how(compilation) == "usual" else 1.0
                self._do(task, slice_, self.busy * (2 * START + pace * self.book.seconds(compilation)))
        return self.book

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.start

    def _do(self, task: Task, slice_: float, guess: float) -> None:
        if self.spent + guess > self.budget:
            self.left.append(task.name)
            return
        print(f"{self.spent:4.0f} s  {task.name} …", file=sys.stderr, flush=True)
        found = task.work(slice_)
        self.book.measured.update(found)
        if not found and not self.refusal:
            self.left.append(task.name)

    def _quick(self) -> Iterator[Task]:
        """All that needs no compiler: the weightiest dataset's pieces, then what differs on the others."""
        for dataset in self.specs:
            for agent in self.agents[dataset]:
                yield self._update(dataset, agent, self._of(dataset, agent).offline.precision)
            yield from self._shared(dataset)
            if dataset == next(iter(self.specs)):
                yield from self._choices(dataset)

    def _choices(self, dataset: str) -> Iterator[Task]:
        """Updates in other precisions, and of several runs at once: on a GPU, where it matters, in each."""
        for precision in self._precisions():
            yield from (self._update(dataset, agent, precision) for agent in self.agents[dataset])
        for agent in self.agents[dataset]:
            own = self._of(dataset, agent).offline.precision
            for runs in self._stacks(dataset, agent):
                for precision in dict.fromkeys([own, *(self._precisions() if self._on_gpu else [])]):
                    yield self._update(dataset, agent, precision, runs)

    def _shared(self, dataset: str) -> Iterator[Task]:
        """The flow, the environment, the choice of actions and generated data."""
        spec, params = self.specs[dataset], self.keys.dataset_params(dataset)
        pieces, threads = Pieces(spec, params), min(MOST_THREADS, self.cores)
        at_once = min(flow_threads(params), self.cores)
        flow, data = pieces.flow(), pieces.generation()
        yield Task(f"flow of {dataset}", flow, lambda s: {flow: self._watch(spec, s).flow(params, at_once)})
        yield Task(f"inversion of {dataset}", pieces.inversion(), partial(self._inversion, pieces, threads))
        if spec.simulated:
            yield Task(f"environment of {dataset}", pieces.step(), partial(self._steps, pieces))
            for agent in self.agents[dataset]:
                own = Pieces(spec, self._of(dataset, agent))
                ways = [(1, params.evaluation.episodes)]
                ways += [(1, 1)] if self.keys.learns_online(dataset, agent) else []
                ways += [(max(self._stacks(dataset, agent)), params.evaluation.episodes)] if self._on_gpu else []
                for runs, episodes in ways:
                    work = partial(self._act, own, agent, runs, episodes)
                    yield Task(f"actions of {agent}, {runs} × {episodes}", own.act(agent, runs, episodes), work)
        if isinstance(spec, OGBenchSpec) and params.download.source == "generate":
            noise = spec.noise if params.download.noise is None else params.download.noise
            yield Task(f"data of {dataset}", data, lambda s: {data: self._watch(spec, s).generation(params, noise)})

    def _compiled(self) -> Iterator[Task]:
        """Compiled updates of the weightiest dataset: in the precision that is quickest without, then the slowest."""
        dataset = next(iter(self.specs))
        for which in (min, max):
            for agent in self.agents[dataset]:
                pieces = Pieces(self.specs[dataset], self._of(dataset, agent))
                precisions = {pieces.params.offline.precision, *self._precisions()}
                times = {self.book.seconds(pieces.update(agent, 1, name)): name for name in precisions}
                name = times[which(times)]
                piece = pieces.update(agent, 1, f"{name} compiled")
                if piece not in self.book.measured:
                    yield Task(f"{agent}, {name} compiled", piece, partial(self._compile, pieces, agent, name))

    def _update(self, dataset: str, agent: str, precision: str, runs: int = 1) -> Task:
        pieces = Pieces(self.specs[dataset], self._of(dataset, agent))
        piece = pieces.update(agent, runs, precision)

        def work(slice_: float) -> Found:
            watch = self._watch(pieces.spec, slice_)
            return {piece: watch.update(pieces.params, agent, precision, compile_=False, runs=runs)[0]}

        return Task(f"{agent}, {precision}" + f", {runs} runs at once" * (runs > 1), piece, work)

    def _compile(self, pieces: Pieces, agent: str, precision: str, slice_: float) -> Found:
        """Seconds of a compiled update and of its compilation; nothing where it fails, or takes too long."""
        context = get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        args = (sender, pieces, agent, precision, str(self.device), slice_)
        process = context.Process(target=_compile_apart, args=args, daemon=True)
        process.start()
        sender.close()
        try:
            told = receiver.recv() if receiver.poll(max(0.0, self.budget - self.spent)) else None
        except EOFError:
            told = "the process died"
        finally:
            process.kill()
            _end_group(process.pid)
            process.join()
        if isinstance(told, str):
            self.refusal = told
        if not isinstance(told, tuple):
            return {}
        setting = f"{precision} compiled"
        return {pieces.update(agent, 1, setting): told[0], pieces.compilation(agent, setting): told[1]}

    def _inversion(self, pieces: Pieces, threads: int, slice_: float) -> Found:
        watch = self._watch(pieces.spec, slice_)
        alone = watch.inversion(pieces.params, 1)
        if self._on_gpu or threads == 1 or Piece(CROWDING) in self.book.measured:
            return {pieces.inversion(): alone}
        together = watch.inversion(pieces.params, threads)
        return {pieces.inversion(): alone, Piece(CROWDING): together / alone}

    def _steps(self, pieces: Pieces, slice_: float) -> Found:
        step, reset = self._watch(pieces.spec, slice_).steps(pieces.params)
        return {pieces.step(): step, pieces.reset(): reset}

    def _act(self, pieces: Pieces, agent: str, runs: int, episodes: int, slice_: float) -> Found:
        watch = self._watch(pieces.spec, slice_)
        return {pieces.act(agent, runs, episodes): watch.act(pieces.params, agent, runs, episodes)}

    def _watch(self, spec: EnvironmentSpec, slice_: float) -> Stopwatch:
        return Stopwatch(spec, self.device, slice_)

    def _of(self, dataset: str, agent: str) -> Params:
        return self.keys.agent_params(dataset, agent)

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def _precisions(self) -> list[str]:
        """Those that this machine computes in itself."""
        if self._on_gpu:
            recent = torch.cuda.get_device_capability(self.device) >= (8, 0)
            return ["float32", "tf32", "bfloat16"] if recent else ["float32"]
        return ["float32", "bfloat16"] if has_bfloat16() else ["float32"]

    def _stacks(self, dataset: str, agent: str) -> list[int]:
        """Runs that are trained in one process: on a GPU all of a job's, and of one of eight seeds."""
        runs = max(len(self.keys.runs(d, a, s)) for d, a, s in self.keys.jobs() if (d, a) == (dataset, agent))
        if not self._on_gpu:
            return [ceil(runs / dealt(runs, min(runs, self.cores, MOST_THREADS)))]
        seeds = self._of(dataset, agent).offline.seeds_per_job
        return [runs, max(runs, runs * min(8, len(self.keys.params.seeds)) // seeds)]


def _compile_apart(sender: Connection, pieces: Pieces, agent: str, precision: str, device: str, slice_: float) -> None:
    """Time a compiled update and send what came of it; the compiler's own processes end with this one's group."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(lambda: os.killpg(0, signal.SIGKILL))
    watch = Stopwatch(pieces.spec, set_up(1, device, precision), slice_)
    told: Any
    try:
        told = watch.update(pieces.params, agent, precision, compile_=True, runs=1)
    except FLPError as error:
        told = str(error)
    sender.send(told)


def _end_group(leader: int | None) -> None:
    """End what a process that led a group has left."""
    if leader is not None:
        try:
            os.killpg(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return

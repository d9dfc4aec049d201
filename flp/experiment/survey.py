"""Which of an experiment's operations are measured on a machine: the costliest first, until the budget is spent.

An update is timed in each setting. Whatever needs the compiler runs in a process of its own, which can be killed.
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

import torch

from flp.data.environments import EnvironmentSpec, OGBenchSpec
from flp.experiment.forecast import START, Forecast, process_count
from flp.experiment.keys import Keys
from flp.experiment.workload import MOST_THREADS, flow_threads, known_spec
from flp.learner.devices import set_up
from flp.params.loading import Params
from flp.supervision.costs import CostModel
from flp.supervision.foresight import has_bfloat16
from flp.supervision.operations import COMPILE_SECONDS, Operation, Operations
from flp.supervision.stopwatch import Stopwatch
from flp.system.errors import FLPError
from flp.system.stopping import end_with_parent

SHARE = 0.5  # of the budget, for everything that needs no compiler
Measured = dict[Operation, float]


@dataclass(frozen=True)
class Measurement:
    """Something to measure: its name, the operation it is mainly about, and the work, given its seconds."""

    name: str
    operation: Operation
    work: Callable[[float], Measured]


class Survey:
    """Measures the operations of an experiment.

    Args:
        keys: the experiment.
        budget: seconds that it may take.
        cores: CPU cores that the experiment will have.
        device: the training device.

    Attributes:
        costs: what was measured.
        skipped: names of measurements that there was no time for.
        busy: how many times longer everything took because of other programs on the machine.
        refusal: why nothing could be compiled; empty where something could, or nothing was tried.
    """

    def __init__(self, keys: Keys, budget: float, cores: int, device: torch.device) -> None:
        self.keys, self.budget, self.cores, self.device = keys, budget, cores, device
        self.costs, self.skipped, self.refusal, self.start = CostModel(), list[str](), "", time.monotonic()
        self.busy = 1.0
        by_default = Forecast(keys, CostModel(), cores)

        def weight(dataset: str, agent: str = "") -> float:
            jobs = (job for job in by_default.jobs if job.dataset == dataset and agent in ("", job.agent))
            return sum(by_default.seconds[job.name] for job in jobs)

        specs = {name: spec for name in keys.params.datasets if (spec := known_spec(keys.params, name))}
        self.specs = {name: specs[name] for name in sorted(specs, key=lambda name: -weight(name))}
        self.agents: dict[str, list[str]] = {
            name: sorted(
                {job.agent for job in keys.jobs() if job.dataset == name},
                key=lambda agent: (-weight(name, agent), agent),
            )
            for name in self.specs
        }

    def run(self) -> CostModel:
        """Measure until the budget is spent."""
        began = time.monotonic(), time.process_time()
        tasks = list({task.operation: task for task in self._quick()}.values())
        slice_ = min(1.0, max(0.01, SHARE * self.budget / (3 * max(1, len(tasks)))))
        for task in tasks:
            self._do(task, slice_, 0.5 + 2 * slice_ + 3 * self.costs.seconds(task.operation))
        if not self._on_gpu:
            self.busy = max(1.0, (time.monotonic() - began[0]) / (time.process_time() - began[1] or 1.0))
        for task in self._compiled():
            if not self.refusal:
                compilation = replace(task.operation, kind="compile", default=COMPILE_SECONDS)
                # Until a compilation was timed, the machine is taken to be as slow at it as at updates.
                slowdown = self.costs.slowdown("update") if self.costs.source(compilation) == "default" else 1.0
                self._do(task, slice_, self.busy * (2 * START + slowdown * self.costs.seconds(compilation)))
        return self.costs

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.start

    def _do(self, task: Measurement, slice_: float, expected: float) -> None:
        if self.spent + expected > self.budget:
            self.skipped.append(task.name)
            return
        print(f"{self.spent:4.0f} s  {task.name} …", file=sys.stderr, flush=True)
        measured = task.work(slice_)
        self.costs.measured.update(measured)
        if not measured and not self.refusal:
            self.skipped.append(task.name)

    def _quick(self) -> Iterator[Measurement]:
        """Everything that needs no compiler: the costliest dataset's operations, then what differs on the others."""
        for dataset in self.specs:
            for agent in self.agents[dataset]:
                precision = self._agent_params(dataset, agent).offline.precision
                yield self._update(dataset, agent, precision)
                if self.keys.learns_online(dataset, agent):  # the same, where it chooses no other way then
                    yield self._update(dataset, agent, precision, fine_tuning=True)
            yield from self._shared(dataset)
            if dataset == next(iter(self.specs)):
                yield from self._choices(dataset)

    def _choices(self, dataset: str) -> Iterator[Measurement]:
        """Updates in other precisions, and of several runs at once; on a GPU, where it matters, in each precision."""
        for precision in self._precisions():
            yield from (self._update(dataset, agent, precision) for agent in self.agents[dataset])
        for agent in self.agents[dataset]:
            own = self._agent_params(dataset, agent).offline.precision
            for runs in self._stacks(dataset, agent):
                for precision in dict.fromkeys([own, *(self._precisions() if self._on_gpu else [])]):
                    yield self._update(dataset, agent, precision, runs)

    def _shared(self, dataset: str) -> Iterator[Measurement]:
        """The flow, the environment, the choice of actions and generated data."""
        spec, params = self.specs[dataset], self.keys.dataset_params(dataset)
        operations, threads = Operations(spec, params), min(MOST_THREADS, self.cores)
        at_once = min(flow_threads(params), self.cores)
        flow, data = operations.flow(), operations.generation()
        yield Measurement(f"flow of {dataset}", flow, lambda s: {flow: self._watch(spec, s).flow(params, at_once)})
        yield Measurement(
            f"inversion of {dataset}", operations.inversion(), partial(self._inversion, operations, threads)
        )
        if spec.simulated:
            yield Measurement(f"environment of {dataset}", operations.step(), partial(self._steps, operations))
            for agent in self.agents[dataset]:
                own = Operations(spec, self._agent_params(dataset, agent))
                ways = [(1, params.evaluation.episodes)]
                ways += [(1, 1)] if self.keys.learns_online(dataset, agent) else []
                ways += [(max(self._stacks(dataset, agent)), params.evaluation.episodes)] if self._on_gpu else []
                for runs, episodes in ways:
                    work = partial(self._act, own, agent, runs, episodes)
                    yield Measurement(f"actions of {agent}, {runs} × {episodes}", own.act(agent, runs, episodes), work)
        if isinstance(spec, OGBenchSpec) and params.download.source == "generate":
            noise = spec.noise if params.download.noise is None else params.download.noise
            yield Measurement(
                f"data of {dataset}", data, lambda s: {data: self._watch(spec, s).generation(params, noise)}
            )

    def _compiled(self) -> Iterator[Measurement]:
        """Compiled updates on the costliest dataset: in the precision fastest without compilation, then the slowest."""
        dataset = next(iter(self.specs))
        for which in (min, max):
            for agent in self.agents[dataset]:
                operations = Operations(self.specs[dataset], self._agent_params(dataset, agent))
                precisions = {operations.params.offline.precision, *self._precisions()}
                times = {self.costs.seconds(operations.update(agent, 1, name)): name for name in precisions}
                name = times[which(times)]
                operation = operations.update(agent, 1, f"{name} compiled")
                if operation not in self.costs.measured:
                    yield Measurement(
                        f"{agent}, {name} compiled", operation, partial(self._compile, operations, agent, name)
                    )

    def _update(
        self, dataset: str, agent: str, precision: str, runs: int = 1, *, fine_tuning: bool = False
    ) -> Measurement:
        params = self._agent_params(dataset, agent)
        operations = Operations(self.specs[dataset], params.fine_tuning(agent) if fine_tuning else params)
        operation = operations.update(agent, runs, precision)

        def work(slice_: float) -> Measured:
            watch = self._watch(operations.spec, slice_)
            return {operation: watch.update(operations.params, agent, precision, compile_=False, runs=runs)[0]}

        name = f"{agent}, {precision}"
        return Measurement(name if runs == 1 else f"{name}, {runs} runs at once", operation, work)

    def _compile(self, operations: Operations, agent: str, precision: str, slice_: float) -> Measured:
        """Seconds of a compiled update and of its compilation; empty where it fails or takes too long."""
        context = get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        args = (sender, operations, agent, precision, str(self.device), slice_)
        process = context.Process(target=_compile_apart, args=args, daemon=True)
        process.start()
        sender.close()
        try:
            result = receiver.recv() if receiver.poll(max(0.0, self.budget - self.spent)) else None
        except EOFError:
            result = "the process died"
        finally:
            process.kill()
            _end_group(process.pid)
            process.join()
        if isinstance(result, str):
            self.refusal = result
        if not isinstance(result, tuple):
            return {}
        setting, (update, compilation) = f"{precision} compiled", result
        return {operations.update(agent, 1, setting): update, operations.compilation(agent, setting): compilation}

    def _inversion(self, operations: Operations, threads: int, slice_: float) -> Measured:
        watch = self._watch(operations.spec, slice_)
        alone = watch.inversion(operations.params, 1)
        if not self._on_gpu and threads > 1 and self.costs.contention is None:
            self.costs.contention = max(1.0, watch.inversion(operations.params, threads) / alone)
        return {operations.inversion(): alone}

    def _steps(self, operations: Operations, slice_: float) -> Measured:
        step, reset = self._watch(operations.spec, slice_).steps(operations.params)
        return {operations.step(): step, operations.reset(): reset}

    def _act(self, operations: Operations, agent: str, runs: int, episodes: int, slice_: float) -> Measured:
        watch = self._watch(operations.spec, slice_)
        return {operations.act(agent, runs, episodes): watch.act(operations.params, agent, runs, episodes)}

    def _watch(self, spec: EnvironmentSpec, slice_: float) -> Stopwatch:
        return Stopwatch(spec, self.device, slice_)

    def _agent_params(self, dataset: str, agent: str) -> Params:
        return self.keys.agent_params(dataset, agent)

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def _precisions(self) -> list[str]:
        """Those that this machine has arithmetic for."""
        if self._on_gpu:
            recent = torch.cuda.get_device_capability(self.device) >= (8, 0)
            return ["float32", "tf32", "bfloat16"] if recent else ["float32"]
        return ["float32", "bfloat16"] if has_bfloat16() else ["float32"]

    def _stacks(self, dataset: str, agent: str) -> list[int]:
        """Runs that train in one process: on a GPU all of a job's, and those of a job of eight seeds."""
        jobs = (job for job in self.keys.jobs() if (job.dataset, job.agent) == (dataset, agent))
        runs = max(len(self.keys.runs(*job)) for job in jobs)
        if not self._on_gpu:
            return [ceil(runs / process_count(runs, min(runs, self.cores, MOST_THREADS)))]
        seeds = self._agent_params(dataset, agent).offline.seeds_per_job
        return [runs, max(runs, runs * min(8, len(self.keys.params.seeds)) // seeds)]


def _compile_apart(
    sender: Connection, operations: Operations, agent: str, precision: str, device: str, slice_: float
) -> None:
    """Time a compiled update and send its seconds, or why it failed; the compiler's processes end with this group."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(lambda: os.killpg(0, signal.SIGKILL))
    watch = Stopwatch(operations.spec, set_up(1, device, precision), slice_)
    result: tuple[float, float] | str
    try:
        result = watch.update(operations.params, agent, precision, compile_=True, runs=1)
    except FLPError as error:
        result = str(error)
    sender.send(result)


def _end_group(leader: int | None) -> None:
    """Kill what is left of a process's group."""
    if leader is not None:
        try:
            os.killpg(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return

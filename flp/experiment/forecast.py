"""How long an experiment will take: its work (`workload`) times the cost of each operation, scheduled on the cores.

The times of finished runs come before measured costs, and those before the costs on a typical core.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cached_property
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Any

from flp.experiment.graph import ON_REQUEST, graph
from flp.experiment.keys import Keys
from flp.experiment.workload import PlannedJob, known_spec, planned_jobs
from flp.params.loading import Params
from flp.params.sections import FlowSettings, OfflineSettings
from flp.supervision.costs import CostModel, load_costs
from flp.supervision.operations import Operation, Operations
from flp.system import layout
from flp.system.artifacts import read_entries
from flp.system.units import counted, duration

START = 5.0  # processor seconds of a process's imports
_REPORT = 10.0, 0.1  # seconds of the page, and for each run on it
_TESTS = 0.07  # time of a flow's quality tests relative to its training
TRAINS = ("offline_train", "online_finetune")
_ON_GPU = {"pretrain_flow", "invert_to_latent", *TRAINS}


class Forecast:
    """The expected times of an experiment.

    Args:
        keys: the experiment.
        costs: what is known of the operations' times.
        cores: CPU cores.
        gpu: whether training happens on a GPU, one job at a time.
        recorded: use the times of finished runs of the same sizes and settings.
        done: names of jobs that need not run.

    Attributes:
        jobs: the jobs of the experiment, without those that are done.
        seconds: expected seconds of each, by its name.
        sources: how often each source of a time was used: recorded, measured, estimated or default.
        unknown: the names of jobs that cannot be estimated before their data are there.
    """

    def __init__(
        self,
        keys: Keys,
        costs: CostModel,
        cores: int,
        *,
        gpu: bool = False,
        recorded: bool = False,
        done: Collection[str] = (),
    ) -> None:
        self.keys, self.costs, self.cores, self.gpu, self.recorded = keys, costs, cores, gpu, recorded
        self.jobs = [job for job in planned_jobs(keys) if job.name not in done]
        self.sources: Counter[str] = Counter()
        self.unknown: list[str] = []
        self.seconds = {job.name: self._seconds(job) for job in self.jobs}

    @cached_property
    def parts(self) -> dict[str, float]:
        """Seconds of every stage, and of every algorithm in it, if it had the cores to itself."""
        parts = dict.fromkeys(job.part for job in self.jobs)
        return {part: self._makespan([job for job in self.jobs if job.part == part]) for part in parts}

    @cached_property
    def total(self) -> float:
        """Seconds of everything, in the order of the graph."""
        return self._makespan(self.jobs)

    def _makespan(self, todo: list[PlannedJob]) -> float:
        """Seconds until all are done, where each starts as soon as its inputs and its cores are free."""
        waiting, running, now = list(todo), list[tuple[float, str, int, bool]](), 0.0
        left, cores, gpus = {job.name for job in todo}, self.cores, 1
        while waiting or running:
            for job in list(waiting):
                threads, gpu = min(job.threads, self.cores), self._on_gpu(job)
                if threads <= cores and gpu <= gpus and left.isdisjoint(job.needs):
                    waiting.remove(job)
                    cores, gpus = cores - threads, gpus - gpu
                    heapq.heappush(running, (now + self.seconds[job.name], job.name, threads, gpu))
                if cores == 0:
                    break
            now, name, threads, gpu = heapq.heappop(running)
            left.remove(name)
            cores, gpus = cores + threads, gpus + gpu
        return now

    def _on_gpu(self, job: PlannedJob) -> bool:
        return self.gpu and job.stage in _ON_GPU

    def _seconds(self, job: PlannedJob) -> float:
        """Seconds of one job."""
        if job.stage == "report":
            return START + _REPORT[0] + _REPORT[1] * job.runs
        spec = known_spec(self.keys.params, job.dataset)
        if spec is None:
            self.unknown.append(job.name)
            return 0.0
        params, threads = self.keys.agent_params(job.dataset, job.agent), min(job.threads, self.cores)
        params = params.fine_tuning(job.agent) if job.stage == "online_finetune" else params
        operations = Operations(spec, params)
        if job.stage in TRAINS:
            return self._training(job, params, operations, threads)
        if job.stage == "pretrain_flow":
            if self.recorded and (took := flow_took(job, params, operations)) is not None:
                return START + self._from("recorded", took)
            return START + job.updates * self._cost(operations.flow())
        of_threads = 1.0 if self._on_gpu(job) else self._contention(threads) / threads
        if job.stage == "download_dataset":
            each = self._cost(operations.generation()) if job.rows else 0.0
            return START + job.rows * each * of_threads
        if not job.rows:
            self.unknown.append(job.name)
        each = self._cost(operations.inversion()) if job.rows else 0.0
        tests = _TESTS * params.flow.steps * self._cost(operations.flow())
        return START + tests + job.rows * each * of_threads

    def _training(self, job: PlannedJob, params: Params, operations: Operations, threads: int) -> float:
        """Seconds of a job's runs: sharded over processes that share the threads, or stacked in one on a GPU."""
        processes = 1 if self.gpu else process_count(job.runs, threads)
        stacked = ceil(job.runs / processes)
        # Runs whose times add up.
        in_turn = stacked if self.gpu else max(stacked, job.runs / threads)
        started = START * (1 + (processes > 1) * processes / threads)
        if self.recorded and (took := runs_took(job, params, operations, gpu=self.gpu)) is not None:
            return started + self._from("recorded", took) * in_turn * job.weight / job.runs
        trained = job.updates * self._cost(operations.update(job.agent, stacked)) * job.weight / job.runs
        if params.offline.compile and job.updates:
            trained += self._cost(operations.compilation(job.agent))
        workers = threads if self.gpu else 1
        played = self._evaluations(job, params, operations, stacked, workers)
        if self.gpu:  # it trains while the CPU evaluates
            return started + max(trained, played) + self._steps(job, operations, stacked, workers)
        once = trained + played + self._steps(job, operations, stacked, workers)
        busy = sum(min(other.threads, self.cores) for other in self.jobs if other.stage == job.stage)
        return started + once * in_turn / stacked * self._contention(min(self.cores, busy))

    def _evaluations(self, job: PlannedJob, params: Params, operations: Operations, runs: int, workers: int) -> float:
        """Seconds of these runs' evaluations, all episodes of full length; estimates without a simulator are free."""
        spec, episodes = operations.spec, params.evaluation.episodes
        if not spec.simulated:
            return 0.0
        played = (
            runs * episodes / workers * (spec.horizon * self._cost(operations.step()) + self._cost(operations.reset()))
        )
        return job.evaluations * (spec.horizon * self._cost(operations.act(job.agent, runs, episodes)) + played)

    def _steps(self, job: PlannedJob, operations: Operations, runs: int, workers: int) -> float:
        """Seconds of the environment steps between updates."""
        if not job.steps:
            return 0.0
        return job.steps * (
            self._cost(operations.act(job.agent, runs)) + runs / workers * self._cost(operations.step())
        )

    def _contention(self, busy: int) -> float:
        """How many times longer a core takes when so many are busy."""
        return 1 + ((self.costs.contention or 1.0) - 1) * (busy - 1) / max(1, self.cores - 1)

    def _cost(self, operation: Operation) -> float:
        return self._from(self.costs.source(operation), self.costs.seconds(operation))

    def _from(self, source: str, seconds: float) -> float:
        self.sources[source] += 1
        return seconds


def process_count(runs: int, threads: int) -> int:
    """Processes that runs are sharded over: one for a single thread, else up to two for each."""
    return 1 if threads == 1 else min(runs, 2 * threads)


def runs_took(job: PlannedJob, params: Params, operations: Operations, *, gpu: bool = False) -> float | None:
    """Seconds of a run, by finished runs of the same sizes and settings; None where there are none."""
    pattern = layout.OFFLINE if job.stage == "offline_train" else layout.ONLINE
    wanted = operations.update(job.agent)

    def took(manifest: dict[str, Any]) -> float | None:
        offline = OfflineSettings.model_validate(manifest["model"]["offline"])
        like = Operations(operations.spec, params.model_copy(update={"offline": offline})).update(job.agent)
        if like != wanted or manifest["variant"] or (manifest["device"] != "cpu") != gpu:
            return None
        share = job.updates / manifest["step"] if job.updates else 1.0
        return share * float(manifest["seconds"])

    return _recorded(pattern.format(dataset=job.dataset, agent=job.agent, seeds="*") + "/*/policy.json", took)


def flow_took(job: PlannedJob, params: Params, operations: Operations) -> float | None:
    """Seconds of a flow's training, by finished flows of the same sizes; None where there are none."""

    def took(manifest: dict[str, Any]) -> float | None:
        flow = FlowSettings.model_validate(manifest["parameters"])
        if Operations(operations.spec, params.model_copy(update={"flow": flow})).flow() != operations.flow():
            return None
        return job.updates / flow.steps * float(manifest["seconds"])

    return _recorded(layout.FLOW.format(dataset=job.dataset, seed="*") + ".json", took)


def _recorded(pattern: str, took: Callable[[dict[str, Any]], float | None]) -> float | None:
    """The mean of what the manifests record; those of another version of flp, or of something else, are passed over."""
    times = []
    for file in Path().glob(pattern):
        with suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
            times.append(took(read_entries(file)))
    known = [seconds for seconds in times if seconds is not None]
    return mean(known) if known else None


def summary(keys: Keys, cores: int) -> str:
    """The expected times of what is left, with what they are based on: finished runs, measured or default costs."""
    done = done_jobs(keys)
    loaded = load_costs()
    costs, about = loaded or (CostModel(), {})
    gpu = about.get("device", "cpu") != "cpu"
    forecast = Forecast(keys, costs, cores, gpu=gpu, recorded=True, done=done)
    if not forecast.jobs:
        return f"nothing is left to do: all {len(done)} jobs are done"
    left = f" for what is left ({len(done)} of {len(done) + len(forecast.jobs)} jobs are done)" if done else ""
    parts = ", ".join(f"{part} {duration(seconds)}" for part, seconds in forecast.parts.items())
    names = {
        "recorded": "finished runs' times",
        "measured": f"`flp bench` of {about.get('when')}",
        "estimated": "what it measured of the same kind",
        "default": "a typical CPU core, perhaps unlike yours (`flp bench` measures)",
    }
    sources = ", ".join(name for source, name in names.items() if forecast.sources[source])
    basis = f"; by {sources}" if sources else ""
    return "\n".join(
        [
            f"expected on {counted(cores, 'core')}{left}: {duration(forecast.total)} ({parts}){basis}",
            *omissions(forecast),
        ]
    )


def done_jobs(keys: Keys) -> list[str]:
    """The names of the jobs whose outputs are here and current."""
    if not (Path("data").exists() or Path("results").exists()):
        return []  # the keys of large files of a user take long
    artifacts = {name: artifact for name, artifact in graph(keys).items() if artifact.stage not in ON_REQUEST}
    return [name.removeprefix("report/") for name, artifact in artifacts.items() if artifact.is_current()]


def omissions(forecast: Forecast) -> list[str]:
    """Lines on what a forecast does not count."""
    params = forecast.keys.params
    names = [name for name in params.datasets if name not in params.tasks]
    lines = []
    if any(forecast.keys.dataset_params(name).download.source == "ogbench" for name in names):
        lines.append("downloads are not counted")
    if forecast.unknown:
        lines.append(f"not counted before their data are there: {', '.join(forecast.unknown)}")
    return lines

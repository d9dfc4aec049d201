"""How much work an experiment is: updates, environment steps and rows, by arithmetic on its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from flp.data.environments import EnvironmentSpec, OGBenchSpec
from flp.experiment.keys import Keys
from flp.params.loading import Params
from flp.params.run import Run, TrainingJob
from flp.params.sections import offline_steps
from flp.supervision.foresight import dataset_size, generated_rows
from flp.system import layout
from flp.system.errors import FLPError

MOST_THREADS = 16  # of a job


@dataclass(frozen=True)
class PlannedJob:
    """A node of the graph, and the work in it.

    Attributes:
        stage: the stage that does it.
        name: `stage/name`, unique.
        dataset: its dataset; empty for the report.
        agent: its algorithm, if it trains one.
        needs: the names of the jobs before it.
        threads: CPU threads that it asks for.
        runs: the runs that it trains.
        weight: the same, where a run that scores more candidates than the experiment's own counts for more.
        updates: gradient steps of every run.
        steps: environment steps between updates, of every run.
        evaluations: how often every run is evaluated.
        rows: rows that it generates, or actions that it inverts.
    """

    stage: str
    name: str
    dataset: str = ""
    agent: str = ""
    needs: tuple[str, ...] = ()
    threads: int = 1
    runs: int = 0
    weight: float = 0.0
    updates: int = 0
    steps: int = 0
    evaluations: int = 0
    rows: int = 0

    @property
    def part(self) -> str:
        """The heading under which its time is reported: the stage and the algorithm."""
        return f"{self.stage.replace('_', '-')} {self.agent}".strip()


def planned_jobs(keys: Keys) -> list[PlannedJob]:
    """All jobs of the experiment, each after those that it needs.

    The graph has the same ones, but hashes their keys, which takes long where a user's data are large.
    """
    flows = [job for dataset in keys.params.datasets for job in _flows(keys, dataset)]
    offline = [_offline(keys, job) for job in keys.jobs()]
    online = [_online(keys, job) for job in keys.online_jobs()]
    before = [*flows, *offline, *online]
    runs = sum(job.runs for job in before)
    return [*before, PlannedJob("report", "report", needs=tuple(job.name for job in before), threads=4, runs=runs)]


def flow_threads(params: Params) -> int:
    """Threads that a flow's training asks for: small ones gain nothing from a second."""
    return 1 if max(params.flow.hidden + params.flow.encoder) <= 256 else 4


def known_spec(params: Params, dataset: str) -> EnvironmentSpec | None:
    """The specification of a dataset's environment; None for a user's task whose data are not there yet."""
    try:
        return params.spec(dataset)
    except FLPError:
        return None


def _flows(keys: Keys, dataset: str) -> Iterator[PlannedJob]:
    params, spec = keys.dataset_params(dataset), known_spec(keys.params, dataset)
    generated, inverted = _rows(params, dataset, spec)
    data = f"download_dataset/{dataset}"
    yield PlannedJob("download_dataset", data, dataset, threads=MOST_THREADS, rows=generated)
    for seed in keys.params.seeds:
        flow, latent = f"pretrain_flow/{dataset}/seed{seed}", f"invert_to_latent/{dataset}/seed{seed}"
        threads, steps = flow_threads(params), params.flow.steps
        yield PlannedJob("pretrain_flow", flow, dataset, needs=(data,), threads=threads, updates=steps)
        yield PlannedJob("invert_to_latent", latent, dataset, needs=(flow,), threads=MOST_THREADS, rows=inverted)


def _rows(params: Params, dataset: str, spec: EnvironmentSpec | None) -> tuple[int, int]:
    """Rows to generate, and transitions to invert: of a user's file as many as it has, once it is imported."""
    settings = params.download
    if not isinstance(spec, OGBenchSpec) or settings.source == "path":
        return 0, dataset_size(Path(layout.DATA.format(dataset=dataset) + ".npz"))[1]
    if settings.source == "ogbench":
        return 0, spec.episodes * (spec.steps_per_episode - 1)
    episodes, steps = settings.episodes or spec.episodes, settings.steps_per_episode or spec.steps_per_episode
    return generated_rows(spec, settings), episodes * (steps - 1)


def _offline(keys: Keys, job: TrainingJob) -> PlannedJob:
    params, runs = keys.agent_params(job.dataset, job.agent), keys.runs(*job)
    if keys.reads_flow(job.dataset, job.agent):
        needs = tuple(f"invert_to_latent/{job.dataset}/seed{seed}" for seed in job.seeds)
    else:
        needs = (f"download_dataset/{job.dataset}",)
    steps = offline_steps(job.agent, params.offline)
    of_behavior = 1 if job.agent == "flp" else 0  # its flow is evaluated once as well
    return PlannedJob(
        "offline_train",
        f"offline_train/{job.name}",
        job.dataset,
        job.agent,
        needs,
        threads=min(MOST_THREADS, len(runs)),
        runs=len(runs),
        weight=_weight(runs, params),
        updates=steps,
        evaluations=max(1, ceil(steps / params.evaluation.every)) + of_behavior,
    )


def _online(keys: Keys, job: TrainingJob) -> PlannedJob:
    params, runs = keys.agent_params(job.dataset, job.agent), keys.online_runs(*job)
    return PlannedJob(
        "online_finetune",
        f"online_finetune/{job.name}",
        job.dataset,
        job.agent,
        needs=(f"offline_train/{job.name}",),
        threads=min(MOST_THREADS, len(runs)),
        runs=len(runs),
        weight=_weight(runs, params),
        updates=params.online.steps,
        steps=params.online.steps,
        evaluations=1 + ceil(params.online.steps / params.evaluation.every),
    )


def _weight(runs: list[Run], params: Params) -> float:
    """Runs by the cost of their updates, as the sharding has it: eight parts, and one for each candidate."""
    own = params.offline.candidates
    return sum((8 + run.candidates) / (8 + own) for run in runs)

"""How much there is to do in an experiment: updates, steps in environments, rows; arithmetic on its parameters."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flp.data.environments import EnvironmentSpec, OGBenchSpec
from flp.experiment.keys import Keys
from flp.params.loading import Params
from flp.params.run import Run
from flp.params.sections import offline_steps
from flp.system import layout
from flp.system.errors import FLPError

MOST_THREADS = 16  # of a job


@dataclass(frozen=True)
class Job:
    """A node of the graph, and the work in it.

    Attributes:
        stage: the stage that does it.
        name: its own name, unique.
        dataset: its dataset; empty for the report.
        agent: its algorithm, if it trains one.
        needs: the names of the jobs before it.
        threads: CPU threads that it asks for.
        runs: the runs that it trains.
        weight: the same, a run that scores more candidates than the experiment's own counting for more.
        updates: gradient steps, of every run.
        steps: steps in the environment between updates, of every run.
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
        """Under which head its time is told: the stage, and the algorithm."""
        return f"{self.stage.replace('_', '-')} {self.agent}".strip()


def jobs(keys: Keys) -> list[Job]:
    """All jobs of the experiment, each after those that it needs."""
    found = [job for dataset in keys.params.datasets for job in _flows(keys, dataset)]
    trained = [job for seeds in keys.jobs() for job in _training(keys, *seeds)]
    found += [job for job in trained if job.stage == "offline_train"]
    found += [job for job in trained if job.stage == "online_finetune"]
    runs = sum(job.runs for job in trained)
    return [*found, Job("report", "report", needs=tuple(job.name for job in found), threads=4, runs=runs)]


def flow_threads(params: Params) -> int:
    """Threads that a flow's training asks for: small ones gain nothing from a second."""
    return 1 if max(params.flow.hidden + params.flow.encoder) <= 256 else 4


def known_spec(params: Params, dataset: str) -> EnvironmentSpec | None:
    """What is known of a dataset's environment; None of a user's task whose data are not there yet."""
    try:
        return params.spec(dataset)
    except FLPError:
        return None


def _flows(keys: Keys, dataset: str) -> Iterator[Job]:
    params, spec = keys.dataset_params(dataset), known_spec(keys.params, dataset)
    made, inverted = _rows(params, dataset, spec)
    data = f"download_dataset/{dataset}"
    yield Job("download_dataset", data, dataset, threads=MOST_THREADS, rows=made)
    for seed in keys.params.seeds:
        flow, latent = (f"{stage}/{dataset}/seed{seed}" for stage in ("pretrain_flow", "invert_to_latent"))
        yield Job(
            "pretrain_flow", flow, dataset, needs=(data,), threads=flow_threads(params), updates=params.flow.steps
        )
        yield Job("invert_to_latent", latent, dataset, needs=(flow,), threads=MOST_THREADS, rows=inverted)


def _rows(params: Params, dataset: str, spec: EnvironmentSpec | None) -> tuple[int, int]:
    """Rows to generate, and transitions to invert: of a user's file as many as it has, once it is brought in."""
    settings = params.download
    if not isinstance(spec, OGBenchSpec) or settings.source == "path":
        return 0, _rows_at_hand(Path(layout.DATA.format(dataset=dataset) + ".npz"))
    if settings.source == "ogbench":
        return 0, spec.episodes * (spec.steps_per_episode - 1)
    episodes, steps = settings.episodes or spec.episodes, settings.steps_per_episode or spec.steps_per_episode
    return (episodes + max(1, episodes // 10)) * steps, episodes * (steps - 1)


def _rows_at_hand(file: Path) -> int:
    """As the file's head says; a byte is a row of `terminals`."""
    with suppress(OSError, zipfile.BadZipFile, KeyError), zipfile.ZipFile(file) as archive:
        return archive.getinfo("terminals.npy").file_size
    return 0


def _training(keys: Keys, dataset: str, agent: str, seeds: list[int]) -> Iterator[Job]:
    params = keys.agent_params(dataset, agent)
    where = f"{dataset}/{agent}/seed{layout.join_seeds(seeds)}"
    offline, online = f"offline_train/{where}", f"online_finetune/{where}"
    needs = tuple(f"invert_to_latent/{dataset}/seed{seed}" for seed in seeds)
    if not keys.reads_flow(dataset, agent):
        needs = (f"download_dataset/{dataset}",)
    runs, steps, every = keys.runs(dataset, agent, seeds), offline_steps(agent, params.offline), params.evaluation.every
    behavior = agent == "flp"  # its flow is evaluated once beside it
    yield Job(
        *("offline_train", offline, dataset, agent, needs, min(MOST_THREADS, len(runs)), len(runs)),
        weight=_weight(runs, params),
        updates=steps,
        evaluations=max(1, -(-steps // every)) + behavior,
    )
    if keys.learns_online(dataset, agent):
        tuned, steps = keys.online_runs(dataset, agent, seeds), params.online.steps
        yield Job(
            *("online_finetune", online, dataset, agent, (offline,), min(MOST_THREADS, len(tuned)), len(tuned)),
            weight=_weight(tuned, params),
            updates=steps,
            steps=steps,
            evaluations=1 + -(-steps // every),
        )


def _weight(runs: list[Run], params: Params) -> float:
    """Runs, as dealing them to processes has it: an update takes eight parts and one for each candidate."""
    own = params.offline.candidates
    return sum((8 + run.candidates) / (8 + own) for run in runs)

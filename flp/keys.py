"""Keys: what an artifact is made of, as one hash, so that times need not be trusted.

A key covers the stage's own parameters, the fingerprint of the source it uses, its wildcards and its
inputs' keys. Two checkouts with equal keys hold the same artifact; a key that changes makes exactly the
artifacts below it stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from flp import layout
from flp.artifacts import read_json
from flp.errors import FLPError
from flp.fingerprint import fingerprint
from flp.params import Params

# The report's manifest, which holds its key, is written last.
REPORT_FILES = ("index.html", "summary.csv", "metrics.json", "manifest.json")
# Parameters only FLP reads: changing them leaves the baselines alone.
_FLP_ONLY = ("alpha", "candidates", "log_std_min", "log_std_max")


@dataclass(frozen=True)
class Run:
    """One policy: a task, a seed, and in a sweep the changed value."""

    task: int
    seed: int
    alpha: float
    candidates: int
    variant: str = ""

    @property
    def name(self) -> str:
        """The run's folder inside its job's."""
        return layout.run_name(self.task, self.seed, self.variant)


@dataclass(frozen=True, eq=False)
class Artifact:
    """What one job makes.

    Attributes:
        stage: the stage that makes it.
        name: its name among the stage's, such as `cube-single-play/seed0`.
        key: the key it must carry.
        files: the files the job makes, relative to the working directory.
        manifests: those of the files that hold the key.
        runs: the folders of its runs, for agents; the job keeps those it finds finished.
        inputs: what the job reads, by role.
    """

    stage: str
    name: str
    key: str
    files: tuple[str, ...]
    manifests: tuple[str, ...]
    runs: tuple[str, ...] = ()
    inputs: dict[str, tuple[Artifact, ...]] = field(default_factory=dict)

    def exists(self, root: Path = Path()) -> bool:
        """Whether all of it is there."""
        return all((root / path).exists() for path in (*self.files, *self.runs))

    def is_current(self, root: Path = Path()) -> bool:
        """Whether it is whole and made of what the parameters and the source say now."""
        return self.exists(root) and all(found_key(root / path) == self.key for path in self.manifests)


def found_key(manifest: Path) -> str | None:
    """The key in a manifest; None where there is none to read."""
    try:
        value = read_json(manifest)
    except FLPError:
        return None
    key = value.get("key") if isinstance(value, dict) else None
    return key if isinstance(key, str) else None


def hash_of(*parts: Any) -> str:
    """A short hash of JSON-like values; dictionaries are unordered."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Keys:
    """The keys of every artifact of an experiment."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self._datasets: dict[str, Params] = {}

    def dataset_params(self, dataset: str) -> Params:
        """The parameters of one dataset, overrides applied."""
        if dataset not in self._datasets:
            self._datasets[dataset] = self.params.for_dataset(dataset)
        return self._datasets[dataset]

    def data(self, dataset: str) -> str:
        """The key of `data/{dataset}.npz`."""
        section = self.dataset_params(dataset).download.keyed()
        return hash_of("download_dataset", fingerprint("flp.stages.download_dataset"), section, dataset)

    def flow(self, dataset: str, seed: int) -> str:
        """The key of one flow."""
        section = self.dataset_params(dataset).flow.keyed()
        source = fingerprint("flp.stages.pretrain_flow")
        return hash_of("pretrain_flow", source, section, seed, self.data(dataset))

    def latent(self, dataset: str, seed: int) -> str:
        """The key of one flow's latents and quality report."""
        section = self.dataset_params(dataset).invert.keyed()
        source = fingerprint("flp.stages.invert_to_latent")
        return hash_of("invert_to_latent", source, section, self.flow(dataset, seed))

    def offline_run(self, dataset: str, agent: str, run: Run) -> str:
        """The key of one run, whoever trains beside it."""
        params = self.dataset_params(dataset)
        section = params.offline.keyed()
        if agent == "flp":
            section |= {"alpha": run.alpha, "candidates": run.candidates}
        else:
            section = {name: value for name, value in section.items() if name not in _FLP_ONLY}
            section["own"] = params.offline.baselines.model_dump(mode="json").get(agent)
        return hash_of(
            "offline_train",
            fingerprint("flp.stages.offline_train", f"flp.agents.{agent}"),
            section,
            params.evaluation.keyed(),
            agent,
            [run.task, run.seed],
            self.latent(dataset, run.seed),
        )

    def online_run(self, dataset: str, agent: str, run: Run) -> str:
        """The key of one fine-tuned run."""
        params = self.dataset_params(dataset)
        source = fingerprint("flp.stages.online_finetune", f"flp.agents.{agent}")
        return hash_of("online_finetune", source, params.online.keyed(), self.offline_run(dataset, agent, run))

    def offline_job(self, dataset: str, agent: str, seeds: list[int]) -> str:
        """The key of the runs that train together."""
        runs = self.runs(dataset, agent, seeds)
        return hash_of([self.offline_run(dataset, agent, run) for run in runs])

    def online_job(self, dataset: str, agent: str, seeds: list[int]) -> str:
        """The key of the runs that are fine-tuned together."""
        runs = self.online_runs(dataset, agent, seeds)
        return hash_of([self.online_run(dataset, agent, run) for run in runs])

    def runs(self, dataset: str, agent: str, seeds: list[int]) -> list[Run]:
        """The runs of one offline job: tasks × seeds, and for FLP the sweep's values."""
        offline = self.dataset_params(dataset).offline
        variants: list[tuple[str, float, int]] = [("", offline.alpha, offline.candidates)]
        if agent == "flp":
            variants += [(f"alpha={a:g}", a, offline.candidates) for a in offline.sweep.alpha if a != offline.alpha]
            variants += [
                (f"candidates={n}", offline.alpha, n) for n in offline.sweep.candidates if n != offline.candidates
            ]
        return [
            Run(task, seed, alpha, candidates, variant)
            for seed in seeds
            for task in offline.tasks
            for variant, alpha, candidates in variants
        ]

    def online_runs(self, dataset: str, agent: str, seeds: list[int]) -> list[Run]:
        """The runs of one online job; sweeps are not fine-tuned."""
        params = self.dataset_params(dataset)
        tasks = params.online.tasks or params.offline.tasks
        return [run for run in self.runs(dataset, agent, seeds) if run.task in tasks and not run.variant]

    def jobs(self) -> Iterator[tuple[str, str, list[int]]]:
        """Every offline job: dataset, agent, seeds."""
        for dataset in self.params.datasets:
            offline = self.dataset_params(dataset).offline
            for agent in offline.agents:
                for seeds in layout.seed_groups(self.params.seeds, offline.seeds_per_job):
                    yield dataset, agent, seeds

    def online_jobs(self) -> Iterator[tuple[str, str, list[int]]]:
        """Every online job: those of datasets with `online.steps` above 0, of agents that learn online."""
        for dataset, agent, seeds in self.jobs():
            if self.dataset_params(dataset).online.steps > 0 and agent not in OFFLINE_ONLY:
                yield dataset, agent, seeds

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        """Every artifact of the experiment by `stage/name`, each after its inputs."""
        found: dict[str, Artifact] = {}

        def add(stage: str, name: str, key: str, files: list[str], manifests: list[str], **more: Any) -> Artifact:
            artifact = Artifact(stage, name, key, tuple(files), tuple(manifests), **more)
            found[f"{stage}/{name}"] = artifact
            return artifact

        data, flows, latents = {}, {}, {}
        for dataset in self.params.datasets:
            files = [layout.DATA.format(dataset=dataset) + suffix for suffix in layout.DATA_SUFFIXES]
            data[dataset] = add("download_dataset", dataset, self.data(dataset), files, files[-1:])
            for seed in self.params.seeds:
                place, name = (dataset, seed), f"{dataset}/seed{seed}"
                base = layout.FLOW.format(dataset=dataset, seed=seed)
                files = [base + suffix for suffix in layout.FLOW_SUFFIXES]
                inputs = {"data": (data[dataset],)}
                flows[place] = add("pretrain_flow", name, self.flow(*place), files, [base + ".json"], inputs=inputs)
                base = layout.LATENT.format(dataset=dataset, seed=seed)
                quality = layout.QUALITY.format(dataset=dataset, seed=seed)
                files = [base + suffix for suffix in layout.LATENT_SUFFIXES]
                files += [f"{quality}/{file}" for file in layout.QUALITY_FILES]
                manifests = [base + ".json", f"{quality}/quality.json"]
                inputs = inputs | {"flow": (flows[place],)}
                latents[place] = add("invert_to_latent", name, self.latent(*place), files, manifests, inputs=inputs)

        def agents(stage: str, folder: str, key: str, runs: list[Run], job: tuple[str, str, list[int]]) -> Artifact:
            dataset, agent, seeds = job
            joined = layout.join_seeds(seeds)
            folder = folder.format(dataset=dataset, agent=agent, seeds=joined)
            name, manifest = f"{dataset}/{agent}/seed{joined}", f"{folder}/manifest.json"
            inputs = {
                "data": (data[dataset],),
                "flow": tuple(flows[dataset, seed] for seed in seeds),
                "latent": tuple(latents[dataset, seed] for seed in seeds),
            }
            if stage == "online_finetune":
                inputs["offline"] = (found[f"offline_train/{name}"],)
            folders = tuple(f"{folder}/{run.name}" for run in runs)
            return add(stage, name, key, [manifest], [manifest], runs=folders, inputs=inputs)

        offline = tuple(
            agents("offline_train", layout.OFFLINE, self.offline_job(*job), self.runs(*job), job) for job in self.jobs()
        )
        online = tuple(
            agents("online_finetune", layout.ONLINE, self.online_job(*job), self.online_runs(*job), job)
            for job in self.online_jobs()
        )
        everything: dict[str, tuple[Artifact, ...]] = {
            "flow": tuple(flows.values()),
            "latent": tuple(latents.values()),
            "offline": offline,
            "online": online,
        }
        files = [f"{layout.REPORT}/{file}" for file in REPORT_FILES]
        add("report", "report", self.report, files, files[-1:], inputs=everything)
        return found

    @cached_property
    def report(self) -> str:
        """The key of the report."""
        return hash_of(
            "report",
            fingerprint("flp.stages.report"),
            self.params.report.keyed(),
            [self.latent(d, s) for d in self.params.datasets for s in self.params.seeds],
            [self.offline_job(*job) for job in self.jobs()],
            [self.online_job(*job) for job in self.online_jobs()],
        )


# Behaviour cloning has nothing to fine-tune with.
OFFLINE_ONLY = ("bc", "fbc")

"""Keys: what an artifact is made of, as one hash, so that times need not be trusted.

A key covers the stage's own parameters, the fingerprint of the source it uses, its wildcards and its
inputs' keys. Two checkouts with equal keys hold the same artifact; a key that changes makes exactly the
artifacts below it stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flp import layout
from flp.fingerprint import fingerprint
from flp.params import Params

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

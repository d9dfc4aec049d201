"""The graph of an experiment's artifacts: what each job makes, from which inputs, and with which key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flp.experiment import variants
from flp.experiment.keys import Keys, TableKeys
from flp.params.run import Run, SweepJob, TrainingJob
from flp.system import layout
from flp.system.artifacts import key_of
from flp.system.errors import FLPError

# The report's manifest, which holds its key, is written last.
REPORT_FILES = ("index.html", "summary.csv", "metrics.json", "manifest.json")
# Stages whose artifacts are made on request only: not part of `all`, nor of what DVC versions.
ON_REQUEST = ("offline_sweep", "figure")


@dataclass(frozen=True, eq=False)
class Artifact:
    """What one job makes.

    Attributes:
        stage: the stage that makes it.
        name: its name among the stage's, such as `cube-single-play/seed0`.
        key: the key it must carry.
        files: the files the job makes, relative to the working directory.
        manifests: those of the files that hold the key.
        runs: for agents, the folders of its runs, each with `layout.RUN_FILES`; the job keeps those that are finished.
        inputs: what the job reads, by role.
    """

    stage: str
    name: str
    key: str
    files: tuple[str, ...]
    manifests: tuple[str, ...]
    runs: tuple[str, ...] = ()
    inputs: dict[str, tuple[Artifact, ...]] = field(default_factory=dict)

    def every_file(self) -> list[str]:
        """The job's files, and those of its runs."""
        return [*self.files, *(f"{run}/{name}" for run in self.runs for name in layout.RUN_FILES)]

    def exists(self) -> bool:
        """Whether all of it is there."""
        return all(Path(path).exists() for path in self.every_file())

    def is_current(self) -> bool:
        """Whether it is complete and was made from the present parameters and source."""
        return self.exists() and all(key_of(path) == self.key for path in self.manifests)


def require_current(keys: Keys, dataset: str, seeds: Sequence[int] = (), *, latents: bool = False) -> None:
    """Refuse a dataset, or seeds' flows (and latents), made with other parameters or sources than the present ones.

    Whatever was made from them would carry the key of what they should have been. So would what was made from files
    without a manifest, as a killed stage leaves them. Missing ones are not an error here.

    Raises:
        FLPError: naming the first that is not current.
    """
    wanted = {layout.DATA.format(dataset=dataset): keys.data(dataset)}
    wanted |= {layout.FLOW.format(dataset=dataset, seed=seed): keys.flow(dataset, seed) for seed in seeds}
    if latents:
        wanted |= {layout.LATENT.format(dataset=dataset, seed=seed): keys.latent(dataset, seed) for seed in seeds}
    for path, key in wanted.items():
        require_key(path, key)


def require_key(path: str, key: str) -> None:
    """Refuse files that carry another key than this one, or none at all (`FLPError`); `path` has no suffix."""
    found = key_of(path + ".json")
    if found is None and not any(Path(path + end).exists() for end in (".npz", ".safetensors")):
        return
    if found != key:
        raise FLPError(
            f"{path} was made with other parameters or by another version of the source than now, or not to its end; "
            "make it again with `snakemake --cores all`, or by its own stage"
        )


def graph(keys: Keys) -> dict[str, Artifact]:
    """Every artifact of the experiment by `stage/name`, each after its inputs."""
    builder = _Builder(keys)
    for dataset in keys.params.datasets:
        builder.add_dataset(dataset)
    for job in keys.jobs():
        builder.add_offline(job)
    for job in keys.online_jobs():
        builder.add_online(job)
    builder.add_report()
    for job in keys.figure_jobs():
        builder.add_sweeps(job)
    for figure in layout.FIGURES + layout.TABLES:
        builder.add_figure(figure)
    return builder.artifacts


_Inputs = dict[str, tuple[Artifact, ...]]


class _Builder:
    """The artifacts added so far; inputs must be added first."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.artifacts: dict[str, Artifact] = {}

    def _add(self, stage: str, name: str, key: str, files: list[str], manifests: list[str], **more: Any) -> None:
        self.artifacts[f"{stage}/{name}"] = Artifact(stage, name, key, tuple(files), tuple(manifests), **more)

    def _get(self, stage: str, *names: str) -> tuple[Artifact, ...]:
        return tuple(self.artifacts[f"{stage}/{name}"] for name in names)

    def _all(self, stage: str) -> tuple[Artifact, ...]:
        return tuple(artifact for artifact in self.artifacts.values() if artifact.stage == stage)

    def add_dataset(self, dataset: str) -> None:
        """A dataset with every seed's flow and latents."""
        files = [layout.DATA.format(dataset=dataset) + suffix for suffix in layout.DATA_SUFFIXES]
        self._add("download_dataset", dataset, self.keys.data(dataset), files, files[-1:])
        for seed in self.keys.params.seeds:
            name, inputs = f"{dataset}/seed{seed}", {"data": self._get("download_dataset", dataset)}
            base = layout.FLOW.format(dataset=dataset, seed=seed)
            files = [base + suffix for suffix in layout.FLOW_SUFFIXES]
            key = self.keys.flow(dataset, seed)
            self._add("pretrain_flow", name, key, files, [base + ".json"], inputs=inputs)
            base = layout.LATENT.format(dataset=dataset, seed=seed)
            quality = layout.QUALITY.format(dataset=dataset, seed=seed)
            files = [base + suffix for suffix in layout.LATENT_SUFFIXES]
            files += [f"{quality}/{file}" for file in layout.QUALITY_FILES]
            manifests = [base + ".json", f"{quality}/quality.json"]
            inputs = inputs | {"flow": self._get("pretrain_flow", name)}
            self._add("invert_to_latent", name, self.keys.latent(dataset, seed), files, manifests, inputs=inputs)

    def add_offline(self, job: TrainingJob) -> None:
        """The runs of an offline job."""
        key, runs = self.keys.offline_job(*job), self.keys.runs(*job)
        self._add_runs("offline_train", job.name, job.folder(layout.OFFLINE), key, runs, self._training_inputs(job))

    def add_online(self, job: TrainingJob) -> None:
        """The runs of an online job, which start from its offline ones."""
        key, runs = self.keys.online_job(*job), self.keys.online_runs(*job)
        inputs = self._training_inputs(job) | {"offline": self._get("offline_train", job.name)}
        self._add_runs("online_finetune", job.name, job.folder(layout.ONLINE), key, runs, inputs)

    def add_sweeps(self, job: TrainingJob) -> None:
        """The runs that Figures 3 to 5 need in addition to the experiment's own."""
        for figure in variants.QUANTITY:
            if runs := self.keys.extra_runs(job.dataset, figure, job.seeds):
                sweep, key = SweepJob(job.dataset, figure, job.seeds), self.keys.job_of(job.dataset, job.agent, runs)
                self._add_runs("offline_sweep", sweep.name, sweep.folder, key, runs, self._training_inputs(job))

    def _add_runs(self, stage: str, name: str, folder: str, key: str, runs: list[Run], inputs: _Inputs) -> None:
        folders = tuple(f"{folder}/{run.name}" for run in runs)
        manifest = f"{folder}/manifest.json"
        self._add(stage, name, key, [manifest], [manifest], runs=folders, inputs=inputs)

    def _training_inputs(self, job: TrainingJob) -> _Inputs:
        """The dataset, and for algorithms that read them the seeds' flows and latents."""
        inputs = {"data": self._get("download_dataset", job.dataset)}
        if self.keys.reads_flow(job.dataset, job.agent):
            names = [f"{job.dataset}/seed{seed}" for seed in job.seeds]
            inputs["flow"] = self._get("pretrain_flow", *names)
            inputs["latent"] = self._get("invert_to_latent", *names)
        return inputs

    def add_report(self) -> None:
        """The report on everything added so far."""
        inputs = {
            "flow": self._all("pretrain_flow"),
            "latent": self._all("invert_to_latent"),
            "offline": self._all("offline_train"),
            "online": self._all("online_finetune"),
        }
        files = [f"{layout.REPORT}/{file}" for file in REPORT_FILES]
        self._add("report", "report", self.keys.report, files, files[-1:], inputs=inputs)

    def add_figure(self, figure: str) -> None:
        """One of the paper's figures or tables, unless the experiment has nothing to show in it."""
        if self.keys.nothing_in(figure):
            return
        inputs: _Inputs = {}
        if figure in layout.TABLES:
            inputs = self._table_inputs(figure)
        elif figure != "figure2":
            inputs = self._sweep_inputs(figure)
        files = layout.figure_files(figure)
        self._add("figure", figure, self.keys.figure(figure), files, files[-1:], inputs=inputs)

    def _table_inputs(self, table: str) -> _Inputs:
        keys = TableKeys(self.keys.params, table)
        return {
            "latent": self._all("invert_to_latent"),
            "offline": self._get("offline_train", *(job.name for job in keys.jobs())),
            "online": self._get("online_finetune", *(job.name for job in keys.online_jobs())),
        }

    def _sweep_inputs(self, figure: str) -> _Inputs:
        jobs, sweep = list(self.keys.figure_jobs()), list[Artifact]()
        for job in jobs:
            compared = {str(folder) for folder in self.keys.figure_runs(job.dataset, figure, job.seeds)}
            for lender in variants.LENDERS[figure]:
                artifact = self.artifacts.get(f"offline_sweep/{SweepJob(job.dataset, lender, job.seeds).name}")
                if artifact is not None and compared & set(artifact.runs):
                    sweep.append(artifact)
        return {"offline": self._get("offline_train", *(job.name for job in jobs)), "sweep": tuple(sweep)}

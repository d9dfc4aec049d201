"""The graph of an experiment's artifacts: what each job makes, with which key, out of what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flp.experiment import variants
from flp.experiment.keys import Keys, TableKeys
from flp.params.run import Run
from flp.system import layout
from flp.system.artifacts import read_entries
from flp.system.errors import FLPError

# The report's manifest, which holds its key, is written last.
REPORT_FILES = ("index.html", "summary.csv", "metrics.json", "manifest.json")
# Stages whose artifacts are made when they are asked for: no part of `all`, nor of what DVC versions.
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
        runs: the folders of its runs, for agents, each with `layout.RUN_FILES`; the job keeps those it finds finished.
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
        of_runs = (f"{run}/{name}" for run in self.runs for name in layout.RUN_FILES)
        return all((root / path).exists() for path in (*self.files, *of_runs))

    def is_current(self, root: Path = Path()) -> bool:
        """Whether it is whole and made of what the parameters and the source say now."""
        return self.exists(root) and all(found_key(root / path) == self.key for path in self.manifests)


def found_key(manifest: Path) -> str | None:
    """The key in a manifest; None where there is none to read."""
    key = read_entries(manifest).get("key")
    return key if isinstance(key, str) else None


def require_current(keys: Keys, dataset: str, seeds: Sequence[int] = (), *, latents: bool = False) -> None:
    """Refuse to read a dataset, or seeds' flows (and latents), of other parameters or sources than it is now.

    What came of them would carry the key of what they should have been. Those that are missing are not judged.

    Raises:
        FLPError: naming the first that is not current.
    """
    wanted = {layout.DATA.format(dataset=dataset): keys.data(dataset)}
    wanted |= {layout.FLOW.format(dataset=dataset, seed=seed): keys.flow(dataset, seed) for seed in seeds}
    if latents:
        wanted |= {layout.LATENT.format(dataset=dataset, seed=seed): keys.latent(dataset, seed) for seed in seeds}
    for path, key in wanted.items():
        if found_key(Path(path + ".json")) not in (None, key):
            raise FLPError(
                f"{path} was made with other parameters or by another version of the source than now; "
                "make it anew with `snakemake --cores all`, or by its own stage"
            )


_Found = dict[str, Artifact]
_Job = tuple[str, str, list[int]]


def graph(keys: Keys) -> _Found:
    """Every artifact of the experiment by `stage/name`, each after its inputs."""
    found: _Found = {}
    _flows(keys, found)
    _agents(keys, found)
    everything = {
        role: tuple(artifact for artifact in found.values() if artifact.stage == stage)
        for role, stage in (
            ("flow", "pretrain_flow"),
            ("latent", "invert_to_latent"),
            ("offline", "offline_train"),
            ("online", "online_finetune"),
        )
    }
    files = [f"{layout.REPORT}/{file}" for file in REPORT_FILES]
    _add(found, "report", "report", keys.report, files, files[-1:], inputs=everything)
    _sweeps(keys, found)
    _figures(keys, found)
    return found


def _add(found: _Found, stage: str, name: str, key: str, files: list[str], manifests: list[str], **more: Any) -> None:
    found[f"{stage}/{name}"] = Artifact(stage, name, key, tuple(files), tuple(manifests), **more)


def _flows(keys: Keys, found: _Found) -> None:
    """Datasets, flows and latents."""
    for dataset in keys.params.datasets:
        files = [layout.DATA.format(dataset=dataset) + suffix for suffix in layout.DATA_SUFFIXES]
        _add(found, "download_dataset", dataset, keys.data(dataset), files, files[-1:])
        for seed in keys.params.seeds:
            name = f"{dataset}/seed{seed}"
            inputs = {"data": (found[f"download_dataset/{dataset}"],)}
            base = layout.FLOW.format(dataset=dataset, seed=seed)
            files = [base + suffix for suffix in layout.FLOW_SUFFIXES]
            _add(found, "pretrain_flow", name, keys.flow(dataset, seed), files, [base + ".json"], inputs=inputs)
            base = layout.LATENT.format(dataset=dataset, seed=seed)
            quality = layout.QUALITY.format(dataset=dataset, seed=seed)
            files = [base + suffix for suffix in layout.LATENT_SUFFIXES]
            files += [f"{quality}/{file}" for file in layout.QUALITY_FILES]
            manifests = [base + ".json", f"{quality}/quality.json"]
            inputs = inputs | {"flow": (found[f"pretrain_flow/{name}"],)}
            _add(found, "invert_to_latent", name, keys.latent(dataset, seed), files, manifests, inputs=inputs)


def _agents(keys: Keys, found: _Found) -> None:
    """Offline jobs, then online ones."""
    for job in keys.jobs():
        folder = layout.OFFLINE.format(dataset=job[0], agent=job[1], seeds=layout.join_seeds(job[2]))
        _add_runs(keys, found, "offline_train", _name(job), folder, keys.offline_job(*job), keys.runs(*job), job)
    for job in keys.online_jobs():
        folder = layout.ONLINE.format(dataset=job[0], agent=job[1], seeds=layout.join_seeds(job[2]))
        offline = {"offline": (found[f"offline_train/{_name(job)}"],)}
        key, runs = keys.online_job(*job), keys.online_runs(*job)
        _add_runs(keys, found, "online_finetune", _name(job), folder, key, runs, job, **offline)


def _name(job: _Job) -> str:
    """`cube-single-play/flp/seed0-1`."""
    return f"{job[0]}/{job[1]}/seed{layout.join_seeds(job[2])}"


def _add_runs(
    keys: Keys,
    found: _Found,
    stage: str,
    name: str,
    folder: str,
    key: str,
    runs: list[Run],
    job: _Job,
    **more: tuple[Artifact],
) -> None:
    """Add the runs of one job, which need their dataset, and those who read them flows and latents."""
    dataset, agent, seeds = job
    inputs: dict[str, tuple[Artifact, ...]] = {"data": (found[f"download_dataset/{dataset}"],)}
    if keys.reads_flow(dataset, agent):
        inputs["flow"] = tuple(found[f"pretrain_flow/{dataset}/seed{seed}"] for seed in seeds)
        inputs["latent"] = tuple(found[f"invert_to_latent/{dataset}/seed{seed}"] for seed in seeds)
    manifest = f"{folder}/manifest.json"
    folders = tuple(f"{folder}/{run.name}" for run in runs)
    _add(found, stage, name, key, [manifest], [manifest], runs=folders, inputs=inputs | more)


def _sweeps(keys: Keys, found: _Found) -> None:
    """What Figures 3 to 5 train beside the experiment's own runs."""
    for job in keys.figure_jobs():
        dataset, agent, seeds = job
        for figure in variants.QUANTITY:
            if runs := keys.extra_runs(dataset, figure, seeds):
                joined = layout.join_seeds(seeds)
                folder = layout.SWEEP.format(dataset=dataset, figure=figure, seeds=joined)
                key = keys.job_of(dataset, agent, runs)
                _add_runs(keys, found, "offline_sweep", f"{dataset}/{figure}/seed{joined}", folder, key, runs, job)


def _figures(keys: Keys, found: _Found) -> None:
    """The paper's figures and tables."""
    for figure in layout.FIGURES + layout.TABLES:
        if figure == "figure2":
            inputs: dict[str, tuple[Artifact, ...]] = {}
        elif figure in layout.TABLES:
            if keys.params.tasks.keys() >= set(keys.params.datasets):
                continue  # the tables are of OGBench's
            inputs = _inputs_of_table(keys, figure, found)
        else:
            inputs = _inputs_of_sweep(keys, figure, found)
            if not inputs["offline"]:
                continue  # the experiment trains no FLP
        files = layout.figure_files(figure)
        _add(found, "figure", figure, keys.figure(figure), files, files[-1:], inputs=inputs)


def _inputs_of_table(keys: Keys, table: str, found: _Found) -> dict[str, tuple[Artifact, ...]]:
    shown = TableKeys(keys.params, table)
    return {
        "latent": tuple(artifact for artifact in found.values() if artifact.stage == "invert_to_latent"),
        "offline": tuple(found[f"offline_train/{_name(job)}"] for job in shown.jobs()),
        "online": tuple(found[f"online_finetune/{_name(job)}"] for job in shown.online_jobs()),
    }


def _inputs_of_sweep(keys: Keys, figure: str, found: _Found) -> dict[str, tuple[Artifact, ...]]:
    offline, sweep = [], []
    for job in keys.figure_jobs():
        dataset, _, seeds = job
        offline.append(found[f"offline_train/{_name(job)}"])
        shown = {str(folder) for folder in keys.figure_runs(dataset, figure, seeds)}
        lenders = (f"offline_sweep/{dataset}/{f}/seed{layout.join_seeds(seeds)}" for f in variants.LENDERS[figure])
        sweep += [found[name] for name in lenders if name in found and shown & set(found[name].runs)]
    return {"offline": tuple(offline), "sweep": tuple(sweep)}

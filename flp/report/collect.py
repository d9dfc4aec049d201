"""Read the stages' files into tidy tables: one row per run and evaluation, log line, or flow."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flp.experiment.keys import Keys
from flp.params.loading import Params
from flp.params.run import Run
from flp.report.measures import Measure, measure_of, scored
from flp.system import layout
from flp.system.artifacts import read_json
from flp.system.errors import FLPError, explained
from flp.system.hashing import sha256_of

REMEDY = "make it with `snakemake --cores all`, or fetch it with `dvc pull`"
IDENTITY = ["dataset", "agent", "task", "seed", "variant", "alpha", "candidates"]
PHASES = ("behavior", "offline", "online")
EVALUATED = ["phase", "step", "success", "episodes"]
QUALITY = [
    *("roundtrip_mean", "roundtrip_p99", "roundtrip_max", "latent_mean", "latent_std", "latent_wasserstein"),
    *(
        "validation_loss",
        "validation_nll",
        "validation_nll_saturated",
        "validation_nll_other",
        "clipped_fraction",
        "solver",
        "solver_steps",
        "solver_grading",
    ),
    *("two_sample", "saturation", "warning"),
]


@dataclass(frozen=True)
class FlowRecord:
    """One flow with its quality report, its training curve and the picture (PNG) of its latents."""

    dataset: str
    seed: int
    quality: dict[str, Any]
    curve: pd.DataFrame
    manifest: dict[str, Any]
    picture: bytes


@dataclass(frozen=True)
class Results:
    """Everything there is to report.

    Attributes:
        params: the experiment's parameters.
        keys: the experiment's keys.
        evaluations: one row per run and evaluation.
        logs: one row per run and line of its training log; `stage` is offline or online.
        runs: one row per run and stage: seconds, device, folder and versions.
        flows: the flows, by dataset and seed.
        data: the datasets' manifests; one of OGBench's is empty where its data are not on this machine.
        stale: artifacts made with other parameters or by another version of the source.
    """

    params: Params
    keys: Keys
    evaluations: pd.DataFrame
    logs: pd.DataFrame
    runs: pd.DataFrame
    flows: list[FlowRecord]
    data: dict[str, dict[str, Any]]
    stale: list[str]

    def of(self, dataset: str) -> Params:
        """The parameters of one dataset."""
        return self.keys.dataset_params(dataset)

    def offline_steps(self, dataset: str, agent: str) -> int:
        """The length of an algorithm's offline stage, after which fine-tuning starts; as long for those without one."""
        return self.keys.agent_params(dataset, agent).offline.steps

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """How each dataset's policies are judged."""
        return {name: measure_of(self.params, name, self.reference(name)) for name in self.params.datasets}

    def reference(self, dataset: str) -> tuple[float, float] | None:
        """The returns of a random policy and of an expert, where a user's task or its data give them."""
        task = self.params.tasks.get(dataset)
        if task is not None and task.reference is not None:
            return task.reference.random, task.reference.expert
        returns = self.data[dataset].get("reference")
        return (float(returns[0]), float(returns[1])) if returns else None

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The evaluations, scored by each dataset's measure."""
        return scored(self.evaluations, self.measures)

    def rated(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of datasets that have a success rate."""
        return rows[[self.measures[dataset].rate for dataset in rows["dataset"]]]

    def label(self, dataset: str) -> str:
        """Where the dataset's transitions come from."""
        source = self.of(dataset).download.source
        return str(self.data[dataset].get("label") or f"download.source is {source}")


def identity_of(dataset: str, agent: str, run: Run) -> dict[str, Any]:
    """What tells a run's rows from another's: a value for each of `IDENTITY`."""
    return {
        "dataset": dataset,
        "agent": agent,
        "task": run.task,
        "seed": run.seed,
        "variant": run.variant,
        "alpha": run.alpha,
        "candidates": run.candidates,
    }


@dataclass
class _Tables:
    params: Params
    evaluations: list[pd.DataFrame] = field(default_factory=list)
    logs: list[pd.DataFrame] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    def unrated(self, dataset: str) -> bool:
        """Whether a dataset may lack a success rate."""
        task = self.params.tasks.get(dataset)
        return task is not None and (task.environment is None or task.success == "none")

    def add(self, stage: str, dataset: str, agent: str, folder: Path, run: Run, key: str) -> None:
        """Read one run's folder."""
        identity = identity_of(dataset, agent, run)
        manifest = _manifest(folder / "policy.json")
        tables = manifest.get("tables")
        evaluations = read_run_table(folder, "evaluations.csv", EVALUATED, tables)
        rates = evaluations["success"].dropna() if self.unrated(dataset) else evaluations["success"]
        if not (rates.between(0, 1).all() and evaluations["phase"].isin(PHASES).all()):
            raise FLPError(
                f"{folder}/evaluations.csv: a success is outside [0, 1], or a phase is none of {', '.join(PHASES)}; "
                "delete the folder and run again"
            )
        self.evaluations.append(evaluations.assign(**identity, stage=stage))
        self.logs.append(read_run_table(folder, "log.csv", ["step"], tables).assign(**identity, stage=stage))
        details = {name: manifest.get(name) for name in ("seconds", "device", "versions")}
        self.runs.append(identity | {"stage": stage, "folder": str(folder), **details})
        if manifest.get("key") != key:
            self.stale.append(str(folder))


def collect(keys: Keys) -> Results:
    """Read every artifact of the experiment.

    Raises:
        FLPError: one is missing or unreadable; the message names it.
    """
    params, tables = keys.params, _Tables(keys.params)
    flows = [_flow(dataset, seed) for dataset in params.datasets for seed in params.seeds]
    tables.stale += [
        layout.QUALITY.format(dataset=flow.dataset, seed=flow.seed)
        for flow in flows
        if flow.quality.get("key") != keys.latent(flow.dataset, flow.seed)
    ]
    for dataset, agent, seeds in keys.jobs():
        for folder, run in _folders(layout.OFFLINE, dataset, agent, seeds, keys.runs(dataset, agent, seeds)):
            tables.add("offline", dataset, agent, folder, run, keys.offline_run(dataset, agent, run))
    for dataset, agent, seeds in keys.online_jobs():
        for folder, run in _folders(layout.ONLINE, dataset, agent, seeds, keys.online_runs(dataset, agent, seeds)):
            tables.add("online", dataset, agent, folder, run, keys.online_run(dataset, agent, run))
    return Results(
        params=params,
        keys=keys,
        evaluations=pd.concat(tables.evaluations, ignore_index=True),
        logs=pd.concat(tables.logs, ignore_index=True),
        runs=pd.DataFrame(tables.runs),
        flows=flows,
        data={dataset: _data(params, dataset) for dataset in params.datasets},
        stale=tables.stale,
    )


def stale_note(stale: list[str]) -> str:
    """A line on the artifacts that were made with other parameters or another version of the source; empty if none."""
    return f"{len(stale)} of the artifacts are stale: made with other parameters or source code" if stale else ""


def key_of_page(key: str, stale: list[str]) -> str | None:
    """The key that a page or figure carries: none if it shows anything stale, so that the workflow remakes it."""
    return None if stale else key


def _folders(
    pattern: str, dataset: str, agent: str, seeds: list[int], runs: Iterable[Run]
) -> Iterable[tuple[Path, Run]]:
    folder = Path(pattern.format(dataset=dataset, agent=agent, seeds=layout.join_seeds(seeds)))
    return ((folder / run.name, run) for run in runs)


def _flow(dataset: str, seed: int) -> FlowRecord:
    quality = Path(layout.QUALITY.format(dataset=dataset, seed=seed))
    model = layout.FLOW.format(dataset=dataset, seed=seed)
    return FlowRecord(
        dataset=dataset,
        seed=seed,
        quality=_manifest(quality / "quality.json", QUALITY),
        curve=read_table(Path(model + ".csv"), ["step", "loss", "validation_loss"]),
        manifest=_manifest(Path(model + ".json")),
        picture=_read(quality / "latent.png"),
    )


def _data(params: Params, dataset: str) -> dict[str, Any]:
    """A dataset's manifest; `FLPError` where that of a user's task, by which its policies are judged, is missing."""
    path = Path(layout.DATA.format(dataset=dataset) + ".json")
    return _manifest(path) if path.exists() or dataset in params.tasks else {}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FLPError(f"{path} does not exist; {REMEDY}") from None
    except OSError as error:
        raise FLPError(f"cannot read {path}: {explained(error)}") from error


def _manifest(path: Path, entries: Iterable[str] = ()) -> dict[str, Any]:
    if not path.exists():
        raise FLPError(f"{path} does not exist; {REMEDY}")
    value = read_json(path)
    if not isinstance(value, dict) or any(entry not in value for entry in entries):
        raise FLPError(f"{path} lacks what this version of flp writes there; delete its folder and run again")
    return value


def read_table(path: Path, columns: list[str], remedy: str = REMEDY) -> pd.DataFrame:
    """Read a CSV file that has at least these columns.

    Raises:
        FLPError: it is missing, unreadable, empty, or lacks a column.
    """
    if not path.exists():
        raise FLPError(f"{path} does not exist; {remedy}")
    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise FLPError(f"cannot read {path}: {explained(error)}") from error
    except ValueError as error:
        raise FLPError(f"{path} is not a table ({error}); delete its folder and run again") from error
    if missing := [name for name in columns if name not in table]:
        raise FLPError(f"{path} has no column '{missing[0]}'; delete its folder and run again")
    if table.empty:
        raise FLPError(f"{path} has no rows; delete its folder and run again")
    return table


def read_run_table(folder: Path, name: str, columns: list[str], tables: object, remedy: str = REMEDY) -> pd.DataFrame:
    """Read a table of a run's folder, see `read_table`; `FLPError` if its checksum is not the manifest's (`tables`)."""
    table = read_table(folder / name, columns, remedy)
    expected = tables.get(name) if isinstance(tables, dict) else None
    if expected is not None and sha256_of(folder / name) != expected:
        raise FLPError(
            f"{folder / name} is truncated or altered (checksum differs from the run's manifest); delete its folder "
            "and run again"
        )
    return table


def read_paths(folder: Path, phase: str) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_] | None]:
    """The xy paths `[T, 2]` that a run recorded in a phase, in order, and which reach the goal; none outside mazes.

    Older runs did not record which.
    """
    path = folder / "trajectories.npz"
    if not path.exists():
        return [], None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            numbers = [name.rpartition("_")[2] for name in file.files if name.rpartition("_")[0] == phase]
            paths = [file[f"{phase}_{number}"] for number in sorted(filter(str.isdecimal, numbers), key=int)]
            return paths, file[f"{phase}_reached"] if "reached" in numbers else None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FLPError(f"{path} cannot be read: {explained(error, 'delete its folder and run again')}") from error

"""`flp clean`: remove what no job of the experiment needs any more.

That is resume states of other parameters or sources, temporary files of killed writers and, on request, outputs of
datasets, agents, seeds, tasks and sweeps that are not part of the experiment. Datasets are never removed, nor is
anything while a job is running.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from flp.experiment import variants
from flp.experiment.graph import graph
from flp.experiment.keys import Keys
from flp.experiment.program import tool
from flp.system import layout
from flp.system.errors import FLPError
from flp.system.locks import held, remove
from flp.system.resume import load_group

OPTIONS = {
    "yes": {
        "action": "store_true",
        "help": "remove stale states (of other presets, too) and temporary files without asking",
    },
    "outputs": {"action": "store_true", "help": "with --yes: outputs of other experiments too"},
}


def needed_keys(keys: Keys) -> dict[str, set[str]]:
    """The keys that resume states of this experiment's jobs and runs carry, by stage."""
    swept = {
        keys.offline_run(job.dataset, job.agent, run)
        for job in keys.figure_jobs()
        for figure in variants.QUANTITY
        for run in keys.extra_runs(job.dataset, figure, job.seeds)
    }
    offline = {keys.offline_run(job.dataset, job.agent, run) for job in keys.jobs() for run in keys.runs(*job)}
    online = {
        keys.online_run(job.dataset, job.agent, run) for job in keys.online_jobs() for run in keys.online_runs(*job)
    }
    return {
        "download-dataset": {keys.data(dataset) for dataset in keys.params.datasets},
        "pretrain-flow": {keys.flow(dataset, seed) for dataset in keys.params.datasets for seed in keys.params.seeds},
        "invert-to-latent": {
            keys.latent(dataset, seed) for dataset in keys.params.datasets for seed in keys.params.seeds
        },
        "offline-train": offline | swept,
        "online-finetune": online,
        "figure": {keys.figure("figure2")},
    }


def stale_states(keys: Keys) -> list[Path]:
    """Resume folders that no job would resume from: those with a key or run that is not the experiment's."""
    needed = needed_keys(keys)
    stale = []
    for stage in sorted(layout.RESUME.glob("*")):
        known = needed.get(stage.name, set())
        for folder in sorted(stage.glob("*")):
            runs, _ = load_group(folder) or ([folder.name], 1)
            if not set(runs) <= known:
                stale.append(folder)
    return stale


def temporary_files() -> list[Path]:
    """Temporary files that killed writers left behind."""
    roots = [Path("data"), Path("results")]
    return sorted(path for root in roots if root.is_dir() for path in root.rglob(".*.tmp"))


def orphans(keys: Keys) -> list[Path]:
    """Result folders of datasets, agents and seeds that are not part of the experiment; the topmost of each."""
    needed = {Path(layout.REPORT), Path("results/keys"), Path("results/bench"), layout.BOARDS, layout.WANDB}
    needed |= {Path(job.folder(layout.VIDEOS)) for job in keys.jobs()}
    for artifact in graph(keys).values():
        needed |= {Path(path) for path in (*artifact.files, *artifact.runs)}
    ancestors = {parent for path in needed for parent in path.parents}

    def search(folder: Path) -> list[Path]:
        folders = []
        for child in sorted(folder.iterdir()):
            if child.is_symlink() or not child.is_dir() or child in needed:
                continue
            folders += search(child) if child in ancestors else [child]
        return folders

    root = Path("results")
    return search(root) if root.is_dir() else []


def command(keys: Keys, args: argparse.Namespace) -> int:
    """Show what can be removed, ask, and remove it; return the exit status.

    Raises:
        FLPError: a job is running, of this experiment or another: its files look like those of a killed job.
    """
    if busy := held():
        raise FLPError(f"being made just now: {', '.join(busy)}; nothing is removed while a job is running")
    groups = [
        (
            "resume states that no job of this experiment needs (perhaps of another preset), and temporary files",
            stale_states(keys) + temporary_files(),
            args.yes,
        ),
        (
            "outputs that are not part of this experiment (perhaps of another preset; made again if needed)",
            [*orphans(keys), *([layout.SPARE] if layout.SPARE.exists() else [])],
            args.yes and args.outputs,
        ),
    ]
    if not any(paths for _, paths, _ in groups):
        print("nothing to clean: everything belongs to this experiment")
        return 0
    for title, paths, agreed in groups:
        if paths:
            _show(title, paths)
            if agreed or (not args.yes and _ask()):
                for path in paths:
                    remove(path)
            else:
                print("kept" + (" (--outputs removes them too)" if args.yes else ""))
    return 0


def _show(title: str, paths: Sequence[Path]) -> None:
    print(f"{title}:")
    for path in paths:
        files = [path, *path.rglob("*")]
        size = sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())
        print(f"{decimal(size):>8}  {path}")


def _ask() -> bool:
    try:
        return input("remove these? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        print()
        return False


main = tool("clean", OPTIONS, command, __doc__)

"""`flp clean`: what no job of the experiment needs any more.

Resume states of other parameters or sources, temporary files of killed writers, and, where asked for, outputs of
datasets, agents and seeds that are no part of the experiment. Datasets are never removed, and nothing while a job is
under way.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flp.experiment import variants
from flp.experiment.graph import graph
from flp.experiment.keys import Keys
from flp.experiment.program import tool
from flp.system import layout
from flp.system.errors import FLPError
from flp.system.locks import held, remove
from flp.system.resume import load_group

OPTIONS = {
    "yes": {"action": "store_true", "help": "remove stale states and temporary files without asking"},
    "outputs": {"action": "store_true", "help": "with --yes: outputs of other experiments too"},
}


def needed_keys(keys: Keys) -> dict[str, set[str]]:
    """By stage, the keys of jobs and runs that this experiment's resume states carry."""
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
    """Resume folders that no job would go on from: not its own, or of runs that are not all the experiment's."""
    wanted = needed_keys(keys)
    stale = []
    for stage in sorted(layout.RESUME.glob("*")):
        known = wanted.get(stage.name, set())
        for folder in sorted(stage.glob("*")):
            runs, _ = load_group(folder) or ([folder.name], 1)
            if not set(runs) <= known:
                stale.append(folder)
    return stale


def temporary_files() -> list[Path]:
    """What killed writers left half-written."""
    roots = [Path("data"), Path("results")]
    return sorted(path for root in roots if root.is_dir() for path in root.rglob(".*.tmp"))


def orphans(keys: Keys) -> list[Path]:
    """Result folders of datasets, agents and seeds that are no part of the experiment; the topmost of each."""
    kept = {Path(layout.REPORT), Path("results/keys"), Path("results/bench"), layout.BOARDS, layout.WANDB}
    kept |= {Path(job.folder(layout.VIDEOS)) for job in keys.jobs()}
    for artifact in graph(keys).values():
        kept |= {Path(path) for path in (*artifact.files, *artifact.runs)}
    above = {parent for path in kept for parent in path.parents} | kept

    def search(folder: Path) -> list[Path]:
        found = []
        for child in sorted(folder.iterdir()):
            if child.is_symlink() or not child.is_dir() or child in kept:
                continue
            found += search(child) if child in above else [child]
        return found

    root = Path("results")
    return search(root) if root.is_dir() else []


def command(keys: Keys, args: argparse.Namespace) -> int:
    """Show what could go, ask, remove it; return the exit status.

    Raises:
        FLPError: a job is under way, of this experiment or another: what it writes looks like what killed ones left.
    """
    if busy := held():
        raise FLPError(f"being made just now: {', '.join(busy)}; nothing is removed while a job is under way")
    groups = [
        ("resume states and temporary files that no job needs", stale_states(keys) + temporary_files(), args.yes),
        (
            "outputs that are no part of this experiment (of another preset, perhaps; made anew if needed)",
            orphans(keys),
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
        print(f"{size / 1e6:8.1f} MB  {path}")


def _ask() -> bool:
    try:
        return input("remove these? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        print()
        return False


main = tool("clean", OPTIONS, command, __doc__)

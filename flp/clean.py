"""`flp clean`: resume states that no job of the experiment needs any more."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from flp import layout
from flp.keys import Keys, hash_of


def needed(keys: Keys) -> set[Path]:
    """The resume folders that this experiment's jobs would go on from (on one shard per job)."""
    folders = set()
    for dataset in keys.params.datasets:
        folders.add(layout.resume_folder("download-dataset", keys.data(dataset)))
        for seed in keys.params.seeds:
            folders.add(layout.resume_folder("pretrain-flow", keys.flow(dataset, seed)))
    return folders


def stale(keys: Keys) -> list[Path]:
    """Resume folders that are not needed. Those of training runs are needed while a run of theirs is in `needed`."""
    wanted = needed(keys)
    run_keys = {keys.offline_run(d, a, r) for d, a, s in keys.jobs() for r in keys.runs(d, a, s)}
    run_keys |= {keys.online_run(d, a, r) for d, a, s in keys.online_jobs() for r in keys.online_runs(d, a, s)}
    single = {hash_of([key]) for key in run_keys}
    found = [folder for stage in sorted(layout.RESUME.glob("*")) for folder in sorted(stage.glob("*"))]
    return [folder for folder in found if folder not in wanted and folder.name not in single]


def command(keys: Keys, args: argparse.Namespace) -> int:
    """Show the stale states, ask, remove them; return the exit status."""
    folders = stale(keys)
    if not folders:
        print("nothing to clean: every resume state belongs to this experiment")
        return 0
    for folder in folders:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{size / 1e6:8.1f} MB  {folder}")
    if not args.yes and input("remove these? [y/N] ").strip().lower() not in {"y", "yes"}:
        return 1
    for folder in folders:
        shutil.rmtree(folder)
    return 0

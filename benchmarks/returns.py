"""The effect of faster settings on returns: the default experiment trained in each, on the same flow and episodes.

Run as `python -m benchmarks.returns [--settings NAME ...] [--seeds 0 1] [--threads N] [--folder DIR]`. The second seed
is the yardstick: a setting that differs from float32 by less than another seed does is harmless. tf32 needs a GPU.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml

from flp.learner.devices import available_cores
from flp.system import layout

REPO = Path(__file__).resolve().parent.parent
SETTINGS = {
    "float32": {},
    "compiled": {"compile": True},
    "tf32": {"precision": "tf32"},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16-compiled": {"precision": "bfloat16", "compile": True},
}


def stage(folder: Path, name: str, *options: str) -> None:
    """Run a stage's program in a folder; its progress is shown."""
    program = [sys.executable, "-m", f"flp.stages.{name}", "--params", str(REPO / "params.yaml"), *options]
    subprocess.run(program, cwd=folder, env={**os.environ, "PYTHONPATH": str(REPO)}, check=True)


def prepare(folder: Path, dataset: str, seeds: list[int], threads: int) -> None:
    """Make the dataset, the flows and the latents that all settings share."""
    common = ("--dataset", dataset, "--threads", str(threads))
    stage(folder, "download_dataset", *common)
    for seed in map(str, seeds):
        stage(folder, "pretrain_flow", *common, "--seed", seed)
        stage(folder, "invert_to_latent", *common, "--seed", seed)


def train(folder: Path, dataset: str, setting: str, seed: int, threads: int) -> tuple[list[float], float]:
    """Success of the last three evaluations by task, and the seconds that it took."""
    preset = folder / f"{setting}.yaml"
    preset.write_text(yaml.safe_dump({"offline": SETTINGS[setting]}))
    options = ("--dataset", dataset, "--seeds", str(seed), "--threads", str(threads), "--preset", str(preset))
    start = time.monotonic()
    stage(folder, "offline_train", *options)
    seconds, by_task = time.monotonic() - start, []
    for run in sorted((folder / layout.OFFLINE.format(dataset=dataset, agent="flp", seeds=seed)).glob("task*")):
        rows = csv.DictReader((run / "evaluations.csv").read_text().splitlines())
        by_task.append(statistics.mean([float(row["success"]) for row in rows if row["phase"] == "offline"][-3:]))
    return by_task, seconds


def main() -> None:
    """Train in every setting; print a table."""
    usual = [name for name in SETTINGS if name != "tf32" or torch.cuda.is_available()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=usual)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--folder", type=Path, help="where to work, kept")
    args = parser.parse_args()
    dataset: str = yaml.safe_load((REPO / "params.yaml").read_text())["datasets"][0]
    with TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, dataset, args.seeds, args.threads)
        lines = [f"{dataset}, last three evaluations, percent", f"{'setting':<17} {'seed':>4} {'mean':>5}  by task"]
        for setting in args.settings:
            for seed in args.seeds:
                by_task, seconds = train(folder, dataset, setting, seed, args.threads)
                mean, shares = 100 * statistics.mean(by_task), " ".join(f"{100 * s:3.0f}" for s in by_task)
                lines.append(f"{setting:<17} {seed:4} {mean:5.1f}  {shares}  ({seconds:.0f} s)")
                print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()

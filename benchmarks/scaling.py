"""Time and memory of an update against runs, batch size, network width, N and dataset size.

`python -m benchmarks.scaling [--threads N] [--device cpu|cuda]` writes results/bench/scaling.csv and scaling.svg.
From a common point (one run, batch 256, 256×2 networks, N = 4, 100,000 transitions) one number is changed at a time.
Every point is measured in a process of its own, whose peak memory it reports: on a CPU beyond what the libraries
take, on a GPU as PyTorch counts it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
import torch

from benchmarks.loading import memory
from benchmarks.measure import row
from benchmarks.subject import make_trainer
from flp.learner.devices import available_cores, device_name, set_up
from flp.system.artifacts import write_csv

COMMON = {"runs": 1, "batch": 256, "width": 256, "candidates": 4, "rows": 100_000}
AXES = {
    "runs": (1, 2, 5, 10, 40),
    "batch": (64, 256, 1024),
    "width": (64, 128, 256, 512),
    "candidates": (1, 4, 16),
    "rows": (10_000, 100_000, 1_000_000),
}
TITLES = {"runs": "runs", "batch": "batch size", "width": "network width", "candidates": "N", "rows": "transitions"}
FOLDER = Path("results/bench")


def measure(threads: int, device_: str, point: dict[str, int], seconds: float = 1.5) -> dict[str, float]:
    """Milliseconds of an update and peak MiB, in this process."""
    device = set_up(threads, device_)
    before = memory("VmRSS")
    trainer = make_trainer(
        point["runs"],
        28,
        5,
        [point["width"]] * 2,
        device,
        point["batch"],
        rows=point["rows"],
        candidates=point["candidates"],
    )

    def finish() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    count = 1 if device.type == "cpu" else 10
    for _ in range(3):  # on a GPU, the second call captures
        trainer.run_chunk(count)
    times: list[float] = []
    start = finish()
    while not times or time.perf_counter() - start < seconds:
        began = finish()
        trainer.run_chunk(count)
        times.append((finish() - began) / count)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = (memory("VmHWM") - before) / 2**20
    return {"ms": 1e3 * min(times), "mib": peak}  # the least: other programs come and go


def table(threads: int, device: str) -> list[dict[str, Any]]:
    """Every point, measured in turn; a point on several axes is measured once."""
    known: dict[tuple[int, ...], dict[str, float]] = {}
    lines = []
    for axis, values in AXES.items():
        for value in values:
            point = COMMON | {axis: value}
            key = tuple(point.values())
            if key not in known:
                command = [sys.executable, "-m", "benchmarks.scaling", "--threads", str(threads), "--device", device]
                done = subprocess.run(
                    [*command, "--point", json.dumps(point)], check=True, capture_output=True, text=True
                )
                known[key] = json.loads(done.stdout)
            measured = known[key]
            print(
                f"{TITLES[axis]:<14} {value:>9} {measured['ms']:10.2f} ms {measured['mib']:8.0f} MiB", file=sys.stderr
            )
            lines.append({"axis": axis, "value": value, **measured})
    return lines


def write(lines: list[dict[str, Any]], where: str) -> None:
    """The table as CSV and as a picture."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rounded = [{**line, "ms": round(line["ms"], 3), "mib": round(line["mib"], 1)} for line in lines]
    write_csv(FOLDER / "scaling.csv", rounded)
    plt.rcParams |= {"svg.hashsalt": "flp", "svg.fonttype": "none"}
    figure, rows = plt.subplots(2, len(AXES), figsize=(11, 4), sharey="row", layout="constrained")
    for (what, unit), panels in zip((("ms", "ms per update"), ("mib", "peak MiB")), rows, strict=True):
        for axis, panel in zip(AXES, panels, strict=True):
            mine = [line for line in lines if line["axis"] == axis]
            panel.loglog([line["value"] for line in mine], [line[what] for line in mine], "o-", color="#20639b")
            panel.grid(alpha=0.3)
            panel.minorticks_off()
            panel.set_xticks(AXES[axis], [f"{value:,}" if value < 10**4 else f"{value:.0e}" for value in AXES[axis]])
            if what == "mib":
                panel.set_xlabel(TITLES[axis])
        panels[0].set_ylabel(unit)
    figure.suptitle(f"One update of all runs, 256×2 networks if not said otherwise; {where}", fontsize=10)
    figure.savefig(FOLDER / "scaling.svg", metadata={"Date": None})
    plt.close(figure)


def rows(threads: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Measure, write, and return the rows of forty runs' update against one's, for the common report."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = table(threads, device)
    name = device_name(torch.device(device))
    write(lines, f"{name}, {threads} threads")
    one, *_, forty = [line["ms"] for line in lines if line["axis"] == "runs"]
    title = "run-updates/s of 40 runs together against one alone"
    return [row(title, threads, 40e3 / forty, "run-updates/s", 1e3 / one, name)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(options.threads, options.device, options.point)))
    else:
        rows(options.threads, options.device)

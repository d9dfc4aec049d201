"""The overhead of the graph itself: a dry run of the paper's protocol."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import row

GOAL = 15.0  # seconds


def rows() -> list[dict[str, Any]]:
    command = [str(Path(sys.executable).with_name("snakemake")), "-n", "--quiet", "all"]
    command += ["--configfile", "presets/paper.yaml"]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return [row("dry run of presets/paper.yaml (goal over time)", 1, time.perf_counter() - start, "s", GOAL)]


if __name__ == "__main__":
    print(rows())

"""Peak memory of loading a million transitions in a fresh process, relative to the size of the arrays."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import row

ROWS, EPISODE = 1_001_000, 1001
GOAL = 1.5  # times the arrays' size
_CHILD = """
import sys
from benchmarks.loading import memory
from flp.data.load import read_dataset
before = memory("VmRSS")
data = read_dataset(sys.argv[1])
arrays = (data.observations, data.actions, data.terminals, data.qpos, data.qvel)
print(memory("VmHWM") - before, sum(array.nbytes for array in arrays))
"""


def memory(which: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at its peak. (`ru_maxrss` would start with the parent's.)"""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(which)).split()[1])


def rows() -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)

    def columns(width: int) -> np.ndarray[Any, Any]:
        return generator.random((ROWS, width), np.float32)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        ends = np.arange(1, ROWS + 1) % EPISODE == 0
        # The sizes of cube-double.
        np.savez(path, observations=columns(37), actions=columns(5), terminals=ends, qpos=columns(21), qvel=columns(20))
        done = subprocess.run([sys.executable, "-c", _CHILD, str(path)], check=True, capture_output=True, text=True)
    peak, size = map(float, done.stdout.split())
    return [
        row("peak of loading 1M transitions, over the arrays' size", 1, peak / size, "times", GOAL),
    ]


if __name__ == "__main__":
    for line in rows():
        print(f"{line['name']:<55} {line['value']:10.2f} {line['unit']}")

"""Timing and baselines that the benchmarks share, and the rows they report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from flp.data import controllers, environments


def seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def least_processor_seconds(work: Callable[[], object], rounds: int) -> float:
    """Processor time of a call, the minimum over rounds: other programs come and go."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def sgemm_rate(device: torch.device) -> float:
    """GFLOP/s of float32 products of an update's sizes: [1024, 512] × [512, 512], twice."""
    a, b = torch.randn(2, 1024, 512, device=device), torch.randn(2, 512, 512, device=device)
    work = 2 * 2 * 1024 * 512 * 512 / 1e9
    torch.bmm(a, b)
    return 50 * work / min(seconds(lambda: [torch.bmm(a, b) for _ in range(50)], 5, device) for _ in range(2))


def row(name: str, threads: int, value: float, unit: str, baseline: float, device: str = "cpu") -> dict[str, Any]:
    return {
        "name": name,
        "device": device,
        "threads": threads,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": value / baseline,
    }


@contextmanager
def as_ogbench_has_it() -> Iterator[None]:
    """Make environments and controllers in the block OGBench's own, as with an unknown version of it."""
    with patch.object(environments, "is_known_version", bool), patch.object(controllers, "is_known_version", bool):
        yield

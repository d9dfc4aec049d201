"""A trace of where a stage spends its time, for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from flp.system.artifacts import write_verified


@contextmanager
def profiled(folder: Path) -> Iterator[None]:
    """Record everything that PyTorch runs in the block to `trace.json.gz` in the folder. Keep such runs short."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        yield
    path = folder / "trace.json.gz"
    temporary = folder / ".trace.json.gz"  # the exporter chooses compression by the name
    folder.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(temporary))

    def move(target: Path) -> None:
        temporary.replace(target)

    write_verified(path, move)
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=15), file=sys.stderr)
    print(f"trace: {path}", file=sys.stderr)

"""Show all running and finished jobs of this checkout on one screen: step, success so far, speed, time left, host.

It reads what the stages write anyway, also those of other machines that share the folder, and disturbs nobody. A job
is `stopped` where its process is gone before it was done (the same command goes on from its last state), and `silent`
where another machine's has told nothing for ten minutes.
"""

from __future__ import annotations

import argparse
import csv
import math
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from flp.experiment.program import positive, program
from flp.supervision import status
from flp.system import layout
from flp.system.artifacts import read_entries, read_json
from flp.system.errors import FLPError
from flp.tools.columns import plain

if TYPE_CHECKING:
    from rich.table import Table

OPTIONS: dict[str, dict[str, Any]] = {
    "once": {"action": "store_true", "help": "print every job once, for logs, as where there is no terminal"},
    "every": {"type": positive, "default": 2, "metavar": "N", "help": "seconds between two looks (default: 2)"},
}
STATES = ("running", "silent", "stopped", "failed", "done")
COLORS = {"running": "green", "silent": "yellow", "stopped": "yellow", "failed": "red", "done": "dim"}
SILENT = 600.0  # seconds
# Where each stage's manifests lie; what a job makes is its manifest's path without this ending.
DONE = {
    "download-dataset": (layout.DATA, ".json"),
    "pretrain-flow": (layout.FLOW, ".json"),
    "invert-to-latent": (layout.LATENT, ".json"),
    "offline-train": (layout.OFFLINE, "/manifest.json"),
    "offline-sweep": (layout.SWEEP, "/manifest.json"),
    "online-finetune": (layout.ONLINE, "/manifest.json"),
}
STAGES = tuple(DONE)


@dataclass(frozen=True)
class Row:
    """One job, or what one of its processes tells of it; None where nothing is known."""

    makes: str
    stage: str
    dataset: str
    agent: str | None
    state: str
    runs: int | None = None
    step: float | None = None
    total: float | None = None
    success: float | None = None
    rate: float | None = None
    seconds: float | None = None
    """Left of a running one, spent on one that is done."""
    host: str | None = None

    @property
    def order(self) -> tuple[Any, ...]:
        """Running ones first, then by dataset and stage."""
        return STATES.index(self.state), self.dataset, STAGES.index(self.stage), self.makes


def command(args: argparse.Namespace) -> int:
    """Show the jobs, once or until Ctrl-C; return the exit status."""
    from rich.console import Console
    from rich.live import Live

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 200, highlight=False)  # a log's lines are as long as they need to be
    if args.once or not terminal:
        console.print(table(rows()))
        return 0
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(table(rows(), most=max(1, console.height - 6)), refresh=True)
                time.sleep(args.every)
    except KeyboardInterrupt:
        return 0


def rows() -> list[Row]:
    """Every job that is under way, was begun, or is done."""
    found = {row.makes: row for row in finished()}
    told: dict[str, list[Row]] = {}
    for row in under_way():
        told.setdefault(row.makes, []).append(row)
    found |= {makes: joined(parts) for makes, parts in told.items()}
    return sorted(found.values(), key=lambda row: row.order)


def under_way() -> Iterator[Row]:
    """What the processes tell that are at work, or were and left a state."""
    for file in layout.RESUME.glob(f"*/*/{status.NAME}"):
        try:
            told = read_json(file)
            if told["stage"] in STAGES and isinstance(told["dataset"], str) and isinstance(told["makes"], str):
                yield _told(told)
        except (FLPError, KeyError, TypeError, AttributeError, ValueError):
            continue  # just removed, or none of ours


def _told(told: dict[str, Any]) -> Row:
    here = told.get("host") == platform.node()
    if here and status.began(int(told["pid"])) != told["began"]:
        state = "stopped"
    else:
        state = "running" if here or time.time() - float(told["updated"]) < SILENT else "silent"
    return Row(
        makes=told["makes"],
        stage="offline-sweep" if "/sweep/" in told["makes"] else told["stage"],
        dataset=told["dataset"],
        agent=_text(told.get("agent")),
        state=state,
        runs=len(told["runs"]) if isinstance(told.get("runs"), list) else None,
        step=_number(told.get("step")),
        total=_number(told.get("total")),
        success=_number(told.get("success")),
        rate=_number(told.get("rate")) if state == "running" else None,
        seconds=_number(told.get("left")) if state == "running" else None,
        host=_text(told.get("host")),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def joined(parts: list[Row]) -> Row:
    """One row of the processes that make the same thing: it is where its slowest is, and as well off as their mean."""
    parts = [part for part in parts if part.state == min((p.state for p in parts), key=STATES.index)]

    def known(name: str) -> list[Any]:
        return [value for part in parts if (value := getattr(part, name)) is not None]

    scored = [(part.success, part.runs or 1) for part in parts if part.success is not None]
    first = parts[0]
    return Row(
        *(first.makes, first.stage, first.dataset, first.agent, first.state),
        runs=sum(known("runs")) or None,
        step=min(known("step"), default=None),
        total=first.total,
        success=sum(s * n for s, n in scored) / sum(n for _, n in scored) if scored else None,
        rate=min(known("rate"), default=None),
        seconds=max(known("seconds"), default=None),
        host=", ".join(sorted(set(known("host")))) or None,
    )


def finished() -> Iterator[Row]:
    """What is done, or has failed, by what lies in the folders."""
    for stage, (pattern, ending) in DONE.items():
        anything = pattern.format(dataset="*", seed="*", agent="*", seeds="*", figure="*")
        for path in Path().glob(anything + ending):
            if path.name != "sha256.json":  # in data/, of downloads
                yield _done(stage, str(path).removesuffix(ending), path, path.stat().st_mtime_ns)
        if ending.startswith("/"):
            for folder in {path.parent.parent for path in Path().glob(f"{anything}/*/failed.json")}:
                if not (folder / "manifest.json").exists():
                    failed = len(list(folder.glob("*/failed.json")))
                    yield Row(str(folder), stage, folder.parts[1], _agent(stage, folder), "failed", failed)


def _agent(stage: str, folder: Path) -> str | None:
    """Of a job of several runs: `results/{dataset}/offline/{agent}/seed0`; only FLP is swept."""
    if not DONE[stage][1].startswith("/"):
        return None
    return "flp" if stage == "offline-sweep" else folder.parts[3]


@cache
def _done(stage: str, makes: str, manifest: Path, changed: int) -> Row:
    """A job that is done, read once for each version of its manifest."""
    folder = Path(makes)
    dataset = folder.name if stage == "download-dataset" else folder.parts[1]
    found = read_entries(manifest)
    if not DONE[stage][1].startswith("/"):
        return Row(makes, stage, dataset, None, "done", seconds=_number(found.get("seconds")))
    runs = [name for name in found.get("runs", {}) if (folder / name).is_dir()]
    manifests = [read_entries(folder / name / "policy.json") for name in runs]
    steps = [value for run in manifests if (value := _number(run.get("step"))) is not None]
    spent = [value for run in manifests if (value := _number(run.get("seconds"))) is not None]
    ends = [value for name in runs if (value := _last_success(folder / name / "evaluations.csv")) is not None]
    return Row(
        *(makes, stage, dataset, _agent(stage, folder), "done", len(runs)),
        step=min(steps, default=None),
        total=min(steps, default=None),
        success=sum(ends) / len(ends) if ends else None,
        seconds=sum(spent) if spent else None,
    )


def _last_success(path: Path) -> float | None:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [float(row["success"]) for row in csv.DictReader(file)][-1]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def table(jobs: list[Row], most: int | None = None) -> Table:
    """The jobs as a table of at most so many rows."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    counts = Counter(job.state for job in jobs)
    title = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no jobs here yet"
    hidden = len(jobs) - len(jobs[:most])
    caption = f"and {hidden} more: flp watch --once" if hidden else None
    shown = Table(title=f"{time.strftime('%H:%M:%S')}  {title}", caption=caption, box=box.SIMPLE, title_justify="left")
    for name in ("state", "stage", "dataset", "agent", "seeds", "runs", "step", "success", "rate", "time", "host"):
        shown.add_column(name, justify="right" if name in {"runs", "step", "success", "rate", "time"} else "left")
    for job in jobs[:most]:
        shown.add_row(*(Text(plain(cell)) for cell in cells(job)), style=COLORS[job.state])
    return shown


def cells(job: Row) -> Iterable[str]:
    """What a row shows."""
    seeds = re.search(r"/seed([\d-]+)", job.makes)
    step = "" if job.step is None else f"{job.step:.0f}" + ("" if job.total is None else f"/{job.total:.0f}")
    spent = {"running": " left", "done": " spent"}.get(job.state, "")
    return (
        *(job.state, job.stage, job.dataset, job.agent or "", seeds[1] if seeds else ""),
        "" if job.runs is None else str(job.runs),
        step,
        "" if job.success is None else f"{100 * job.success:.0f} %",
        "" if job.rate is None else f"{job.rate:.3g}/s",
        "" if job.seconds is None else f"{tqdm.format_interval(round(job.seconds))}{spent}",
        job.host or "",
    )


main = program("watch", OPTIONS, command, __doc__)

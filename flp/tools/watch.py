"""Show all running and finished jobs of this checkout on one screen: step, success so far, speed, time left, host.

It only reads what the stages write anyway, including those on other machines that share the folder. A job is `failed`
if it ended with an error, `stopped` if its process ended in another way (the same command resumes it), and `silent` if
it runs on another machine and has reported nothing for ten minutes.
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
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from glob import iglob
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
    "once": {"action": "store_true", "help": "print every job once, as for logs or without a terminal"},
    "every": {"type": positive, "default": 2, "metavar": "N", "help": "seconds between updates (default: 2)"},
}
STATES = ("running", "silent", "stopped", "failed", "done")
COLORS = {"running": "green", "silent": "yellow", "stopped": "yellow", "failed": "red", "done": "dim"}
COLUMNS = ("state", "stage", "dataset", "agent", "seeds", "runs", "step", "success", "rate", "time", "host")
DROPPED = ("runs", "host", "rate", "seeds", "success", "agent")  # in this order, where a terminal is too narrow
SILENT = 600.0  # seconds
# The manifests of each stage, and the ending without which a manifest's path names what the job makes.
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
    """One job, or what one of its processes reports; None for what is unknown."""

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
    """Left for a running job, spent on a finished one."""
    host: str | None = None
    when: float = 0.0
    """When it reported last, or was done; seconds of the file's clock."""

    @property
    def order(self) -> tuple[Any, ...]:
        """Running jobs first, then by dataset and stage."""
        return STATES.index(self.state), self.dataset, STAGES.index(self.stage), self.makes


def command(args: argparse.Namespace) -> int:
    """Show the jobs, once or until Ctrl-C; return the exit status."""
    from rich.console import Console
    from rich.live import Live

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 200, highlight=False)  # a log's lines are as long as they need to be
    if args.once or not terminal:
        console.print(table(rows(), width=console.width))
        return 0
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(table(rows(), most=max(1, console.height - 6), width=console.width), refresh=True)
                time.sleep(args.every)
    except KeyboardInterrupt:
        return 0


def rows() -> list[Row]:
    """Every job that is running, was interrupted, or is done."""
    by_job = {row.makes: row for row in finished()}
    reports: dict[str, list[Row]] = {}
    for row in reported():
        ended, done = row.state in ("stopped", "failed"), by_job.get(row.makes)
        if not (ended and done is not None and done.when >= row.when):  # made since, with other values
            reports.setdefault(row.makes, []).append(row)
    by_job |= {makes: joined(parts) for makes, parts in reports.items()}
    return sorted(by_job.values(), key=lambda row: row.order)


def reported() -> Iterator[Row]:
    """What running processes report, and interrupted ones last did."""
    for file in _existing(f"{layout.RESUME}/*/*/{status.NAME}"):
        try:
            report = read_json(file)
            if report["stage"] in STAGES and isinstance(report["dataset"], str) and isinstance(report["makes"], str):
                yield _row(report)
        except (FLPError, KeyError, TypeError, AttributeError, ValueError):
            continue  # just removed, or not a status


def _row(report: dict[str, Any]) -> Row:
    here = report.get("host") == platform.node()
    if report.get("failed") is True:
        state = "failed"
    elif here and status.process_start(int(report["pid"])) != report["began"]:
        state = "stopped"
    else:
        state = "running" if here or time.time() - float(report["updated"]) < SILENT else "silent"
    return Row(
        makes=report["makes"],
        stage="offline-sweep" if "/sweep/" in report["makes"] else report["stage"],
        dataset=report["dataset"],
        agent=_text(report.get("agent")),
        state=state,
        runs=len(report["runs"]) if isinstance(report.get("runs"), list) else None,
        step=_number(report.get("step")),
        total=_number(report.get("total")),
        success=_number(report.get("success")),
        rate=_number(report.get("rate")) if state == "running" else None,
        seconds=_number(report.get("left")) if state == "running" else None,
        host=_text(report.get("host")),
        when=float(report["updated"]),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def joined(parts: list[Row]) -> Row:
    """One row for the processes of one job: the step of the slowest, and their mean success."""
    parts = [part for part in parts if part.state == min((p.state for p in parts), key=STATES.index)]

    def known(name: str) -> list[Any]:
        return [value for part in parts if (value := getattr(part, name)) is not None]

    scored = [(part.success, part.runs or 1) for part in parts if part.success is not None]
    first = parts[0]
    return Row(
        makes=first.makes,
        stage=first.stage,
        dataset=first.dataset,
        agent=first.agent,
        state=first.state,
        runs=sum(known("runs")) or None,
        step=min(known("step"), default=None),
        total=first.total,
        success=sum(s * n for s, n in scored) / sum(n for _, n in scored) if scored else None,
        rate=min(known("rate"), default=None),
        seconds=max(known("seconds"), default=None),
        host=", ".join(sorted(set(known("host")))) or None,
        when=max(known("when")),
    )


def finished() -> Iterator[Row]:
    """The jobs that are done or have failed, by their folders."""
    for stage, (pattern, ending) in DONE.items():
        anything = pattern.format(dataset="*", seed="*", agent="*", seeds="*", figure="*")
        for path in _existing(anything + ending):
            if path.name != "sha256.json":  # in data/, of downloads
                with suppress(OSError, TypeError, ValueError, AttributeError):  # just removed, or no manifest
                    yield _done(stage, str(path).removesuffix(ending), path, path.stat().st_mtime_ns)
        if ending.startswith("/"):
            failed = Counter(path.parent.parent for path in _existing(f"{anything}/*/failed.json"))
            for folder, runs in failed.items():
                if not (folder / "manifest.json").exists():
                    yield Row(str(folder), stage, folder.parts[1], _agent(stage, folder), "failed", runs)


def _existing(pattern: str) -> Iterator[Path]:
    """The paths that match; unlike `Path.glob`, this survives folders that a job removes at that moment."""
    return map(Path, iglob(pattern))  # noqa: PTH207


def _agent(stage: str, folder: Path) -> str | None:
    """The agent of a job of several runs, by its path `results/{dataset}/offline/{agent}/seed0`; only FLP is swept."""
    if not DONE[stage][1].startswith("/"):
        return None
    return "flp" if stage == "offline-sweep" else folder.parts[3]


@cache
def _done(stage: str, makes: str, manifest: Path, changed: int) -> Row:
    """A finished job, read once for each version of its manifest."""
    folder = Path(makes)
    dataset = folder.name if stage == "download-dataset" else folder.parts[1]
    entries = read_entries(manifest)
    if not DONE[stage][1].startswith("/"):
        return Row(makes, stage, dataset, None, "done", seconds=_number(entries.get("seconds")), when=changed / 1e9)
    runs = [name for name in entries.get("runs", {}) if (folder / name).is_dir()]
    manifests = [read_entries(folder / name / "policy.json") for name in runs]
    steps = [value for run in manifests if (value := _number(run.get("step"))) is not None]
    spent = [value for run in manifests if (value := _number(run.get("seconds"))) is not None]
    ends = [value for name in runs if (value := _last_success(folder / name / "evaluations.csv")) is not None]
    return Row(
        makes,
        stage,
        dataset,
        _agent(stage, folder),
        "done",
        runs=len(runs),
        step=min(steps, default=None),
        total=min(steps, default=None),
        success=sum(ends) / len(ends) if ends else None,
        seconds=sum(spent) if spent else None,
        when=changed / 1e9,
    )


def _last_success(path: Path) -> float | None:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [float(row["success"]) for row in csv.DictReader(file)][-1]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def table(jobs: list[Row], most: int | None = None, width: int = 200) -> Table:
    """The jobs as a table of at most `most` rows, a line each, for a terminal of that width."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    counts = Counter(job.state for job in jobs)
    title = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no jobs here yet"
    hidden = len(jobs) - len(jobs[:most])
    caption = f"and {hidden} more: flp watch --once" if hidden else None
    view = Table(title=f"{time.strftime('%H:%M:%S')}  {title}", caption=caption, box=box.SIMPLE, title_justify="left")
    rows = [cells(job) for job in jobs[:most]]
    # A row is a line, or fewer would fit on the screen than are counted; names of datasets give way.
    needs = {name: max(len(name), *(len(row[name]) for row in rows)) if rows else len(name) for name in COLUMNS}
    least, shown = needs | {"dataset": min(12, needs["dataset"])}, list(COLUMNS)

    def excess() -> int:
        return sum(least[name] + 3 for name in shown) + 1 - width

    for name in DROPPED:
        if excess() > 0:
            shown.remove(name)
    room = least["dataset"] + max(0, -excess())
    for name in shown:
        just: Any = "right" if name in {"runs", "step", "success", "rate", "time"} else "left"
        view.add_column(name, justify=just, no_wrap=True, max_width=room if name == "dataset" else None)
    for job, row in zip(jobs, rows, strict=False):
        view.add_row(*(Text(plain(row[name])) for name in shown), style=COLORS[job.state])
    return view


def cells(job: Row) -> dict[str, str]:
    """The cells of a job's row, by column."""
    seeds = re.search(r"/seed([\d-]+)", job.makes)
    step = "" if job.step is None else f"{job.step:.0f}" + ("" if job.total is None else f"/{job.total:.0f}")
    spent = {"running": " left", "done": " spent"}.get(job.state, "")
    return {
        "state": job.state,
        "stage": job.stage,
        "dataset": job.dataset,
        "agent": job.agent or "",
        "seeds": seeds[1] if seeds else "",
        "runs": "" if job.runs is None else str(job.runs),
        "step": step,
        "success": "" if job.success is None else f"{100 * job.success:.0f} %",
        "rate": "" if job.rate is None else f"{job.rate:.3g}/s",
        "time": "" if job.seconds is None else f"{tqdm.format_interval(round(job.seconds))}{spent}",
        "host": job.host or "",
    }


main = program("watch", OPTIONS, command, __doc__)

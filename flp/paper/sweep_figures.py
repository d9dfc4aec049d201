"""Figures 3, 4 and 5: success with and without best-of-N, against α, and against N.

Numbers follow the tables' rule, the mean of a run's last evaluations, and the paper's Figure 3 shows each
environment's default task where it was run. The paper tunes α anew without best-of-N; here α stays, so that one
quantity changes at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from flp.experiment import variants
from flp.experiment.keys import Keys
from flp.paper.sheet import Legend, sheet
from flp.params.sections import OfflineSettings
from flp.report import charts
from flp.report.charts import AGENT_COLORS, FLOW_COLOR, SERIES_COLORS, Line
from flp.report.collect import EVALUATED, read_table
from flp.report.tables import Cell, cell, finals
from flp.system.layout import exact

TITLES = {
    "figure3": "Figure 3: FLP with and without best-of-N",
    "figure4": "Figure 4: sensitivity to the KL coefficient α",
    "figure5": "Figure 5: sensitivity to the number N of best-of-N",
}
SYMBOLS = {"alpha": "α", "candidates": "N"}
NUMBERS = ["mean", "std", "low", "high", "seeds", "tasks", "episodes"]
PANELS_PER_ROW = 3


def make(keys: Keys, figure: str) -> dict[str, str]:
    """The figure's texts by suffix: the picture and its numbers.

    Raises:
        FLPError: a run that the figure shows is missing or unreadable.
    """
    rows = evaluations(keys, figure)
    report = keys.params.report
    final = finals(rows, report.average_last)
    table = numbers(final[final["phase"] == "offline"], figure, report.bootstrap)
    flow = final[(final["phase"] == "behavior") & (final["variant"] == "")]
    levels = {str(name): float(part.mean()) for name, part in flow.groupby("dataset")["success"]}
    return {".svg": draw(keys, figure, table, levels), ".csv": table.to_csv(index=False, lineterminator="\n")}


def evaluations(keys: Keys, figure: str) -> pd.DataFrame:
    """One row per run and evaluation of all that the figure compares."""
    tables = []
    for dataset, agent, seeds in keys.figure_jobs():
        for folder, run in keys.figure_runs(dataset, figure, seeds).items():
            identity: dict[str, Any] = {"dataset": dataset, "agent": agent, "task": run.task, "seed": run.seed}
            identity |= {"variant": run.variant, "alpha": run.alpha, "candidates": run.candidates}
            tables.append(read_table(folder / "evaluations.csv", EVALUATED).assign(**identity))
    return pd.concat(tables, ignore_index=True)


def numbers(final: pd.DataFrame, figure: str, resamples: int) -> pd.DataFrame:
    """Success by dataset, task (and `all`) and value of the swept quantity, with its 95 % interval."""
    quantity = variants.QUANTITY[figure]
    rows = []
    for dataset, here in final.groupby("dataset", sort=False):
        tasks = [(str(task), here[here["task"] == task]) for task in sorted(here["task"].unique())]
        for task, part in [*tasks, ("all", here)]:
            for value in sorted(part[quantity].unique()):
                found = cell(part[part[quantity] == value], resamples)
                assert found is not None
                rows.append([dataset, task, value, *_rounded(found)])
    return pd.DataFrame(rows, columns=["dataset", "task", quantity, *NUMBERS])


def _rounded(found: Cell) -> list[Any]:
    values = [getattr(found, name) for name in NUMBERS]
    return [round(value, 6) if isinstance(value, float) else value for value in values]


def notes(keys: Keys, figure: str) -> list[str]:
    """What the figure shows, and at which scale."""
    quantity = variants.QUANTITY[figure]
    symbol = SYMBOLS[quantity]
    found = []
    settings = {d: keys.dataset_params(d) for d, _, _ in keys.figure_jobs()}
    others = {p.offline.candidates if quantity == "alpha" else p.offline.alpha for p in settings.values()}
    fixed = ", ".join(exact(value) for value in sorted(others))
    steps = ", ".join(charts.thousands(value) for value in sorted({p.offline.steps for p in settings.values()}))
    seeds = len(keys.params.seeds)
    sampling = "Student's, of the seeds" if seeds > 1 else "of the episodes; one seed tells no chance of training"
    found.append(
        f"{'N' if quantity == 'alpha' else 'α'} = {fixed}, {steps} offline steps, {seeds} seed{'s' * (seeds > 1)}, "
        f"mean of the last {keys.params.report.average_last} evaluations; 95 % intervals are {sampling}."
    )
    found += sorted({told for p in settings.values() for told in _unlike_the_paper(p.offline)})
    found += sorted(
        {f"Nothing is compared: {why}." for p in settings.values() if (why := p.offline.without_effect(quantity))}
    )
    if any(variants.is_implied(figure, p.offline) for p in settings.values()):
        values = ", ".join(exact(value) for value in variants.PAPER[figure])
        found.append(f"offline.sweep.{quantity} is empty, so {symbol} takes the paper's values: {values}.")
    if figure == "figure3":
        found.append("α is the same for both; the paper tunes it anew without best-of-N.")
    return found


def _unlike_the_paper(offline: OfflineSettings) -> list[str]:
    """What else decides by which of the candidates it acts, and learns."""
    told = []
    if offline.selection != "argmax":
        told.append(
            f"Among N it is resampled, at a temperature of {exact(offline.temperature)}; the paper takes the best."
        )
    if offline.acting_noise != 1:
        told.append(f"It acts by {exact(offline.acting_noise)} of the policy's deviation; the paper by all of it.")
    if offline.target_candidates is not None:
        told.append(f"Targets have an N of their own, {offline.target_candidates}; the paper's have that of acting.")
    return told


def draw(keys: Keys, figure: str, table: pd.DataFrame, levels: dict[str, float]) -> str:
    """The picture: a panel per dataset.

    Args:
        keys: the experiment's.
        figure: which.
        table: its numbers.
        levels: success of the frozen flow, by dataset.
    """
    parts = {str(name): part for name, part in table.groupby("dataset", sort=False)}
    if figure == "figure3":
        panels = [_pairs(name, part) for name, part in parts.items()]
    else:
        panels = [_curve(name, part, figure, levels.get(name)) for name, part in parts.items()]
    rows = [panels[start : start + PANELS_PER_ROW] for start in range(0, len(panels), PANELS_PER_ROW)]
    return sheet(TITLES[figure], rows, _legend(figure, table), notes(keys, figure))


def _colors(table: pd.DataFrame) -> dict[str, str]:
    """A colour per task, the same in every panel."""
    tasks = [task for task in sorted(table["task"].unique()) if task != "all"]
    return {task: SERIES_COLORS[i % len(SERIES_COLORS)] for i, task in enumerate(tasks)}


def _legend(figure: str, table: pd.DataFrame) -> Legend:
    if figure == "figure3":
        low, high = table["candidates"].min(), table["candidates"].max()
        return [(f"with best-of-N (N = {high})", AGENT_COLORS["flp"], False), (f"N = {low}", FLOW_COLOR, False)]
    tasks = [(f"task {task}", color, False) for task, color in _colors(table).items()]
    return [("mean over tasks", AGENT_COLORS["flp"], False), *tasks, ("frozen flow", FLOW_COLOR, True)]


def _pairs(dataset: str, table: pd.DataFrame) -> str:
    """Two intervals per task, and two for their mean."""
    rows: list[tuple[str, float, float, float, str]] = []
    for row in table.sort_values("candidates", ascending=False, kind="stable").to_dict("records"):
        label = "mean" if row["task"] == "all" else f"task {row['task']}"
        color = AGENT_COLORS["flp"] if row["candidates"] > variants.WITHOUT else FLOW_COLOR
        rows.append((f"{label}, N = {row['candidates']}", row["mean"], row["low"], row["high"], color))
    rows.sort(key=lambda row: row[0].partition(",")[0])  # a task's two beneath each other, the mean first
    return charts.interval_panel(rows, name=f"pairs-{dataset}", title=dataset, xlabel="success", level=None)


def _curve(dataset: str, table: pd.DataFrame, figure: str, level: float | None) -> str:
    """Success against the swept value: tasks as thin lines, their mean with its interval."""
    quantity = variants.QUANTITY[figure]
    lines = []
    for task, color in [*_colors(table).items(), ("all", AGENT_COLORS["flp"])]:
        part = table[table["task"] == task]
        x, y, low, high = (part[name].to_numpy(np.float64) for name in (quantity, "mean", "low", "high"))
        if task == "all":
            lines.append(Line(x, y, color, low=low, high=high, marker=True, width=2.6))
        else:
            lines.append(Line(x, y, color, width=0.9))
    ticks = sorted(table[quantity].unique())
    if level is not None:
        lines.append(Line(np.array([ticks[0], ticks[-1]]), np.full(2, level), FLOW_COLOR, dashed=True))
    return charts.line_panel(
        lines, name=f"{figure}-{dataset}", title=dataset, xlabel=SYMBOLS[quantity], percent=True, ticks=ticks
    )

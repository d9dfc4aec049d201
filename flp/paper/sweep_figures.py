"""Figures 3, 4 and 5: success with and without best-of-N, against α, and against N.

As in the tables, a run's success is the mean of its last evaluations; the figures show all tasks, where the paper's
Figure 3 shows each environment's default one. Without best-of-N the paper tunes α again; here α stays, so that one
quantity changes at a time.
"""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flp.experiment import variants
from flp.experiment.keys import Keys
from flp.params.sections import OfflineSettings
from flp.report import charts
from flp.report.charts import AGENT_COLORS, FLOW_COLOR, Interval, LegendEntry, Line
from flp.report.collect import EVALUATED, identity_of, read_run_table, stale_note
from flp.report.curves import SWEPT, sweep_colors, sweep_legend, sweep_lines, sweep_numbers
from flp.report.measures import scored_by_success
from flp.report.tables import FLOW, Method, finals, of_method
from flp.system.artifacts import key_of, read_entries
from flp.system.layout import exact
from flp.system.units import counted

TITLES = {
    "figure3": "Figure 3: FLP with and without best-of-N",
    "figure4": "Figure 4: sensitivity to the KL coefficient α",
    "figure5": "Figure 5: sensitivity to the number N of best-of-N",
}
PANELS_PER_ROW = 3
CHARACTERS_PER_INCH = 15  # of the notes, whose font has 7 points


def make(keys: Keys, figure: str) -> tuple[dict[str, str], list[str]]:
    """The figure's texts by suffix, the picture and its numbers; and the stale runs that it shows.

    Raises:
        FLPError: a run in the figure is missing or unreadable.
    """
    report = keys.params.report
    final = finals(scored_by_success(evaluations(keys, figure)), report.average_last)
    table = numbers(of_method(final, Method("flp")), figure, report.bootstrap)
    flow = of_method(final, FLOW)
    flow = flow[flow["variant"] == ""]
    levels = {str(name): float(part.mean()) for name, part in flow.groupby("dataset")["score"]}
    stale = [str(folder) for folder, key in _shown(keys, figure).items() if key_of(folder / "policy.json") != key]
    notes_ = [*notes(keys, figure), *filter(None, [stale_note(stale)])]
    picture = draw(figure, table, levels, notes_)
    return {".svg": picture, ".csv": table.round(6).to_csv(index=False, lineterminator="\n")}, stale


def _shown(keys: Keys, figure: str) -> dict[Path, str]:
    """The folders of the runs that the figure compares, with the keys that they must carry."""
    return {
        folder: keys.offline_run(dataset, agent, run)
        for dataset, agent, seeds in keys.figure_jobs()
        for folder, run in keys.figure_runs(dataset, figure, seeds).items()
    }


def evaluations(keys: Keys, figure: str) -> pd.DataFrame:
    """One row per run and evaluation of all that the figure compares."""
    tables, remedy = [], f"make it with `snakemake --cores all {figure}`"
    for dataset, agent, seeds in keys.figure_jobs():
        for folder, run in keys.figure_runs(dataset, figure, seeds).items():
            table = read_run_table(
                folder, "evaluations.csv", EVALUATED, read_entries(folder / "policy.json").get("tables"), remedy
            )
            tables.append(table.assign(**identity_of(dataset, agent, run)))
    return pd.concat(tables, ignore_index=True)


def numbers(final: pd.DataFrame, figure: str, resamples: int) -> pd.DataFrame:
    """The success by dataset, task (and `all`) and value of the figure's quantity; see `sweep_numbers`."""
    quantity = variants.QUANTITY[figure]
    parts = {str(name): sweep_numbers(part, quantity, resamples) for name, part in final.groupby("dataset", sort=False)}
    return pd.concat(parts, names=["dataset"]).reset_index("dataset").reset_index(drop=True)


def notes(keys: Keys, figure: str) -> list[str]:
    """What the figure shows and at which scale, a sentence or two each."""
    quantity = variants.QUANTITY[figure]
    other, symbol = ("candidates", "N") if quantity == "alpha" else ("alpha", "α")
    sections = [keys.agent_params(dataset, "flp").offline for dataset, _, _ in keys.figure_jobs()]
    fixed = ", ".join(exact(value) for value in sorted({getattr(section, other) for section in sections}))
    steps = ", ".join(charts.thousands(value) for value in sorted({section.steps for section in sections}))
    count = len(keys.params.seeds)
    interval = "Student's t over seeds" if count > 1 else "for the randomness of episodes, not of training"
    sentences = [
        f"{symbol} = {fixed}, {steps} offline steps, {counted(count, 'seed')}; means of the last "
        f"{keys.params.report.average_last} evaluations with 95 % intervals ({interval})."
    ]
    sentences += sorted({sentence for section in sections for sentence in _unlike_the_paper(section)})
    reasons = {reason for section in sections if (reason := section.without_effect(quantity))}
    sentences += sorted(f"Nothing is compared: {reason}." for reason in reasons)
    if any(variants.is_implied(figure, section) for section in sections):
        values = ", ".join(exact(value) for value in variants.PAPER[figure])
        sentences.append(f"offline.sweep.{quantity} is empty, so {SWEPT[quantity]} takes the paper's values: {values}.")
    if figure == "figure3":
        sentences.append("α is the same for both; without best-of-N the paper tunes it again.")
    return sentences


def _unlike_the_paper(offline: OfflineSettings) -> list[str]:
    """How choosing among candidates differs from the paper, if it does."""
    sentences = []
    if offline.selection != "argmax":
        temperature = exact(offline.temperature)
        sentences.append(f"Among N candidates one is resampled at temperature {temperature}; the paper takes the best.")
    if offline.acting_noise != 1:
        noise = exact(offline.acting_noise)
        sentences.append(f"The policy acts with {noise} of its standard deviation; the paper's with all of it.")
    if offline.target_candidates is not None:
        sentences.append(f"Targets use N = {offline.target_candidates}; the paper's use the policy's N.")
    return sentences


def draw(figure: str, table: pd.DataFrame, levels: dict[str, float], sentences: list[str]) -> str:
    """The picture as SVG: a panel per dataset, under the heading, the legend and the notes.

    Args:
        figure: which figure.
        table: its numbers.
        levels: the frozen flow's success by dataset.
        sentences: the notes.
    """
    parts = {str(name): part for name, part in table.groupby("dataset", sort=False)}
    columns = min(PANELS_PER_ROW, len(parts))
    rows = math.ceil(len(parts) / columns)
    width, height = charts.SIZE
    if figure == "figure3":
        height = max(charts.interval_height(part.groupby("task").ngroups * 2) for part in parts.values())
    width *= max(columns, 2)  # room for the legend
    lines = [line for note in sentences for line in textwrap.wrap(note, int(width * CHARACTERS_PER_INCH))]
    with mpl.rc_context(charts.PRINT_STYLE):
        canvas = Figure(figsize=(width, rows * height + 0.6 + 0.13 * len(lines)), layout="constrained")
        canvas.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7)
        axes = canvas.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes[len(parts) :]:
            axis.set_visible(False)
        for axis, (dataset, part) in zip(axes, parts.items(), strict=False):
            if figure == "figure3":
                charts.draw_intervals(axis, _pairs(part), title=dataset, xlabel="success")
            else:
                _draw_curve(axis, dataset, part, figure, sweep_colors(table), levels.get(dataset))
        _add_legend(canvas, TITLES[figure], _legend(figure, table))
        svg = io.StringIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()


def _legend(figure: str, table: pd.DataFrame) -> list[LegendEntry]:
    if figure == "figure3":
        low, high = table["candidates"].min(), table["candidates"].max()
        with_best = LegendEntry(f"with best-of-N (N = {high})", AGENT_COLORS["flp"])
        return [with_best, LegendEntry(f"without (N = {low})", FLOW_COLOR)]
    return [*sweep_legend(sweep_colors(table)), LegendEntry("frozen flow", FLOW_COLOR, dashed=True)]


def _add_legend(canvas: Figure, title: str, entries: list[LegendEntry]) -> None:
    """Put the heading and the legend above the panels."""
    handles = [Line2D([], [], color=e.color, linestyle="--" if e.dashed else "-", label=e.label) for e in entries]
    heading = {"size": 11, "weight": "bold"}
    layout = {"loc": "outside upper left", "ncols": len(handles), "alignment": "left", "frameon": False}
    canvas.legend(handles=handles, title=title, title_fontproperties=heading, **layout)


def _pairs(table: pd.DataFrame) -> list[Interval]:
    """Two intervals per task, the mean over tasks first, each with best-of-N above without."""
    rows = []
    for task in ["all", *(task for task in table["task"].unique() if task != "all")]:
        label = "mean" if task == "all" else f"task {task}"
        part = table[table["task"] == task].sort_values("candidates", ascending=False)
        for row in part.to_dict("records"):
            color = AGENT_COLORS["flp"] if row["candidates"] > variants.WITHOUT else FLOW_COLOR
            name = f"{label}, N = {row['candidates']}"
            rows.append(Interval(name, row["mean"], row["low"], row["high"], color))
    return rows


def _draw_curve(
    axis: Any, dataset: str, table: pd.DataFrame, figure: str, colors: dict[str, str], level: float | None
) -> None:
    """Success against the swept value, and the frozen flow's as a dashed level."""
    quantity = variants.QUANTITY[figure]
    lines = sweep_lines(table, quantity, colors)
    ticks = sorted(table[quantity].unique())
    if level is not None:
        lines.append(Line(np.array([ticks[0], ticks[-1]]), np.full(2, level), FLOW_COLOR, dashed=True))
    charts.draw_lines(axis, lines, title=dataset, xlabel=SWEPT[quantity], percent=True, ticks=ticks)

"""The figures of one dataset as groups of panels for the page: learning curves, training logs, sweeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from flp.report import charts
from flp.report.charts import AGENT_COLORS, FLOW_COLOR, SERIES_COLORS, LegendEntry, Line
from flp.report.collect import Results
from flp.report.measures import SUCCESS, Measure
from flp.report.tables import FLOW, Method, base, cell, name_of, of_method

LOG_TITLES = {
    "critic_loss": "critic loss",
    "actor_loss": "actor loss",
    "q": "Q (mean over the batch)",
    "q_max": "Q (maximum over the batch)",
    "actor_q": "Q of the policy's latents",
    "kl": "KL to the prior, nats",
    "kl_weight": "weight of the KL (α)",
    "policy_std": "standard deviation of the policy",
    "latent_norm": "|z| of the policy's latents",
}
SWEPT = {"alpha": "α", "candidates": "N"}
FINE_TUNING = "A dotted vertical line marks the start of fine-tuning. "


@dataclass(frozen=True)
class Panels:
    """A group of small figures under one heading."""

    title: str
    svgs: list[str]
    legend: list[LegendEntry] = field(default_factory=list)
    note: str = ""
    open: bool = True


def color_of(method: Method) -> str:
    """The colour of a method, the same in every figure."""
    return FLOW_COLOR if method == FLOW else AGENT_COLORS.get(method.agent, "#777777")


def legend_of(methods: Sequence[Method]) -> list[LegendEntry]:
    """A legend in which all but offline policies are dashed."""
    return [LegendEntry(m.title, color_of(m), dashed=m.phase != "offline") for m in methods]


def task_colors(tasks: Sequence[Any]) -> dict[Any, str]:
    """A colour per task."""
    return {task: SERIES_COLORS[i % len(SERIES_COLORS)] for i, task in enumerate(tasks)}


def _task_legend(colors: dict[Any, str]) -> list[LegendEntry]:
    return [LegendEntry(f"task {task}", color) for task, color in colors.items()]


def _over_seeds(rows: pd.DataFrame, value: str, color: str, offset: int = 0, **style: Any) -> Line:
    """The mean over seeds (and tasks) at each step; the band spans the seeds."""
    per_seed = rows.groupby(["seed", "step"])[value].mean().unstack("seed")
    x = per_seed.index.to_numpy(np.float64) + offset
    y = per_seed.mean(axis=1).to_numpy(np.float64)
    if per_seed.shape[1] == 1:
        return Line(x, y, color, **style)
    low, high = (f(axis=1).to_numpy(np.float64) for f in (per_seed.min, per_seed.max))
    return Line(x, y, color, low=low, high=high, **style)


def _starts(results: Results, dataset: str, rows: pd.DataFrame) -> dict[str, int]:
    """The step at which each algorithm's fine-tuning starts, for those in `rows`."""
    return {str(agent): results.offline_steps(dataset, str(agent)) for agent in rows["agent"].unique()}


def _borders(rows: pd.DataFrame, starts: dict[str, int], phase: str = "phase") -> list[int]:
    """The starts of fine-tuning, each once, of the algorithms that are fine-tuned."""
    return sorted({starts[agent] for agent in rows.loc[rows[phase] == "online", "agent"].unique()})


def _learning_lines(rows: pd.DataFrame, agents: Sequence[str], starts: dict[str, int]) -> list[Line]:
    """The score of each agent against steps, offline then online, and the frozen flow's as a dashed level."""
    lines = []
    steps = rows["step"] + rows["agent"].map(starts).where(rows["phase"] == "online", 0)
    end = max(*starts.values(), int(steps.max()))
    flow = of_method(rows, FLOW)
    if len(flow):
        level = np.full(2, flow["score"].mean())
        lines.append(Line(np.array([0, end]), level, FLOW_COLOR, dashed=True))
    for agent in agents:
        for phase, offset in (("offline", 0), ("online", starts.get(agent, 0))):
            part = of_method(rows, Method(agent, phase))
            if len(part):
                few = part["step"].nunique() < 12
                lines.append(_over_seeds(part, "score", color_of(Method(agent)), offset, marker=few))
    return lines


def learning_curves(results: Results, dataset: str) -> Panels:
    """The score against steps, one panel per task and one for their mean."""
    params, rows = results.of(dataset), base(results.scores)
    rows = rows[rows["dataset"] == dataset]
    starts = _starts(results, dataset, rows)
    borders = _borders(rows, starts)
    tasks = sorted(rows["task"].unique())
    parts = [("mean over tasks", rows)] if len(tasks) > 1 else []
    parts += [(f"task {task}", rows[rows["task"] == task]) for task in tasks]
    svgs = []
    for i, (title, part) in enumerate(parts):
        lines = _learning_lines(part, params.offline.agents, starts)
        name = f"curve-{dataset}-{i}"
        percent = results.measures[dataset].rate
        svgs.append(charts.line_panel(lines, name=name, title=title, percent=percent, borders=borders))
    note = f"{results.measures[dataset].title} against training steps. "
    note += (FINE_TUNING if borders else "") + _tasks_note(rows) + _band_note(results)
    return Panels("Learning curves", svgs, _learning_legend(rows, params.offline.agents), note)


def _tasks_note(rows: pd.DataFrame) -> str:
    """A sentence where only some tasks are fine-tuned, so that a mean over tasks changes its meaning there."""
    tuned = rows[rows["phase"] == "online"]
    trained = rows[(rows["phase"] == "offline") & rows["dataset"].isin(tuned["dataset"])]
    before, after = (set(zip(part["dataset"], part["task"], strict=True)) for part in (trained, tuned))
    return "From there on, means are over the fine-tuned tasks, which are not all. " if before - after else ""


def _band_note(results: Results) -> str:
    return "Lines are means over seeds, bands their range." if len(results.params.seeds) > 1 else ""


def _learning_legend(rows: pd.DataFrame, agents: Sequence[str]) -> list[LegendEntry]:
    flow = [FLOW] if len(of_method(rows, FLOW)) else []
    return legend_of([*flow, *map(Method, agents)])


def overview(results: Results) -> Panels:
    """The score against steps, one panel per dataset, the mean over its tasks."""
    rows = base(results.scores)
    svgs, agents = [], list[str]()
    for dataset in results.params.datasets:
        params, part = results.of(dataset), rows[rows["dataset"] == dataset]
        agents += [agent for agent in params.offline.agents if agent not in agents]
        starts = _starts(results, dataset, part)
        borders = _borders(part, starts)
        lines = _learning_lines(part, params.offline.agents, starts)
        measure = results.measures[dataset]
        title = dataset if measure.rate else f"{dataset}: {_short_title(measure)}"
        name = f"overview-{dataset}"
        svgs.append(charts.line_panel(lines, name=name, title=title, percent=measure.rate, borders=borders))
    note = "Means over tasks against training steps. "
    note += (FINE_TUNING if "online" in set(rows["phase"]) else "") + _tasks_note(rows) + _band_note(results)
    return Panels("Learning curves", svgs, _learning_legend(rows, agents), note)


def _short_title(measure: Measure) -> str:
    """`value` of `Value, estimated (no episode was played)`."""
    return measure.title.partition(",")[0].lower()


def diagnostics(results: Results, dataset: str, agent: str) -> Panels:
    """The training log of one agent: one panel per quantity, one line per task."""
    rows = results.logs
    rows = rows[(rows["dataset"] == dataset) & (rows["agent"] == agent) & (rows["variant"] == "")]
    starts = _starts(results, dataset, rows)
    rows = rows.assign(step=rows["step"] + np.where(rows["stage"] == "online", starts[agent], 0))
    borders = _borders(rows, starts, "stage")
    colors = task_colors(sorted(rows["task"].unique()))
    known = [name for name in LOG_TITLES if name in rows]
    others = [str(name) for name in rows.select_dtypes("number") if name not in known]
    others = [name for name in others if name not in ("task", "seed", "alpha", "candidates", "step")]
    models = [flow.manifest.get("model", {}) for flow in results.flows if flow.dataset == dataset]
    dim = models[0].get("action_dim") if models else None
    prior = prior_levels(dim) if agent == "flp" and dim else {}
    svgs = []
    for name in (*known, *others):
        if rows[name].isna().all():
            continue
        present = rows.dropna(subset=[name])
        lines = [
            _over_seeds(present[present["task"] == task], name, color, width=1.2) for task, color in colors.items()
        ]
        title = LOG_TITLES.get(name, name.replace("_", " "))
        svgs.append(
            charts.line_panel(
                lines, name=f"log-{dataset}-{agent}-{name}", title=title, level=prior.get(name), borders=borders
            )
        )
    note = FINE_TUNING if borders else ""
    note += (
        "Dotted horizontal lines are the values of the prior N(0, I), from which the policy starts." if prior else ""
    )
    return Panels(name_of(agent), svgs, _task_legend(colors), note, open=agent == "flp")


def prior_levels(dim: int) -> dict[str, float]:
    """What a policy that equals the prior N(0, I) in `dim` dimensions logs; E|z| = √2 Γ((d+1)/2) / Γ(d/2)."""
    norm = math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    return {"kl": 0.0, "policy_std": 1.0, "latent_norm": norm}


def sweep_numbers(final: pd.DataFrame, quantity: str, resamples: int, measure: Measure = SUCCESS) -> pd.DataFrame:
    """A row per task (and `all`) and value of a swept quantity: `mean`, `std` over seeds, the 95 % interval `low` to
    `high`, and the numbers of `seeds`, `tasks` and `episodes`.
    """
    names = ["mean", "std", "low", "high", "seeds", "tasks", "episodes"]
    rows = []
    for task, part in [*((str(task), part) for task, part in final.groupby("task")), ("all", final)]:
        for value, runs in part.groupby(quantity):
            numbers = cell(runs, resamples, measure)
            rows.append([task, value, *(getattr(numbers, name) for name in names)])
    return pd.DataFrame(rows, columns=["task", quantity, *names])


def sweep_colors(table: pd.DataFrame) -> dict[Any, str]:
    """A colour per task of `sweep_numbers`."""
    return task_colors([task for task in sorted(table["task"].unique()) if task != "all"])


def sweep_lines(table: pd.DataFrame, quantity: str, colors: dict[Any, str]) -> list[Line]:
    """The rows of `sweep_numbers` as lines: tasks thin, their mean thick with its 95 % interval as a band."""
    lines = []
    for task, part in table.groupby("task", sort=False):
        x, y, low, high = (part[name].to_numpy(np.float64) for name in (quantity, "mean", "low", "high"))
        if task == "all":
            lines.append(Line(x, y, AGENT_COLORS["flp"], low, high, marker=True, width=2.6))
        else:
            lines.append(Line(x, y, colors[task], width=0.9))
    return lines


def sweep_legend(colors: dict[Any, str]) -> list[LegendEntry]:
    """The legend of `sweep_lines`."""
    return [LegendEntry("mean over tasks", AGENT_COLORS["flp"]), *_task_legend(colors)]


def sweeps(results: Results, final: pd.DataFrame, dataset: str) -> list[Panels]:
    """The score against a swept value, as in the paper's Figures 4 and 5."""
    rows = of_method(final[final["dataset"] == dataset], Method("flp"))
    measure, groups = results.measures[dataset], []
    for (quantity, symbol), number in zip(SWEPT.items(), ("4", "5"), strict=True):
        part = rows[(rows["variant"] == "") | rows["variant"].str.startswith(f"{quantity}=")]
        values = sorted(part[quantity].unique())
        if len(values) < 2:
            continue
        table = sweep_numbers(part, quantity, results.params.report.bootstrap, measure)
        colors = sweep_colors(table)
        svg = charts.line_panel(
            sweep_lines(table, quantity, colors),
            name=f"sweep-{dataset}-{quantity}",
            title=f"{_short_title(measure)} against {symbol}",
            xlabel=symbol,
            percent=measure.rate,
            ticks=values,
        )
        note = "The band is the 95 % interval of the mean over tasks."
        groups.append(Panels(f"{symbol} (as Figure {number} of the paper)", [svg], sweep_legend(colors), note))
    return groups


def flow_loss(results: Results, dataset: str) -> str:
    """The training and validation losses of the dataset's flows."""
    lines = []
    for i, flow in enumerate(f for f in results.flows if f.dataset == dataset):
        color = SERIES_COLORS[i % len(SERIES_COLORS)]
        steps = flow.curve["step"].to_numpy(np.float64)
        lines.append(Line(steps, flow.curve["loss"].to_numpy(np.float64), color, width=0.8, dashed=True))
        lines.append(Line(steps, flow.curve["validation_loss"].to_numpy(np.float64), color))
    title = "flow-matching loss (dashed: training, solid: validation)"
    return charts.line_panel(lines, name=f"flow-{dataset}", title=title)

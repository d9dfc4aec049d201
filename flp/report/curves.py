"""The figures of one dataset as groups of panels for the page: learning curves, logs, paths, sweeps."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flp.data.mazes import maze_map
from flp.report import charts
from flp.report.charts import AGENT_COLORS, FLOW_COLOR, SERIES_COLORS, Line
from flp.report.collect import Results, read_paths
from flp.report.tables import FLOW_METHOD, base, name_of

LOG_TITLES = {
    "critic_loss": "critic loss",
    "actor_loss": "actor loss",
    "q": "Q (mean over the batch)",
    "q_max": "largest Q of the batch",
    "actor_q": "Q of the policy's latents",
    "kl": "KL to the prior, nats",
    "kl_weight": "weight of the KL (alpha)",
    "policy_std": "policy's standard deviation",
    "latent_norm": "|z| of the policy's latents",
}


@dataclass(frozen=True)
class Panels:
    """A group of small figures under one heading."""

    title: str
    svgs: list[str]
    legend: list[tuple[str, str, bool]] = field(default_factory=list)
    note: str = ""
    open: bool = True


def color_of(method: str) -> str:
    """The colour of a method, the same on every figure."""
    return AGENT_COLORS.get(method.partition(" ")[0], "#777777")


def legend_of(names: list[str]) -> list[tuple[str, str, bool]]:
    """Label, colour, and whether the line is dashed."""
    dashed = {m for m in names if m == FLOW_METHOD or m.endswith(" online")}
    return [("frozen flow" if m == FLOW_METHOD else name_of(m), color_of(m), m in dashed) for m in names]


def _spread(rows: pd.DataFrame, value: str, color: str, offset: int = 0, **style: Any) -> Line:
    """Mean over seeds (and tasks) at each step, with the range over seeds as a band."""
    per_seed = rows.groupby(["seed", "step"])[value].mean().unstack("seed")
    x = per_seed.index.to_numpy(np.float64) + offset
    y = per_seed.mean(axis=1).to_numpy(np.float64)
    if per_seed.shape[1] == 1:
        return Line(x, y, color, **style)
    low, high = (f(axis=1).to_numpy(np.float64) for f in (per_seed.min, per_seed.max))
    return Line(x, y, color, low=low, high=high, **style)


def _learning_lines(rows: pd.DataFrame, agents: Sequence[str], offline_steps: int) -> list[Line]:
    """Success over steps of each agent, offline and online joined, and the frozen flow as a dashed level."""
    lines = []
    end = offline_steps + int(
        rows.loc[rows["phase"] == "online", "step"].max() if "online" in set(rows["phase"]) else 0
    )
    flow = rows[rows["phase"] == "behavior"]
    if len(flow):
        level = np.full(2, flow["success"].mean())
        lines.append(Line(np.array([0, end]), level, FLOW_COLOR, dashed=True))
    for agent in agents:
        mine = rows[rows["agent"] == agent]
        for phase, offset in (("offline", 0), ("online", offline_steps)):
            part = mine[mine["phase"] == phase]
            if len(part):
                lines.append(_spread(part, "success", color_of(agent), offset, marker=part["step"].nunique() < 12))
    return lines


def learning_curves(results: Results, dataset: str) -> Panels:
    """Success over steps, one panel per task and one for their mean."""
    params, rows = results.of(dataset), base(results.scores)
    rows = rows[rows["dataset"] == dataset]
    steps = params.offline.steps
    border = steps if "online" in set(rows["phase"]) else None
    tasks = sorted(rows["task"].unique())
    parts = [("mean over tasks", rows)] if len(tasks) > 1 else []
    parts += [(f"task {task}", rows[rows["task"] == task]) for task in tasks]
    svgs = []
    for i, (title, part) in enumerate(parts):
        lines = _learning_lines(part, params.offline.agents, steps)
        name = f"curve-{dataset}-{i}"
        percent = results.measures[dataset].rate
        svgs.append(charts.line_panel(lines, name=name, title=title, percent=percent, border=border))
    shown = [FLOW_METHOD] if "behavior" in set(rows["phase"]) else []
    note = "The dotted line marks the start of fine-tuning in the environment. " if border else ""
    if len(results.params.seeds) > 1:
        note += "Bands span the seeds."
    return Panels("Learning curves", svgs, legend_of([*shown, *params.offline.agents]), note)


def overview(results: Results) -> Panels:
    """Success over steps, one panel per dataset, mean over its tasks."""
    rows = base(results.scores)
    svgs, agents = [], list[str]()
    for dataset in results.params.datasets:
        params, part = results.of(dataset), rows[rows["dataset"] == dataset]
        agents += [agent for agent in params.offline.agents if agent not in agents]
        border = params.offline.steps if "online" in set(part["phase"]) else None
        lines = _learning_lines(part, params.offline.agents, params.offline.steps)
        measure = results.measures[dataset]
        title = dataset if measure.rate else f"{dataset}: {measure.title.partition(',')[0].lower()}"
        name = f"overview-{dataset}"
        svgs.append(charts.line_panel(lines, name=name, title=title, percent=measure.rate, border=border))
    shown = [FLOW_METHOD] if "behavior" in set(rows["phase"]) else []
    note = "Mean over tasks. The dotted line marks the start of fine-tuning in the environment, where there is one."
    return Panels("Learning curves", svgs, legend_of([*shown, *agents]), note)


def diagnostics(results: Results, dataset: str, agent: str) -> Panels:
    """The training log of one agent, one panel per quantity, one line per task."""
    params, rows = results.of(dataset), results.logs
    rows = rows[(rows["dataset"] == dataset) & (rows["agent"] == agent) & (rows["variant"] == "")]
    rows = rows.assign(step=rows["step"] + np.where(rows["stage"] == "online", params.offline.steps, 0))
    border = params.offline.steps if "online" in set(rows["stage"]) else None
    tasks = sorted(rows["task"].unique())
    colors = {task: SERIES_COLORS[i % len(SERIES_COLORS)] for i, task in enumerate(tasks)}
    known = [name for name in LOG_TITLES if name in rows]
    others = [str(name) for name in rows.select_dtypes("number") if name not in known]
    others = [name for name in others if name not in ("task", "seed", "alpha", "candidates", "step")]
    dim = next((f.manifest.get("model", {}).get("action_dim") for f in results.flows if f.dataset == dataset), None)
    prior: dict[str, float] = {}
    if agent == "flp" and dim:
        norm = math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
        prior = {"kl": 0.0, "policy_std": 1.0, "latent_norm": norm}
    svgs = []
    for name in (*known, *others):
        if rows[name].isna().all():
            continue
        present = rows.dropna(subset=[name])
        lines = [_spread(present[present["task"] == task], name, colors[task], width=1.2) for task in tasks]
        title = LOG_TITLES.get(name, name.replace("_", " "))
        svgs.append(
            charts.line_panel(
                lines, name=f"log-{dataset}-{agent}-{name}", title=title, level=prior.get(name), border=border
            )
        )
    legend = [(f"task {task}", color, False) for task, color in colors.items()]
    note = "Dotted levels: the prior N(0, I), where the policy starts." if prior else ""
    return Panels(name_of(agent), svgs, legend, note, open=agent == "flp")


@dataclass(frozen=True)
class Maze:
    """Paths of one task: a figure per phase."""

    task: int
    svgs: list[str]


def mazes(results: Results, dataset: str) -> list[Maze]:
    """The recorded paths of the frozen flow and of the policy, of the first seed, over the maze's walls."""
    runs = results.runs
    runs = runs[(runs["dataset"] == dataset) & (runs["agent"] == "flp") & (runs["variant"] == "")]
    runs = runs[runs["seed"] == results.params.seeds[0]]
    folders = {(row["task"], row["stage"]): Path(row["folder"]) for _, row in runs.iterrows()}
    if not any((folder / "trajectories.npz").exists() for folder in folders.values()):
        return []
    spec = results.of(dataset).spec(dataset)
    maze = maze_map(spec)
    if maze is None:
        return []
    found = []
    phases = (
        ("behavior", "offline", "frozen flow"),
        ("offline", "offline", "policy"),
        ("online", "online", "fine-tuned"),
    )
    for task in sorted({task for task, _ in folders}):
        svgs = []
        for phase, stage, label in phases:
            folder = folders.get((task, stage))
            paths = read_paths(folder, phase) if folder else []
            if paths:
                # An episode ends early when the goal is reached.
                reached = sum(len(path) <= spec.horizon for path in paths)
                svgs.append(
                    charts.maze_panel(
                        maze,
                        paths,
                        goal=maze.goals[task - 1],
                        color=FLOW_COLOR if phase == "behavior" else AGENT_COLORS["flp"],
                        name=f"maze-{dataset}-{task}-{phase}",
                        title=f"{label}: {reached} of {len(paths)}",
                    )
                )
        if svgs:
            found.append(Maze(task, svgs))
    return found


def sweeps(results: Results, final: pd.DataFrame, dataset: str) -> list[Panels]:
    """Success against the swept value (Figures 4 and 5), tasks as thin lines and their mean."""
    rows = final[(final["dataset"] == dataset) & (final["agent"] == "flp") & (final["phase"] == "offline")]
    found = []
    for column, symbol, number in (("alpha", "α", "4"), ("candidates", "N", "5")):
        part = rows[(rows["variant"] == "") | rows["variant"].str.startswith(f"{column}=")]
        values = sorted(part[column].unique())
        if len(values) < 2:
            continue
        part = part.assign(step=part[column])
        tasks = sorted(part["task"].unique())
        colors = {task: SERIES_COLORS[i % len(SERIES_COLORS)] for i, task in enumerate(tasks)}
        lines = [_spread(part[part["task"] == task], "success", colors[task], width=0.9) for task in tasks]
        mean = _spread(part, "success", AGENT_COLORS["flp"], width=2.6, marker=True)
        svg = charts.line_panel(
            [*(Line(line.x, line.y, line.color, width=0.9) for line in lines), mean],
            name=f"sweep-{dataset}-{column}",
            title=f"{results.measures[dataset].title.partition(',')[0].lower()} against {symbol}",
            xlabel=symbol,
            percent=results.measures[dataset].rate,
            ticks=values,
        )
        legend = [("mean over tasks", AGENT_COLORS["flp"], False)]
        legend += [(f"task {task}", color, False) for task, color in colors.items()]
        found.append(Panels(f"{symbol}, as in the paper's Figure {number}", [svg], legend))
    return found


def flow_loss(results: Results, dataset: str) -> str:
    """Training and validation loss of the dataset's flows."""
    lines = []
    for i, flow in enumerate(f for f in results.flows if f.dataset == dataset):
        color = SERIES_COLORS[i % len(SERIES_COLORS)]
        steps = flow.curve["step"].to_numpy(np.float64)
        lines.append(Line(steps, flow.curve["loss"].to_numpy(np.float64), color, width=0.8, dashed=True))
        lines.append(Line(steps, flow.curve["validation_loss"].to_numpy(np.float64), color))
    title = "flow-matching loss: training dashed, validation solid"
    return charts.line_panel(lines, name=f"flow-{dataset}", title=title)


def data_uri(png: bytes) -> str:
    """A picture that travels inside the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()

"""Recorded evaluation episodes for the page: paths through mazes, and the videos that `flp videos` has made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from flp.data.mazes import MazeMap, maze_map
from flp.report.charts import AGENT_COLORS, FLOW_COLOR, INK, PAGE_STYLE, WALL, entitle, render
from flp.report.collect import Results, read_paths
from flp.report.templating import data_uri
from flp.system import layout
from flp.system.artifacts import load_manifest, read_json
from flp.system.errors import FLPError


@dataclass(frozen=True)
class Maze:
    """The recorded paths of one task, a figure per phase."""

    task: int
    svgs: list[str]


def mazes(results: Results, dataset: str) -> list[Maze]:
    """The recorded paths of the first seed's frozen flow and FLP policies; empty outside mazes."""
    runs = _first_seed(results, dataset, "flp")
    folders = {(row["task"], row["stage"]): Path(row["folder"]) for _, row in runs.iterrows()}
    if not any((folder / "trajectories.npz").exists() for folder in folders.values()):
        return []
    spec = results.of(dataset).spec(dataset)
    maze = maze_map(spec)
    if maze is None:
        return []
    phases = (
        ("behavior", "offline", "frozen flow", FLOW_COLOR),
        ("offline", "offline", "policy", AGENT_COLORS["flp"]),
        ("online", "online", "fine-tuned", AGENT_COLORS["flp"]),
    )
    figures = []
    for task in sorted({task for task, _ in folders}):
        svgs = []
        for phase, stage, label, color in phases:
            folder = folders.get((task, stage))
            paths, reached = read_paths(folder, phase) if folder else ([], None)
            if paths:
                counted = "" if reached is None else f": {reached.sum()} of {len(paths)}"
                title, name = label + counted, f"maze-{dataset}-{task}-{phase}"
                goal = maze.goals[task - 1]
                svgs.append(maze_panel(maze, paths, goal=goal, color=color, name=name, title=title))
        if svgs:
            figures.append(Maze(task, svgs))
    return figures


def maze_panel(
    maze: MazeMap, paths: Sequence[NDArray[Any]], *, goal: NDArray[Any], color: str, name: str, title: str
) -> str:
    """Paths in a maze: a dot at each start, a cross at each end, a disc at the goal."""
    rows, columns = maze.walls.shape
    width = 2.6
    with mpl.rc_context({**PAGE_STYLE, "axes.titlesize": 11}):
        figure = Figure(figsize=(width, width * rows / columns + 0.32), layout="constrained")
        axes = figure.subplots()
        half = maze.unit / 2
        corners = np.argwhere(maze.walls)[:, ::-1] * maze.unit - maze.offset - half
        walls = [Rectangle(tuple(corner), maze.unit, maze.unit) for corner in corners]
        axes.add_collection(PatchCollection(walls, facecolor=WALL, edgecolor=WALL, linewidth=0.6))
        for path in paths:
            thin = path[_thinned(path, maze.unit / 20)]
            axes.plot(thin[:, 0], thin[:, 1], color=color, linewidth=1.0, alpha=0.75)
            axes.plot(*path[0], marker="o", color=INK, markersize=3)
            axes.plot(*path[-1], marker="x", color=INK, markersize=3.2, markeredgewidth=0.9)
        radius = max(maze.goal_radius, maze.unit / 6)
        ring = np.linspace(0, 2 * np.pi, 49)
        axes.fill(goal[0] + radius * np.cos(ring), goal[1] + radius * np.sin(ring), color="#2fa36b", alpha=0.4)
        axes.plot(goal[0] + radius * np.cos(ring), goal[1] + radius * np.sin(ring), color="#2fa36b", linewidth=1.4)
        axes.set_xlim(-maze.offset - half, (columns - 0.5) * maze.unit - maze.offset)
        axes.set_ylim(-maze.offset - half, (rows - 0.5) * maze.unit - maze.offset)
        axes.set_aspect("equal")
        axes.set_axis_off()
        entitle(axes, title)
        return render(figure, name, title)


def _thinned(path: NDArray[Any], distance: float) -> list[int]:
    """Indices of points at least `distance` apart; the first and the last are always among them."""
    indices, points = [0], path.tolist()  # on single pairs of numbers NumPy is twenty times slower
    for i in range(1, len(points)):
        if math.dist(points[i], points[indices[-1]]) >= distance:
            indices.append(i)
    if indices[-1] != len(points) - 1:
        indices.append(len(points) - 1)
    return indices


@dataclass(frozen=True)
class Video:
    """One task's rollouts, the policies side by side.

    Attributes:
        agent: the agent whose policies act.
        task: number of the task.
        caption: which policy succeeded, and when.
        uri: the animated WebP as a data URI.
    """

    agent: str
    task: int
    caption: str
    uri: str


def videos(results: Results, dataset: str) -> list[Video]:
    """The videos of one dataset, without those of other policies than the report's.

    Raises:
        FLPError: a listed video is missing.
    """
    return [video for agent in results.of(dataset).offline.agents for video in _of_agent(results, dataset, agent)]


def _of_agent(results: Results, dataset: str, agent: str) -> list[Video]:
    folder = Path(layout.VIDEOS.format(dataset=dataset, agent=agent))
    if not (folder / "videos.json").exists():
        return []
    policies = [Path(path) / "policy.safetensors" for path in _first_seed(results, dataset, agent)["folder"]]
    listing = read_json(folder / "videos.json")
    try:
        if listing["policies"] != shown(policies):
            return []
        return [
            Video(agent, v["task"], _caption(v["outcomes"]), data_uri((folder / v["file"]).read_bytes(), "image/webp"))
            for v in listing["videos"]
        ]
    except (KeyError, TypeError, FileNotFoundError) as error:
        raise FLPError(f"{folder} is incomplete ({error}); delete it and run `flp videos` again") from error


def shown(policies: Iterable[Path]) -> dict[str, list[str]]:
    """What a video is of: the policies, by their checksums, and their episodes, which their keys cover."""
    manifests = {str(file): load_manifest(file) for file in policies}
    return {name: [manifest["key"], manifest["sha256"]] for name, manifest in manifests.items()}


def _first_seed(results: Results, dataset: str, agent: str) -> pd.DataFrame:
    """The runs of one agent with the first seed, without the sweeps'."""
    runs = results.runs
    runs = runs[(runs["dataset"] == dataset) & (runs["agent"] == agent) & (runs["variant"] == "")]
    return runs[runs["seed"] == results.params.seeds[0]]


def _caption(outcomes: dict[str, dict[str, int]]) -> str:
    """`frozen flow: no success; policy: success after 84 steps`."""
    return "; ".join(
        f"{title}: " + (f"success after {o['length']} steps" if o["success"] else "no success")
        for title, o in outcomes.items()
    )

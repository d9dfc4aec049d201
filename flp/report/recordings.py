"""Recorded evaluation episodes for the page: paths through mazes, and the videos that `flp videos` has made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from flp.data.mazes import maze_map
from flp.report import charts
from flp.report.charts import AGENT_COLORS, FLOW_COLOR
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
            if paths := read_paths(folder, phase) if folder else []:
                # An episode ends early when the goal is reached.
                reached = sum(len(path) <= spec.horizon for path in paths)
                title, name = f"{label}: {reached} of {len(paths)}", f"maze-{dataset}-{task}-{phase}"
                goal = maze.goals[task - 1]
                svgs.append(charts.maze_panel(maze, paths, goal=goal, color=color, name=name, title=title))
        if svgs:
            figures.append(Maze(task, svgs))
    return figures


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

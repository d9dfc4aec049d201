"""Small figures as inline SVG: text stays text, ink and grid take the page's colours, light or dark.

Every function returns one `<svg>` element without scripts, external references or ids that could clash.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from flp.data.mazes import MazeMap
from flp.system.layout import exact

# Stand-ins that become CSS colours of the page.
INK, GRID, WALL = "#010203", "#010204", "#010205"
_CSS = {INK: "var(--ink)", GRID: "var(--grid)", WALL: "var(--wall)"}
FLOW_COLOR = "#8a8f98"
AGENT_COLORS = {
    "flow": FLOW_COLOR,
    "flp": "#e0562f",
    "fql": "#2f8fbf",
    "ifql": "#8e6bc4",
    "iql": "#2e9e6b",
    "rebrac": "#c08a12",
    "idql": "#12a5a8",
    "srpo": "#4f63d8",
    "cac": "#4aa82c",
    "fawac": "#7f9a1f",
    "fbrac": "#d0489a",
    "calql": "#b04fd6",
    "rlpd": "#7a1f3d",
    "bc": "#a1745b",
    "fbc": "#5b8a9a",
}
SERIES_COLORS = ("#3b82c4", "#e08a1e", "#2fa36b", "#c8508f", "#8b6fd1", "#7c8a2e", "#b0413e", "#4aa5a5")
_STYLE = {
    "svg.hashsalt": "flp",
    "svg.fonttype": "none",
    "path.simplify": True,
    "path.simplify_threshold": 0.5,
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
SIZE = (3.5, 2.3)


@dataclass(frozen=True)
class Line:
    """One line of a panel, with an optional band."""

    x: NDArray[Any]
    y: NDArray[Any]
    color: str
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None
    dashed: bool = False
    marker: bool = False
    width: float = 1.6


def render(figure: Figure, name: str, label: str) -> str:
    """A figure as an inline `<svg>`, its ids prefixed with `name`, read out as `label`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for stand_in, css in _CSS.items():
        svg = svg.replace(stand_in, css)
    for attribute in ("width", "height"):  # the viewBox remains, the page decides
        svg = re.sub(rf'(<svg [^>]*?)\b{attribute}="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{_attribute(label)}" ', 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def thousands(value: float, _: object = None) -> str:
    """`15000` → `15k`."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1000 else f"{value:g}"


def line_panel(
    lines: Sequence[Line],
    *,
    name: str,
    title: str,
    xlabel: str = "",
    percent: bool = False,
    level: float | None = None,
    border: float | None = None,
    ticks: Sequence[float] | None = None,
    steps: bool = True,
) -> str:
    """Lines over steps (or over a swept value, log-scaled, when `ticks` are given).

    Args:
        lines: what to draw.
        name: prefix of the SVG's ids.
        title: above the panel.
        xlabel: below it.
        percent: whether y is a success rate in [0, 1].
        level: a dotted horizontal reference.
        border: a vertical line, where fine-tuning begins.
        ticks: the swept values.
        steps: whether x counts steps (`15k`).
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for line in lines:
            style: dict[str, Any] = {"linestyle": "--" if line.dashed else "-", "marker": "o" if line.marker else None}
            axes.plot(line.x, line.y, color=line.color, linewidth=line.width, markersize=3, **style)
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=line.color, alpha=0.18, linewidth=0)
        if level is not None:
            axes.axhline(level, color=INK, linewidth=0.9, linestyle=":")
        if border is not None:
            axes.axvline(border, color=INK, linewidth=0.9, linestyle=":")
        if percent:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f}%"))
        _x_axis(axes, ticks, steps)
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        return render(figure, name, title)


def _x_axis(axes: Any, ticks: Sequence[float] | None, steps: bool) -> None:
    if ticks is not None:
        axes.set_xscale("log")
        axes.set_xticks(list(ticks), [exact(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif steps:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(thousands))


def scatter_panel(
    points: Sequence[tuple[NDArray[Any], NDArray[Any], str]], *, name: str, title: str, xlabel: str, ylabel: str
) -> str:
    """Points `(x, y, colour)`; y is a success rate."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for x, y, color in points:
            axes.scatter(x, y, color=color, s=26, alpha=0.85, linewidths=0)
        axes.margins(y=0.25)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f}%"))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        return render(figure, name, title)


def interval_panel(
    rows: Sequence[tuple[str, float, float, float, str]], *, name: str, title: str, xlabel: str, level: float | None
) -> str:
    """One horizontal interval per row: `(label, value, low, high, colour)`, all in [0, 1]."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(SIZE[0], 0.75 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for i, (_, value, low, high, color) in enumerate(rows):
            axes.plot([low, high], [i, i], color=color, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot([value], [i], marker="|", color=color, markersize=9, markeredgewidth=2.2)
        if level is not None:
            axes.axvline(level, color=INK, linewidth=0.9, linestyle=":")
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}%"))
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        return render(figure, name, title)


def maze_panel(
    maze: MazeMap, paths: Sequence[NDArray[Any]], *, goal: NDArray[Any], color: str, name: str, title: str
) -> str:
    """Paths over the walls of a maze: a dot at each start, a small cross where each ends, a ring at the goal."""
    rows, columns = maze.walls.shape
    width = 2.6
    with mpl.rc_context(_STYLE):
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
        axes.set_title(title, fontsize=11)
        return render(figure, name, title)


def _thinned(path: NDArray[Any], distance: float) -> list[int]:
    """Indices of points at least `distance` apart, the ends among them."""
    kept, points = [0], path.tolist()  # NumPy takes twenty times as long for one pair of numbers
    for i in range(1, len(points)):
        if math.dist(points[i], points[kept[-1]]) >= distance:
            kept.append(i)
    if kept[-1] != len(points) - 1:
        kept.append(len(points) - 1)
    return kept

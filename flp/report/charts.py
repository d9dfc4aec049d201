"""Small figures for the page as inline SVG, in which text stays text and ink and grid take the page's CSS colours.

A `…_panel` function returns one `<svg>` element without scripts, external references or clashing ids; a `draw_…`
function draws the same on given Matplotlib axes.
"""

from __future__ import annotations

import html
import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from flp.system.layout import exact

# Placeholder colours, which `render` replaces by the page's CSS variables.
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


def _style(ink: str, grid: str, background: str) -> dict[str, Any]:
    """Matplotlib's settings for these colours."""
    return {
        "svg.hashsalt": "flp",
        "svg.fonttype": "none",
        "path.simplify": True,
        "path.simplify_threshold": 0.5,
        "font.family": ["DejaVu Sans"],
        "font.size": 8,
        "text.color": ink,
        "axes.edgecolor": grid,
        "axes.labelcolor": ink,
        "axes.titlesize": 8.5,
        "axes.titlelocation": "left",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": grid,
        "grid.linewidth": 0.5,
        "xtick.color": grid,
        "ytick.color": grid,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "figure.facecolor": background,
        "axes.facecolor": background,
        "savefig.facecolor": background,
    }


PAGE_STYLE = _style(INK, GRID, "none")
PRINT_STYLE = _style("#1b1f24", "#c9ced6", "white")  # for figures that are files of their own
SIZE = (3.5, 2.3)  # of a panel, in inches


class LegendEntry(NamedTuple):
    """One line of a legend."""

    label: str
    color: str
    dashed: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a panel, with an optional band from `low` to `high`."""

    x: NDArray[Any]
    y: NDArray[Any]
    color: str
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None
    dashed: bool = False
    marker: bool = False
    width: float = 1.6


def render(figure: Figure, name: str, label: str) -> str:
    """A figure as an inline `<svg>`, its ids prefixed with `name`; screen readers read `label`."""
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
    for attribute in ("width", "height"):  # the page sets the size; the view box remains
        svg = re.sub(rf'(<svg [^>]*?)\b{attribute}="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def thousands(value: float, _: object = None) -> str:
    """`15000` → `15k`."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1000 else f"{value:g}"


def entitle(axes: Any, title: str) -> None:
    """Set the axes' title, in as many lines as fit the figure."""
    characters = int(110 / mpl.rcParams["axes.titlesize"] * (axes.figure.get_figwidth() - 0.4))
    axes.set_title(textwrap.fill(title, characters))


def percent_axis(axis: Any) -> None:
    """Label shares in [0, 1] in percent."""
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}%"))


def line_panel(lines: Sequence[Line], *, name: str, title: str, **options: Any) -> str:
    """Lines as an `<svg>` whose ids begin with `name`; options are those of `draw_lines`."""
    with mpl.rc_context(PAGE_STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        draw_lines(figure.subplots(), lines, title=title, **options)
        return render(figure, name, title)


def draw_lines(
    axes: Any,
    lines: Sequence[Line],
    *,
    title: str,
    xlabel: str = "",
    percent: bool = False,
    level: float | None = None,
    borders: Iterable[float] = (),
    ticks: Sequence[float] | None = None,
    steps: bool = True,
) -> None:
    """Draw lines against steps, or against a swept value on a log scale when `ticks` are given.

    Args:
        axes: Matplotlib axes.
        lines: what to draw.
        title: above the axes.
        xlabel: label of the x axis.
        percent: whether y is a success rate in [0, 1].
        level: where to draw a dotted horizontal reference.
        borders: where to draw dotted vertical lines: the starts of fine-tuning.
        ticks: the swept values.
        steps: whether x counts steps (`15k`).
    """
    for line in lines:
        style: dict[str, Any] = {"linestyle": "--" if line.dashed else "-", "marker": "o" if line.marker else None}
        axes.plot(line.x, line.y, color=line.color, linewidth=line.width, markersize=3, **style)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=line.color, alpha=0.18, linewidth=0)
    if level is not None:
        axes.axhline(level, color=mpl.rcParams["text.color"], linewidth=0.9, linestyle=":")
    for border in borders:
        axes.axvline(border, color=mpl.rcParams["text.color"], linewidth=0.9, linestyle=":")
    if percent:
        axes.set_ylim(-0.03, 1.03)
        percent_axis(axes.yaxis)
    _x_axis(axes, ticks, steps)
    entitle(axes, title)
    axes.set_xlabel(xlabel)


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
    with mpl.rc_context(PAGE_STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for x, y, color in points:
            axes.scatter(x, y, color=color, s=26, alpha=0.85, linewidths=0)
        axes.margins(y=0.25)
        percent_axis(axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        entitle(axes, title)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        return render(figure, name, title)


class Interval(NamedTuple):
    """An estimate with its interval, all in [0, 1]."""

    label: str
    value: float
    low: float
    high: float
    color: str


def interval_panel(rows: Sequence[Interval], *, name: str, title: str, level: float | None = None) -> str:
    """Horizontal intervals as an `<svg>` whose ids begin with `name`."""
    with mpl.rc_context(PAGE_STYLE):
        figure = Figure(figsize=(SIZE[0], interval_height(len(rows))), layout="constrained")
        draw_intervals(figure.subplots(), rows, title=title, level=level)
        return render(figure, name, title)


def interval_height(rows: int) -> float:
    """The height in inches of a panel of so many intervals."""
    return 0.75 + 0.24 * rows


def draw_intervals(
    axes: Any, rows: Sequence[Interval], *, title: str, xlabel: str = "", level: float | None = None
) -> None:
    """Draw one horizontal interval per row, from top to bottom, and a dotted reference at `level`."""
    for i, row in enumerate(rows):
        axes.plot([row.low, row.high], [i, i], color=row.color, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot([row.value], [i], marker="|", color=row.color, markersize=9, markeredgewidth=2.2)
    if level is not None:
        axes.axvline(level, color=mpl.rcParams["text.color"], linewidth=0.9, linestyle=":")
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(visible=False, axis="y")
    percent_axis(axes.xaxis)
    entitle(axes, title)
    axes.set_xlabel(xlabel)

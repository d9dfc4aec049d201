"""One SVG file out of several panels, with a heading, a legend and notes: for browsers and for paper."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from xml.sax.saxutils import escape

# The panels' colours are the report's, which follow the reader's scheme; a file of its own has to choose.
COLORS = {"var(--ink)": "#1b1f24", "var(--grid)": "#c9ced6", "var(--wall)": "#d5d9e0"}
MARGIN, GAP, LINE = 16, 14, 15
CHARACTER = 6.1  # width of a note's character, in pixels
HEADING = 9.8  # of a heading's
FONT = 'font-family="DejaVu Sans, Helvetica, Arial, sans-serif"'

Legend = Sequence[tuple[str, str, bool]]


def sheet(title: str, rows: Sequence[Sequence[str]], legend: Legend = (), notes: Sequence[str] = ()) -> str:
    """Put panels on a sheet.

    Args:
        title: the heading.
        rows: the panels, `<svg>` elements as `flp.report.charts` makes them, row by row.
        legend: label, colour, and whether the line is dashed.
        notes: sentences below the heading, each on lines of its own.

    Returns:
        A whole SVG file, with a size in pixels, on white.
    """
    sizes = [[_size(panel) for panel in row] for row in rows]
    widths = [sum(w for w, _ in row) + GAP * (len(row) - 1) for row in sizes]
    width = max(*widths, HEADING * len(title), sum(map(_entry, legend))) + 2 * MARGIN
    lines = [line for note in notes for line in textwrap.wrap(note, int((width - 2 * MARGIN) / CHARACTER))]
    y = MARGIN + 14.0
    parts = [f'<text x="{MARGIN}" y="{y:g}" font-size="15" font-weight="bold">{escape(title)}</text>']
    for line in lines:
        y += LINE
        parts.append(f'<text x="{MARGIN}" y="{y:g}" font-size="10.5">{escape(line)}</text>')
    if legend:
        y += LINE + 4
        parts += _legend(legend, y)
    y += GAP
    for row, row_sizes in zip(rows, sizes, strict=True):
        x = float(MARGIN)
        for panel, (w, h) in zip(row, row_sizes, strict=True):
            place = f'<svg x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" '
            parts.append(panel.strip().replace("<svg ", place, 1))
            x += w + GAP
        y += max(h for _, h in row_sizes) + GAP
    height = y - GAP + MARGIN
    body = "\n".join(parts)
    for name, color in COLORS.items():
        body = body.replace(name, color)
    namespaces = 'xmlns="http://www.w3.org/2000/svg"'
    return (
        f'<svg {namespaces} width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" {FONT}>\n'
        f'<title>{escape(title)}</title>\n<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _size(panel: str) -> tuple[float, float]:
    """Width and height in pixels of a panel whose view box is in points."""
    box = re.search(r'viewBox="([-\d.eE ]+)"', panel)
    assert box is not None, "a panel without a view box"
    _, _, width, height = map(float, box[1].split())
    return 4 / 3 * width, 4 / 3 * height


def _legend(legend: Legend, y: float) -> list[str]:
    parts, x = [], float(MARGIN)
    for label, color, dashed in legend:
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        stroke = f'stroke="{color}" stroke-width="2.5"{dash}'
        parts += [f'<line x1="{x:g}" y1="{y - 4:g}" x2="{x + 18:g}" y2="{y - 4:g}" {stroke}/>']
        parts += [f'<text x="{x + 23:g}" y="{y:g}" font-size="10.5">{escape(label)}</text>']
        x += _entry((label, color, dashed))
    return parts


def _entry(entry: tuple[str, str, bool]) -> float:
    """The width of a legend's entry: its line, its label, and some room."""
    return 23 + CHARACTER * len(entry[0]) + 18

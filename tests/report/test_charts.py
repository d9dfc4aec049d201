"""Text in figures, and durations."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from flp.report import charts, page


def test_svg_text_cannot_break_out() -> None:
    line = charts.Line(np.arange(3.0), np.arange(3.0), "#123456")
    svg = charts.line_panel([line], name="a", title='<b>"&', level=1.0)
    assert "<b>" not in svg
    assert svg.startswith('<svg role="img" aria-label="&lt;b&gt;&quot;&amp;"')


def test_durations_read_well() -> None:
    assert [page.duration(s) for s in (5.4, 75.0, 7260.0, None)] == ["5 s", "1 min 15 s", "2 h 1 min", ""]


@pytest.mark.parametrize("width", [2.6, charts.SIZE[0]])
@pytest.mark.parametrize("size", [8.5, 11])
@pytest.mark.parametrize(
    "title", ["flow-matching loss (dashed: training, solid: validation)", "MW " * 30, "long-" * 30]
)
def test_a_long_title_stays_in_the_figure(width: float, size: float, title: str) -> None:
    with mpl.rc_context({**charts.PAGE_STYLE, "axes.titlesize": size}):
        figure = Figure(figsize=(width, 2.3), layout="constrained")
        axes = figure.subplots()
        charts.entitle(axes, title)
        figure.draw_without_rendering()
        extent = axes.title.get_window_extent()
    assert extent.x1 <= figure.bbox.x1 and extent.y1 <= figure.bbox.y1

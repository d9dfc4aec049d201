"""Text in figures, and durations."""

from __future__ import annotations

import numpy as np

from flp.report import charts, page


def test_svg_text_cannot_break_out() -> None:
    line = charts.Line(np.arange(3.0), np.arange(3.0), "#123456")
    svg = charts.line_panel([line], name="a", title='<b>"&', level=1.0)
    assert "<b>" not in svg
    assert svg.startswith('<svg role="img" aria-label="&lt;b&gt;&quot;&amp;"')


def test_durations_read_well() -> None:
    assert [page.duration(s) for s in (5.4, 75.0, 7260.0, None)] == ["5 s", "1 min 15 s", "2 h 1 min", ""]

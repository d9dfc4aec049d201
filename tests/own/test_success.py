"""A rule of success is parsed from one line, and never run as code."""

from __future__ import annotations

import numpy as np
import pytest

from flp.own.success import success_rule


@pytest.mark.parametrize(
    ("text", "info", "total", "expected"),
    [
        ("info.success", {"success": True}, 0.0, True),
        ("info.success", {"success": 0}, 9.0, False),
        ("info.arm.reached", {"arm": {"reached": 1}}, 0.0, True),
        ("info.distance < 0.05", {"distance": 0.04}, 0.0, True),
        ("info.distance<5e-2", {"distance": 0.06}, 0.0, False),
        ("return >= 300", {}, 300.0, True),
        ("return > -1.5e2", {}, -150.0, False),
        ("return <= 3", {}, 2.0, True),
    ],
)
def test_a_rule_judges(text, info, total, expected):
    assert success_rule(text)(info, total) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "success",
        "info.success and info.b",
        "info.__class__()",
        "__import__('os').system('true')",
        "none none",
        "return >= 1; 2",
        "return",
        "info",
        "info.",
        "return >= ",
        "return >= x",
        "return >= 1..2",
        "return >= 1e999",
        "True",
    ],
)
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(ValueError, match=r"no rule of success|is no number|no finite number"):
        success_rule(text)


def test_none_is_no_success():
    assert success_rule("none") is None


def test_an_array_of_one_is_a_number_and_of_more_is_none():
    rule = success_rule("info.vec.x > 0.1")
    assert rule({"vec": {"x": np.array([0.5])}}, 0.0) and not rule({"vec": {"x": np.array(0.05)}}, 0.0)
    for wrong in (np.array([0.5, 0.6]), "far", "0.5", None, float("nan")):
        for text in ("info.vec.x > 0.1", "info.vec.x"):
            with pytest.raises(ValueError, match=r"vec.x is .*, neither a number nor a truth value"):
                success_rule(text)({"vec": {"x": wrong}}, 0.0)
    with pytest.raises(LookupError):
        rule({"vec": np.array([1.0])}, 0.0)

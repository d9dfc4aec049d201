"""Quantities as people read them."""

from __future__ import annotations

import math

import pytest

from flp.system.units import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (75.0, "1 min 15 s"),
        (599.4, "9 min 59 s"),
        (599.6, "10 min"),
        (750, "12 min"),
        (3599, "1 h"),
        (7260.0, "2 h 1 min"),
        (35_999, "10 h"),
        (41_000, "11 h"),
        (None, ""),
        (math.nan, ""),
    ],
)
def test_durations_are_as_exact_as_their_length_allows(seconds, text):
    assert duration(seconds) == text

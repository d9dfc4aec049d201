"""Quantities as people read them."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """`40 s`, `1 min 15 s`, `12 min`, `2 h 1 min`, `115 h`; empty where it is unknown (None or NaN)."""
    if seconds is None or seconds != seconds:
        return ""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if seconds >= 36_000:
        return f"{seconds / 3600:.0f} h"
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def counted(number: int | str, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"

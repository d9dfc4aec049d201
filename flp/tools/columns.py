"""Tables as text: what tools print."""

from __future__ import annotations

from collections.abc import Sequence


def plain(text: str) -> str:
    """The text as it can be shown: names come from files and may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in text)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of columns."""
    shown = [list(map(plain, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in shown)

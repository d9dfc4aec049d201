"""Tables as the tools print them."""

from __future__ import annotations

from collections.abc import Sequence


def plain(text: str) -> str:
    """The text with unprintable characters replaced: names come from files and may contain anything."""
    return "".join(c if c.isprintable() else "?" for c in text)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines with aligned columns."""
    cells = [list(map(plain, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)

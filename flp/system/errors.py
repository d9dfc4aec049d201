"""The one exception that users are meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FLPError(Exception):
    """A mistake the user can mend: says what is wrong, where, and what to do, in one line."""

    def __init__(self, message: str) -> None:
        # Names come from the user's files and may hold anything.
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""

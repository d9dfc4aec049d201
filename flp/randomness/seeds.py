"""Seeds derived from names: the root of every random number in the project."""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """Hash parts, by their `str`, into a 63-bit seed; equal parts give equal seeds on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

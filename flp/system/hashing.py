"""Short hashes of values, and checksums of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def hash_of(*parts: Any) -> str:
    """A short hash of JSON-like values; dictionaries are unordered."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def contents(paths: Iterable[Path]) -> list[str]:
    """The checksums of files, each with its suffix, by which the file's format is known."""
    return [f"{path.suffix}:{sha256_of(path)}" for path in paths]


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

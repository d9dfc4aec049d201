"""Forced jobs: markers by which the workflow says that finished runs must be made again.

The workflow writes one marker for each output folder that Snakemake or DVC was told to force, and names their place in
FLP_FORCED. A job discards what it has made once: retried after a failure, it resumes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from flp.system.artifacts import write_text
from flp.system.locks import remove

VARIABLE = "FLP_FORCED"
_DISCARDED = "discarded"


def marker(place: str | Path, folder: str | Path) -> Path:
    """The marker of an output folder."""
    return Path(place, folder, "again")


def discard_if_forced(folder: Path, made: Iterable[Path]) -> bool:
    """Whether a folder's outputs must be made again; if so, remove what was made of them on the first call."""
    place = os.environ.get(VARIABLE)
    file = marker(place, folder) if place else None
    if file is None or not file.exists():
        return False
    if file.read_text(encoding="utf-8") != _DISCARDED:
        for path in made:
            remove(path)
        write_text(file, _DISCARDED)
    return True

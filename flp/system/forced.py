"""Done again though it is done: a word from the workflow that finished runs are not to be kept.

The workflow leaves one file for each folder that Snakemake or DVC was told to force, and names their place in
FLP_FORCED. A job heeds it once: tried again after a failure, it goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from flp.system.artifacts import write_text
from flp.system.locks import remove

PLACE = "FLP_FORCED"
_HEEDED = "heeded"


def word(place: str | Path, folder: str | Path) -> Path:
    """The file that speaks of an output folder."""
    return Path(place, folder, "again")


def forced(folder: Path, finished: Iterable[Path]) -> bool:
    """Whether a folder's outputs are to be made again; if so, and for the first time, remove what is finished."""
    place = os.environ.get(PLACE)
    found = word(place, folder) if place else None
    if found is None or not found.exists():
        return False
    if found.read_text() != _HEEDED:
        for path in finished:
            remove(path)
        write_text(found, _HEEDED)
    return True

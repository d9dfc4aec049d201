"""A user's held-out episodes: in a neighbouring file, or the last tenth of the episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flp.system.errors import FLPError
from flp.system.portability import user_path


def own_files(path: Path | str) -> list[Path]:
    """A user's file and, if there is one, its neighbour with held-out episodes; empty if the file does not exist."""
    path = user_path(str(path))
    return [file for file in (path, neighbour_of(path)) if file.exists()] if path.exists() else []


def neighbour_of(path: Path) -> Path:
    """The file that may hold a file's held-out episodes: `{stem}-val`, next to it."""
    return path.with_name(f"{path.stem}-val{path.suffix}")


def validation_split(terminals: NDArray[np.bool_], source: Path | str, hint: str) -> int:
    """The first validation row, such that both parts are whole episodes and have transitions.

    A tenth of the episodes is held out, from the end; more or fewer where a part would have no transitions.

    Args:
        terminals: `[rows]`, true in the last row of an episode, which starts no transition.
        source: the data, for the message.
        hint: what to do if there are too few episodes.

    Raises:
        FLPError: there are too few.
    """
    ends = np.flatnonzero(terminals) + 1
    episodes = np.arange(1, len(ends) + 1)
    transitions = ends - episodes  # in the first 1, 2, … episodes
    wanted = len(ends) - max(1, len(ends) // 10)
    possible = episodes[(transitions > 0) & (transitions < transitions[-1])]
    if not len(possible):
        count = "one episode" if len(ends) == 1 else "only one episode with transitions"
        raise FLPError(f"{source} has {count}, too few to split; {hint}")
    fewer = possible[possible <= wanted]
    return int(ends[(fewer[-1] if len(fewer) else possible[0]) - 1])

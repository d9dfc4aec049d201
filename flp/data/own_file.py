"""A dataset file of the user's: brought into OGBench's format where nothing is lost by it, else refused.

The file itself is only read: it may be the one copy there is.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flp.data.archive import Archive, opened, pieces, write_npz
from flp.data.load import FORMAT, check_axes, check_numbers, check_shapes
from flp.system.artifacts import write_verified
from flp.system.errors import FLPError, nearest
from flp.system.portability import user_path

ENDS = {
    "terminals": True,
    "timeouts": True,
    "terminations": True,
    "truncations": True,
    "dones": True,
    "dones_float": True,
    "valids": False,
}
"""Keys that may say where episodes end, in OGBench's, D4RL's and other words, with the value that says so."""

NEXT = "next_observations"
_REMEDY = "correct your file (it is left as it is)"


def own_files(path: Path | str) -> list[Path]:
    """A user's file and its neighbour with the held-out episodes, where there is one; none without the file itself."""
    path = user_path(str(path))
    return [file for file in (path, neighbour_of(path)) if file.exists()] if path.exists() else []


def neighbour_of(path: Path) -> Path:
    """Where the held-out episodes of a file lie, if they have one of their own: `{stem}-val` beside it."""
    return path.with_name(f"{path.stem}-val{path.suffix}")


def bring_in(dataset: str, path: Path | str, train_path: Path | str, val_path: Path | str) -> None:
    """Copy a user's dataset file and its `-val.npz` neighbour, converted to OGBench's format where they differ.

    What was converted, and which keys are not used, is told on standard error.

    Args:
        dataset: name of the dataset that the file must fit.
        path: the training file; with no `{stem}-val.npz` beside it, a tenth of its episodes, at least one and as many
            as a transition needs, is held out from its end.
        train_path: where the training file goes.
        val_path: where the validation file goes.

    Raises:
        FLPError: a missing or bad file, or nothing to hold out.
    """
    path = user_path(str(path))
    neighbour = neighbour_of(path)
    own = [OwnFile(file, dataset) for file in own_files(path) or [path]]
    for file in own:
        if file.changes:
            print(f"{file.path}: converted to OGBench's format: {'; '.join(file.changes)}", file=sys.stderr)
    unused = dict.fromkeys(key for file in own for key in file.unused)
    if unused:
        print(f"{path}: not used: {', '.join(map(repr, unused))}", file=sys.stderr)
    if len(own) == 2:
        own[0].copy(train_path)
        own[1].copy(val_path)
    else:
        split = held_out(own[0].ends, path, f"put a validation file at {neighbour}")
        write_npz(train_path, own[0].arrays(slice(split)))
        write_npz(val_path, own[0].arrays(slice(split, None)))


class Refuser(Protocol):
    """Whoever can say what is wrong with a file: an `Archive`, or one of another format."""

    def bad(self, problem: str) -> FLPError:
        """The error for a problem of the file."""


class OwnFile:
    """A user's file, checked from end to end, one array at a time.

    Args:
        path: an `.npz` file.
        dataset: name of the dataset that it must fit.

    Attributes:
        ends: bool `[rows]`, true in the last row of an episode.
        changes: what makes the file differ from OGBench's format.
        unused: its keys that the format does not have.

    Raises:
        FLPError: it is not whole, or holds what cannot be converted safely, or its keys contradict each other.
    """

    def __init__(self, path: Path, dataset: str) -> None:
        self.path, self.changes = path, list[str]()
        with self._open() as archive:
            self.unused = [key for key in archive.keys if key not in FORMAT and key not in ENDS]
            self._shapes = self._fitted(archive)
            check_shapes(archive, self._shapes, dataset)
            self.ends = self._find_ends(archive)
            for key, array in self._arrays(archive):
                if key != "terminals":
                    check_numbers(archive, key, array)
                if key == "observations":
                    self._check_successors(archive, array)

    def _open(self) -> AbstractContextManager[Archive]:
        return opened(self.path, _REMEDY, "correct download.path")

    def arrays(self, rows: slice) -> Iterator[tuple[str, NDArray[Any]]]:
        """Some of the rows in OGBench's format, one array at a time."""
        with self._open() as archive:
            for key, array in self._arrays(archive):
                yield key, array[rows]

    def copy(self, target: Path | str) -> None:
        """Write the file in OGBench's format: byte by byte if that is what it has."""
        if self.changes or self.unused:
            write_npz(target, self.arrays(slice(None)))
        else:
            write_verified(target, self._copy)

    def _copy(self, temporary: Path) -> None:
        shutil.copyfile(self.path, temporary)

    def _arrays(self, archive: Archive) -> Iterator[tuple[str, NDArray[Any]]]:
        for key in FORMAT:
            if key == "terminals":
                yield key, self.ends
            elif key in self._shapes:
                yield key, self._read(archive, key, FORMAT[key][0])

    def _read(self, archive: Archive, key: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        return archive.read(key, dtype, partial(cast, archive, key, dtype)).reshape(self._shapes[key])

    def _fitted(self, archive: Archive) -> dict[str, tuple[int, ...]]:
        """The shapes of the format's arrays and of those that say where episodes end, without idle axes of length 1."""
        required = [key for key, (_, _, required) in FORMAT.items() if required]
        if not ENDS.keys().isdisjoint(archive.keys):
            required.remove("terminals")
        for key in required:
            if key not in archive.keys:
                raise archive.bad(f"key '{key}' is missing{nearest(key, self.unused)}")
        shapes = {}
        for key in dict.fromkeys([*FORMAT, *ENDS]):
            if key not in archive.keys:
                continue
            header, like = archive.header(key), key if key in FORMAT else "terminals"
            dtype, axes, _ = FORMAT[like]
            if header.dtype.kind not in "biuf":
                raise archive.bad(f"'{key}' holds {header.dtype}, which cannot become {dtype}")
            shapes[key] = without_idle(header.shape, axes)
            check_axes(archive, key, shapes[key], axes)
            how = [str(header.dtype)] * (header.dtype != dtype) + ["by columns"] * header.by_columns
            how += [f"of shape {list(header.shape)}"] * (shapes[key] != header.shape)
            if how:
                self.changes.append(f"{key} ({' '.join(how)})")
        return shapes

    def _find_ends(self, archive: Archive) -> NDArray[np.bool_]:
        """Where episodes end by any of the keys that may say so.

        OGBench's compact form marks an episode's last transition in `terminals` and the state after it in `valids`: a
        flag in the row before an invalid one does not end the episode by itself.
        """
        ends = np.zeros(self._shapes["observations"][0], np.bool_)
        sources = [key for key in ENDS if key in self._shapes]
        for key in sources:
            flags = self._read(archive, key, np.dtype(np.bool_)) == ENDS[key]
            if flags.all():
                raise archive.bad(f"'{key}' ends an episode in every row, so there are no transitions")
            if key == "valids":
                ends[:-1] &= ~flags[1:]
            ends |= flags
        told = " or ".join(map(repr, sources))
        if sources != ["terminals"]:
            self.changes.append(f"episodes end where {told} says so")
        if not ends.any():
            raise archive.bad(f"{told} ends no episode: mark each one's last row in 'terminals' or 'timeouts'")
        if not ends[-1]:
            self.changes.append("the last episode is unfinished: its last row ends it")
            ends[-1] = True
        if ends.all():
            raise archive.bad(f"{told} ends an episode in every row, so there are no transitions")
        return ends

    def _check_successors(self, archive: Archive, observations: NDArray[np.float32]) -> None:
        """Refuse a file whose own successors are not the rows after, where no episode is said to end."""
        if NEXT not in archive.keys:
            return
        header, dtype = archive.header(NEXT), observations.dtype
        if header.shape != observations.shape or header.dtype.kind not in "biuf":
            raise archive.bad(f"'{NEXT}' holds {header.dtype} {list(header.shape)}, unlike 'observations'")
        following = archive.read(NEXT, dtype, partial(cast, archive, NEXT, dtype))
        check_successors(archive, observations, following, self.ends)


def without_idle(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """A shape without axes of length 1, but for the first, as far as it has more axes than it should."""
    kept = list(shape)
    while len(kept) > axes and 1 in kept[1:]:
        kept.pop(kept.index(1, 1))
    return tuple(kept)


def check_successors(
    file: Refuser, observations: NDArray[np.float32], following: NDArray[np.float32], ends: NDArray[np.bool_]
) -> None:
    """Refuse a file whose own successors are not the rows after, where no episode is said to end.

    A column may differ by a thousandth of its own deviation and what float32 rounds, whatever its unit or offset.
    """
    spread, largest = scales(observations)
    near = 1e-3 * spread + 4 * np.spacing(largest)
    for first in range(0, len(observations) - 1, 2**14):
        rows = slice(first, min(first + 2**14, len(observations) - 1))
        after = observations[rows.start + 1 : rows.stop + 1]
        wrong = (np.abs(following[rows] - after) > near).any(1) & ~ends[rows]
        if wrong.any():
            row = rows.start + int(wrong.argmax())
            raise file.bad(
                f"'{NEXT}' of row {row} is not 'observations' of the row after, though no episode ends there: "
                "mark each episode's last row in 'terminals' or 'timeouts'"
            )


def scales(observations: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Each column's standard deviation and largest magnitude, `[o]` each."""
    total = squares = np.zeros(observations.shape[1])
    for piece in pieces(observations):
        moved = piece.astype(np.float64) - observations[0]
        total, squares = total + moved.sum(0), squares + np.square(moved).sum(0)
    mean = total / len(observations)
    largest = np.maximum(np.abs(observations.max(0)), np.abs(observations.min(0)))
    return np.sqrt(np.maximum(squares / len(observations) - np.square(mean), 0)), largest


def cast(archive: Refuser, key: str, dtype: np.dtype[Any], piece: NDArray[Any]) -> NDArray[Any]:
    """A piece in another type: rounded as OGBench's loader rounds it, but never changed beyond that."""
    if piece.dtype == np.bool_:
        piece = piece.view(np.uint8)  # a byte of a file may hold more than a truth value
    with np.errstate(all="ignore"):
        found = piece.astype(dtype, copy=False)
    if dtype.kind == "f":
        lost, wanted = np.isfinite(piece) & ~np.isfinite(found), f"what {dtype} can hold"
    else:
        lost, wanted = found != piece, "0 and 1" if dtype.kind == "b" else "whole numbers"
    if lost.any():
        raise archive.bad(f"'{key}' holds {piece[lost][0]!s}, expected {wanted}")
    return found


def held_out(terminals: NDArray[np.bool_], source: Path | str, hint: str) -> int:
    """The row at which validation begins: both parts are whole episodes with transitions in them.

    Raises:
        FLPError: there are too few of them.
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

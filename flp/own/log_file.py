"""A user's file of transitions in D4RL's layout, `.npz` or HDF5, brought to rows whose last ends an episode.

A row is a state, the action taken there, its reward, and whether the episode then ended: by itself (`terminals`), or by
being cut off (`timeouts`). The file is only read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flp.data.archive import MAX_BYTES, Convert, Header, opened
from flp.data.own_file import NEXT, cast, check_successors, without_idle
from flp.system.errors import FLPError, explained, nearest

Rows = dict[str, NDArray[Any]]
REMEDY = "correct your file (it is left as it is)"
ABSENT = "correct the path in its task"
HDF5 = (".h5", ".hdf5")
TERMINATED, CUT_OFF = ("terminals", "terminations"), ("timeouts", "truncations")
_AXES = {"observations": 2, "actions": 2, "rewards": 1, NEXT: 2} | dict.fromkeys((*TERMINATED, *CUT_OFF), 1)


class Columns(Protocol):
    """An open file of named arrays."""

    path: Path

    @property
    def keys(self) -> list[str]:
        """The arrays' names."""

    def bad(self, problem: str) -> FLPError:
        """The error for a problem of this file."""

    def header(self, key: str) -> Header:
        """What an array claims to be."""

    def read(self, key: str, dtype: Any, convert: Convert | None = None) -> NDArray[Any]:
        """An array, its elements converted."""


class Hdf5:
    """An open HDF5 file: its own arrays, at the top; nothing that points elsewhere is followed."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self._file = path, file

    @property
    def keys(self) -> list[str]:
        """The arrays' names."""
        return list(self._file)

    def bad(self, problem: str) -> FLPError:
        """The error for a problem of this file."""
        return FLPError(f"{self.path}: {problem}; {REMEDY}")

    def header(self, key: str) -> Header:
        """What an array claims to be; links, virtual arrays and objects are refused, and absurd sizes."""
        import h5py

        if not isinstance(self._file.get(key, getlink=True), h5py.HardLink):
            raise self.bad(f"'{key}' is a link")
        array = self._file[key]
        if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external or array.shape is None:
            raise self.bad(f"'{key}' is no array of this file's own")
        if array.dtype.hasobject or math.prod(array.shape) * array.dtype.itemsize > MAX_BYTES:
            raise self.bad(f"'{key}' holds {array.dtype} {list(array.shape)}")
        return Header(array.shape, False, array.dtype)

    def read(self, key: str, dtype: Any, convert: Convert | None = None) -> NDArray[Any]:
        """An array, its elements converted a million at a time."""
        header, source = self.header(key), self._file[key]
        array = np.empty(header.shape, dtype)
        rows = max(1, 2**20 // max(1, math.prod(header.shape[1:])))
        for first in range(0, header.shape[0] if header.shape else 0, rows):
            piece = source[first : first + rows]
            array[first : first + rows] = piece if convert is None else convert(piece)
        return array


@contextmanager
def columns(path: Path) -> Iterator[Columns]:
    """Open a file by the end of its name.

    Raises:
        FLPError: missing, not whole, or of another kind; or HDF5 without h5py.
    """
    if path.suffix == ".npz":
        with opened(path, REMEDY, ABSENT) as archive:
            yield archive
        return
    if path.suffix not in HDF5:
        raise FLPError(f"{path}: a task's file is .npz, .h5 or .hdf5")
    try:
        import h5py
    except ImportError:
        raise FLPError(f"{path}: reading HDF5 needs h5py; pip install 'flp[hdf5]' (or h5py)") from None
    if not path.exists():
        raise FLPError(f"{path} does not exist; {ABSENT}")
    try:
        with h5py.File(path, "r") as file:
            yield Hdf5(path, file)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FLPError(f"{path} is not a whole HDF5 file: {explained(error, REMEDY)}") from error


def read_file(path: Path) -> Rows:
    """Read and check a file.

    Returns:
        float32 `observations`, `actions` (in the environment's units) and `rewards`; float32 `masks`, 0 where an
        episode ended by itself; bool `terminals`, true in an episode's last row, which starts no transition.

    Raises:
        FLPError: it lacks something, holds what cannot be converted safely, or its keys contradict each other.
    """
    with columns(path) as file:
        observations, actions, rewards = (_array(file, key) for key in ("observations", "actions", "rewards"))
        terminated, cut_off = _flags(file, TERMINATED), _flags(file, CUT_OFF)
        if terminated is None and cut_off is None:
            raise file.bad("nothing says where episodes end: mark each one's last row in 'terminals' or 'timeouts'")
        following = _array(file, NEXT) if NEXT in file.keys else None
        known = {"observations": observations, "actions": actions, "rewards": rewards, NEXT: following}
        for key, array in (known | {"terminals": terminated, "timeouts": cut_off}).items():
            if array is not None and len(array) != len(observations):
                raise file.bad(f"'{key}' has {len(array)} rows, 'observations' has {len(observations)}")
        none = np.zeros(len(observations), np.bool_)
        terminated, cut_off = (none if flags is None else flags for flags in (terminated, cut_off))
        if following is not None:
            if following.shape != observations.shape:
                shapes = f"{list(following.shape)}, 'observations' has {list(observations.shape)}"
                raise file.bad(f"'{NEXT}' has shape {shapes}")
            check_successors(file, observations, following, terminated | cut_off)
        return as_rows(observations, actions, rewards, terminated, cut_off, following)


def unused(path: Path) -> list[str]:
    """The keys of a file that are not read."""
    with columns(path) as file:
        return [key for key in file.keys if key not in _AXES]


def _array(file: Columns, key: str) -> NDArray[np.float32]:
    if key not in file.keys:
        raise file.bad(f"key '{key}' is missing{nearest(key, file.keys)}")
    array = _read(file, key, np.dtype(np.float32))
    if not np.isfinite(array).all():
        raise file.bad(f"'{key}' holds NaN or infinite values")
    return array


def _flags(file: Columns, names: tuple[str, ...]) -> NDArray[np.bool_] | None:
    found = [_read(file, key, np.dtype(np.bool_)) for key in names if key in file.keys]
    if len({len(flags) for flags in found}) > 1:
        raise file.bad(f"{' and '.join(map(repr, names))} differ in length")
    return np.any(found, 0) if found else None


def _read(file: Columns, key: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array with as many axes as it must have, idle ones of length 1 aside."""
    header = file.header(key)
    if header.dtype.kind not in "biuf":
        raise file.bad(f"'{key}' holds {header.dtype}, which cannot become {dtype}")
    if key == "actions" and header.dtype.kind != "f":
        raise file.bad(f"'actions' holds {header.dtype}: discrete ones, where a flow models densities of real numbers")
    axes = _AXES[key]
    shape = without_idle(header.shape, axes)
    if len(shape) == axes - 1 and axes == 2:
        shape = (*shape, 1)  # one number a row
    if len(shape) != axes or min(shape) < 1:
        raise file.bad(f"'{key}' has shape {list(header.shape)}, expected {axes} axes, none empty")
    return file.read(key, dtype, partial(cast, file, key, dtype)).reshape(shape)


def as_rows(
    observations: NDArray[np.float32],
    actions: NDArray[np.float32],
    rewards: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    cut_off: NDArray[np.bool_],
    following: NDArray[np.float32] | None,
) -> Rows:
    """Transitions in D4RL's layout, with a last row for each episode that has its last state, or needs none.

    What came after a termination is never looked at (its mask is 0), so that any state stands for it; what came after a
    cut is needed, and without `following` the row before it is the episode's last.
    """
    ends = terminated | cut_off
    ends[-1] = True
    extra = ends & (terminated if following is None else True)
    place = np.arange(len(ends)) + np.cumsum(extra) - extra
    rows = len(ends) + int(extra.sum())
    last = place[extra] + 1
    found: Rows = {
        "observations": np.empty((rows, observations.shape[1]), np.float32),
        "actions": np.zeros((rows, actions.shape[1]), np.float32),
        "rewards": np.zeros(rows, np.float32),
        "masks": np.ones(rows, np.float32),
        "terminals": np.zeros(rows, np.bool_),
    }
    found["observations"][place], found["actions"][place], found["rewards"][place] = observations, actions, rewards
    found["observations"][last] = (observations if following is None else following)[extra]
    found["masks"][place] = ~terminated
    found["terminals"][place[ends] + extra[ends]] = True
    return found

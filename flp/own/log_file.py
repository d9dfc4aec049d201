"""A user's file of transitions in D4RL's layout, `.npz` or HDF5, read as rows whose last ends an episode.

A row is a state, the action taken there, its reward, and whether the episode then ended: in a terminal state
(`terminals`), or by being truncated (`timeouts`). The file is only read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.archive import MAX_BYTES, Convert, Header, opened
from flp.own.precision import narrowed
from flp.own.reading import (
    END_KEYS,
    NEXT,
    REMEDY,
    VALID,
    Columns,
    check_successors,
    numeric_header,
    read_column,
    without_idle_axes,
)
from flp.system.errors import FLPError, explained, nearest

Rows = dict[str, NDArray[Any]]
MASKS = "masks"  # of JAX libraries and OGBench: 0 where an episode terminated; never read, only compared
ABSENT = "correct the path in its task"
HDF5 = (".h5", ".hdf5")
_AXES = {"observations": 2, "actions": 2, "rewards": 1, NEXT: 2} | dict.fromkeys(END_KEYS, 1)


class Hdf5:
    """An open HDF5 file: the arrays at its top level; nothing that points elsewhere is followed."""

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
        """Shape and type of an array; links, virtual arrays, objects and absurd sizes are refused."""
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
        """An array, with its elements converted a million at a time."""
        header, source = self.header(key), self._file[key]
        array = np.empty(header.shape, dtype)
        rows = max(1, 2**20 // max(1, math.prod(header.shape[1:])))
        for first in range(0, header.shape[0] if header.shape else 0, rows):
            piece = source[first : first + rows]
            array[first : first + rows] = piece if convert is None else convert(piece)
        return array


@contextmanager
def columns(path: Path) -> Iterator[Columns]:
    """Open a file, `.npz` or HDF5 by its suffix.

    Raises:
        FLPError: missing, not whole, or of another kind; or HDF5 without h5py.
    """
    if path.suffix.lower() == ".npz":
        with opened(path, REMEDY, ABSENT) as archive:
            yield archive
        return
    if path.suffix.lower() not in HDF5:
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
        float32 `observations` and `rewards`; `actions` in the environment's units and the file's own type, float32 or
        wider; float32 `masks`, 0 where an episode ended in a terminal state; bool `terminals`, true in an
        episode's last row, which starts no transition.

    Raises:
        FLPError: it lacks something, holds what cannot be converted safely, or its keys contradict each other.
    """
    with columns(path) as file:
        observations, actions, rewards = (_numbers(file, key) for key in ("observations", "actions", "rewards"))
        following = _numbers(file, NEXT) if NEXT in file.keys else None
        for key, array in {"actions": actions, "rewards": rewards, NEXT: following}.items():
            if array is not None:
                _check_length(file, key, array, len(observations))
        terminated, truncated, either = _flags(file, len(observations))
        masked = _masked(file, len(observations))
        if following is not None and following.shape != observations.shape:
            shapes = f"{list(following.shape)}, 'observations' has {list(observations.shape)}"
            raise file.bad(f"'{NEXT}' has shape {shapes}")
        if VALID in file.keys:
            rows, ended = _valid_rows(file, len(observations))
            following = (observations[1:] if following is None else following[:-1])[rows]
            observations, actions, rewards = observations[rows], actions[rows], rewards[rows]
            masked = None if masked is None else masked[rows]
            # A flag of the state after an episode's last transition holds for that transition.
            terminated, truncated, either = (
                flags[rows] | (flags[rows + 1] & ended) for flags in (terminated, truncated, either)
            )
            either |= ended
        if _says_how(file, "terminated"):
            truncated |= either & ~terminated
        else:
            terminated |= either & ~truncated
        if masked is not None:
            _check_masks(file, masked, terminated)
        if following is not None:
            check_successors(file, observations, following, terminated | truncated)
        return as_rows(observations, actions, rewards, terminated, truncated, following)


def unused(path: Path) -> list[str]:
    """The keys of a file that are not read."""
    with columns(path) as file:
        return [key for key in file.keys if key not in _AXES]


def _flags(file: Columns, rows: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Where episodes terminated, were truncated, or ended in either way, `[rows]` each."""
    if not any(key in file.keys for key in END_KEYS):
        raise file.bad("nothing says where episodes end: mark each one's last row in 'terminals' or 'timeouts'")
    if not (_says_how(file, "terminated") or _says_how(file, "truncated")):
        keys = " and ".join(repr(key) for key in END_KEYS if key in file.keys)
        raise file.bad(
            f"{keys} say where episodes end, but not how: mark terminations in 'terminals' or truncations in 'timeouts'"
        )
    flags = {end: np.zeros(rows, np.bool_) for end in ("terminated", "truncated", "either")}
    for key, (_, end) in END_KEYS.items():
        if key in file.keys and key != VALID:
            flags[end] |= _column(file, key, rows)
    return flags["terminated"], flags["truncated"], flags["either"]


def _says_how(file: Columns, end: str) -> bool:
    return any(key in file.keys for key, (_, of_key) in END_KEYS.items() if of_key == end)


def _valid_rows(file: Columns, rows: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The rows that start transitions in OGBench's compact form, and which of those end an episode.

    There, an invalid row is the state after an episode's last transition.
    """
    valid = _column(file, VALID, rows)
    transitions = np.flatnonzero(valid[:-1])  # what follows the last row is unknown
    if not len(transitions):
        raise file.bad(f"'{VALID}' ends an episode in every row, so there are no transitions")
    return transitions, ~valid[transitions + 1]


def _masked(file: Columns, rows: int) -> NDArray[np.bool_] | None:
    """Where `masks` is 0, `[rows]`: that is, where its writer looks no further; None without such an array."""
    if MASKS not in file.keys:
        return None
    header = file.header(MASKS)
    if header.dtype.kind not in "biuf" or without_idle_axes(header.shape, 1) != (rows,):
        return None
    masked: NDArray[np.bool_] = file.read(MASKS, header.dtype).reshape(-1) == 0
    return masked


def _check_masks(file: Columns, masked: NDArray[np.bool_], terminated: NDArray[np.bool_]) -> None:
    """Refuse `masks` that are 0 where no episode terminated, or not 0 where one did, `[n]` transitions each."""
    wrong = masked != terminated
    if wrong.any():
        row = int(wrong.argmax())
        is_zero, ended = ("is 0", "no episode terminated") if masked[row] else ("is not 0", "an episode terminated")
        raise file.bad(
            f"'{MASKS}' {is_zero} in transition {row}, where {ended} by the other keys: mark terminations in "
            f"'terminals', other ends in 'timeouts', or leave out '{MASKS}'"
        )


def _column(file: Columns, key: str, rows: int) -> NDArray[np.bool_]:
    flags = _read(file, key, np.dtype(np.bool_))
    _check_length(file, key, flags, rows)
    return flags


def _numbers(file: Columns, key: str) -> NDArray[Any]:
    """An array in float32; actions, which are scaled first, in the file's own type."""
    if key not in file.keys:
        raise file.bad(f"key '{key}' is missing{nearest(key, (other for other in file.keys if other not in _AXES))}")
    own = numeric_header(file, key, np.dtype(np.float32)).dtype
    array = _read(file, key, np.result_type(own, np.float32) if own.kind == "f" else own)
    if not np.isfinite(array).all():
        raise file.bad(f"'{key}' holds NaN or infinite values")
    return array if key == "actions" else narrowed(file, key, array)


def _read(file: Columns, key: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array with the number of axes that its key has; `[rows]` is taken as `[rows, 1]`."""
    header, axes = numeric_header(file, key, dtype), _AXES[key]
    if key == "actions" and header.dtype.kind != "f":
        raise file.bad(f"'actions' holds {header.dtype}: discrete ones, where a flow models densities of real numbers")
    shape = without_idle_axes(header.shape, axes)
    if axes == 2 and len(shape) == 1:
        shape = (*shape, 1)
    if len(shape) != axes or min(shape) < 1:
        raise file.bad(f"'{key}' has shape {list(header.shape)}, expected {axes} axes, none empty")
    return read_column(file, key, dtype, shape)


def _check_length(file: Columns, key: str, array: NDArray[Any], rows: int) -> None:
    if len(array) != rows:
        raise file.bad(f"'{key}' has {len(array)} rows, 'observations' has {rows}")


def as_rows(
    observations: NDArray[np.float32],
    actions: NDArray[Any],
    rewards: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    following: NDArray[np.float32] | None,
) -> Rows:
    """Transitions in D4RL's layout, with an extra row at the end of each episode whose last state is known or unneeded.

    The state after a termination is never looked at (its mask is 0), so any state can stand in for it. The state after
    a truncation is needed: without `following`, the row before it is the episode's last and starts no transition.

    Args:
        observations: `[n, o]`.
        actions: `[n, a]`.
        rewards: `[n]`.
        terminated: `[n]`, where an episode terminated.
        truncated: `[n]`, where an episode was truncated.
        following: the next observations `[n, o]`, if known.
    """
    ends = terminated | truncated
    ends[-1] = True
    extra = ends & (terminated if following is None else True)
    place = np.arange(len(ends)) + np.cumsum(extra) - extra
    count = len(ends) + int(extra.sum())
    last = place[extra] + 1
    rows: Rows = {
        "observations": np.empty((count, observations.shape[1]), np.float32),
        "actions": np.zeros((count, actions.shape[1]), actions.dtype),
        "rewards": np.zeros(count, np.float32),
        "masks": np.ones(count, np.float32),
        "terminals": np.zeros(count, np.bool_),
    }
    rows["observations"][place], rows["actions"][place], rows["rewards"][place] = observations, actions, rewards
    rows["observations"][last] = (observations if following is None else following)[extra]
    rows["masks"][place] = ~terminated
    rows["terminals"][place[ends] + extra[ends]] = True
    return rows

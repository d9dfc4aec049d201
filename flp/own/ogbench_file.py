"""A user's dataset file for one of OGBench's environments, converted to OGBench's format without loss, or refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.archive import Archive, opened, write_npz
from flp.data.environments import specification
from flp.data.load import FORMAT, check_axes, check_numbers, check_shapes
from flp.own.precision import check_precision, may_be_coarse
from flp.own.reading import (
    END_KEYS,
    NEXT,
    REMEDY,
    VALID,
    check_successors,
    column_scales,
    numeric_header,
    read_column,
    without_idle_axes,
)
from flp.own.splitting import neighbour_of, own_files, validation_split
from flp.system.artifacts import write_verified
from flp.system.errors import nearest
from flp.system.portability import user_path


def import_file(
    dataset: str,
    path: Path | str,
    train_path: Path | str,
    val_path: Path | str,
    states: Mapping[str, int] | None = None,
) -> None:
    """Copy a user's dataset file and its `-val.npz` neighbour, converted to OGBench's format where they differ.

    Conversions and unused keys are reported on standard error. Arguments and errors as `read_files`.

    Args:
        dataset: name of the dataset that the file must fit.
        path: the training file.
        train_path: the training file to write.
        val_path: the validation file to write.
        states: the columns of the simulator's state, as for `OwnFile`.
    """
    files, split = read_files(dataset, path, states)
    for file in files:
        if file.changes:
            print(f"{file.path}: converted to OGBench's format: {'; '.join(file.changes)}", file=sys.stderr)
    unused = dict.fromkeys(key for file in files for key in file.unused)
    if unused:
        print(f"{files[0].path}: not used: {', '.join(map(repr, unused))}", file=sys.stderr)
    if len(files) == 2:
        files[0].copy(train_path)
        files[1].copy(val_path)
    else:
        write_npz(train_path, files[0].arrays(slice(split)))
        write_npz(val_path, files[0].arrays(slice(split, None)))


def read_files(
    dataset: str, path: Path | str, states: Mapping[str, int] | None = None
) -> tuple[list[OwnFile], int | None]:
    """Check a user's file and its `{stem}-val.npz` neighbour.

    Returns:
        The files; and, if there is only one, the first row that is held out: a tenth of its episodes, at least one and
        as many as needed for a transition, from its end.

    Raises:
        FLPError: a missing or bad file, or nothing to hold out.
    """
    path = user_path(str(path))
    files = [OwnFile(file, dataset, states) for file in own_files(path) or [path]]
    if len(files) == 2:
        return files, None
    return files, validation_split(files[0].ends, path, f"put a validation file at {neighbour_of(path)}")


class OwnFile:
    """A user's file, checked from end to end, one array at a time.

    Args:
        path: an `.npz` file.
        dataset: name of the dataset that it must fit.
        states: the columns of the simulator's state (`state_columns`), which the file's must equal; None: the state is
            not compared, with the observations neither.

    Attributes:
        ends: bool `[rows]`, true in the last row of an episode.
        changes: how the file differs from OGBench's format.
        unused: its keys that are not part of the format.

    Raises:
        FLPError: it is not whole, or holds what cannot be converted safely, or its keys contradict each other.
    """

    def __init__(self, path: Path, dataset: str, states: Mapping[str, int] | None = None) -> None:
        self.path, self.changes = path, list[str]()
        with self._open() as archive:
            self.unused = [key for key in archive.keys if key not in FORMAT and key not in END_KEYS]
            self._check_required(archive)
            self._shapes = self._find_shapes(archive)
            check_shapes(archive, self._shapes, dataset)
            for key, columns in (states or {}).items():
                if self._shapes[key][1] != columns:
                    found = self._shapes[key][1]
                    raise archive.bad(f"'{key}' has {found} columns, {dataset}'s simulator {columns}")
            self.ends = self._find_ends(archive)
            for key, array in self._arrays(archive):
                if key != "terminals":
                    check_numbers(archive, key, array)
                if array.dtype.kind == "f":
                    self._check_precision(archive, key, array)
                if key == "observations":
                    self._check_successors(archive, array)
                    seen = array[:, : _seen_positions(dataset)].copy()
                elif key == "qpos" and states is not None and "teleport" not in dataset:
                    self._check_state(archive, seen, array)  # an observation is made before a teleport, the state after
                elif key == "button_states" and not np.isin(array, (0, 1)).all():
                    raise archive.bad(f"'{key}' holds {array[~np.isin(array, (0, 1))][0]}, expected 0 and 1")

    def _open(self) -> AbstractContextManager[Archive]:
        return opened(self.path, REMEDY, "correct download.path")

    def arrays(self, rows: slice) -> Iterator[tuple[str, NDArray[Any]]]:
        """Some of the rows in OGBench's format, one array at a time."""
        with self._open() as archive:
            for key, array in self._arrays(archive):
                yield key, array[rows]

    def copy(self, target: Path | str) -> None:
        """Write the file in OGBench's format: byte for byte if that is its format already."""
        if self.changes or self.unused:
            write_npz(target, self.arrays(slice(None)))
        else:
            write_verified(target, partial(shutil.copyfile, self.path))

    def _arrays(self, archive: Archive) -> Iterator[tuple[str, NDArray[Any]]]:
        for key, (dtype, _, _) in FORMAT.items():
            if key == "terminals":
                yield key, self.ends
            elif key in self._shapes:
                yield key, read_column(archive, key, dtype, self._shapes[key])

    def _check_required(self, archive: Archive) -> None:
        has_ends = not END_KEYS.keys().isdisjoint(archive.keys)
        for key, (_, _, required) in FORMAT.items():
            if required and key not in archive.keys and not (key == "terminals" and has_ends):
                raise archive.bad(f"key '{key}' is missing{nearest(key, self.unused)}")

    def _find_shapes(self, archive: Archive) -> dict[str, tuple[int, ...]]:
        """Shapes of the format's arrays and of those that say where episodes end; notes what must be converted."""
        shapes = {}
        for key in dict.fromkeys([*FORMAT, *END_KEYS]):
            if key not in archive.keys:
                continue
            dtype, axes, _ = FORMAT[key if key in FORMAT else "terminals"]
            header = numeric_header(archive, key, dtype)
            shapes[key] = without_idle_axes(header.shape, axes)
            check_axes(archive, key, shapes[key], axes)
            differences = []
            if header.dtype != dtype:
                differences.append(str(header.dtype))
            if header.by_columns:
                differences.append("by columns")
            if shapes[key] != header.shape:
                differences.append(f"of shape {list(header.shape)}")
            if differences:
                self.changes.append(f"{key} ({' '.join(differences)})")
        return shapes

    def _find_ends(self, archive: Archive) -> NDArray[np.bool_]:
        """Where episodes end according to any of the keys that say so.

        OGBench's compact form marks an episode's last transition in `terminals` and the state after it in `valids`: a
        flag in the row before an invalid one does not end the episode by itself.
        """
        ends = np.zeros(self._shapes["observations"][0], np.bool_)
        sources = [key for key in END_KEYS if key in self._shapes]
        for key in sources:
            flags = read_column(archive, key, np.dtype(np.bool_), self._shapes[key]) == END_KEYS[key].value
            if flags.all():
                raise archive.bad(f"'{key}' ends an episode in every row, so there are no transitions")
            if key == VALID:
                ends[:-1] &= ~flags[1:]
            ends |= flags
        names = " or ".join(map(repr, sources))
        if sources != ["terminals"]:
            self.changes.append(f"episodes end where {names} says so")
        if not ends.any():
            raise archive.bad(f"{names} ends no episode: mark each one's last row in 'terminals' or 'timeouts'")
        if not ends[-1]:
            self.changes.append("the last episode is unfinished: its last row ends it")
            ends[-1] = True
        if ends.all():
            raise archive.bad(f"{names} ends an episode in every row, so there are no transitions")
        return ends

    def _check_precision(self, archive: Archive, key: str, array: NDArray[np.float32]) -> None:
        """Warn of columns that float32 spoils, or refuse them, as they are in the file."""
        if may_be_coarse(array):
            own = archive.header(key).dtype
            check_precision(archive, key, array if own == array.dtype else read_column(archive, key, own, array.shape))

    def _check_successors(self, archive: Archive, observations: NDArray[np.float32]) -> None:
        """Refuse `next_observations` that are not the next row's observations, except where an episode ends."""
        if NEXT not in archive.keys:
            return
        header = archive.header(NEXT)
        if header.shape != observations.shape or header.dtype.kind not in "biuf":
            raise archive.bad(f"'{NEXT}' holds {header.dtype} {list(header.shape)}, unlike 'observations'")
        following = read_column(archive, NEXT, observations.dtype, observations.shape)
        check_successors(archive, observations, following, self.ends)

    def _check_state(self, archive: Archive, seen: NDArray[np.float32], qpos: NDArray[np.float32]) -> None:
        """Refuse states that are not those in which the observations were made: rewards would be those of other rows.

        A column may differ by a thousandth of its standard deviation plus half precision's rounding.
        """
        std, largest = column_scales(seen)
        wrong = (np.abs(qpos[:, : seen.shape[1]] - seen) > 1e-3 * std + 2.0**-11 * largest).any(1)
        if wrong.any():
            raise archive.bad(
                f"'qpos' of row {wrong.argmax()} is not the state in which its 'observations' were made, whose first "
                f"{seen.shape[1]} numbers it must begin with: store the state before the action, info['prev_qpos'] in "
                "OGBench, and observations as the environment gives them"
            )


def _seen_positions(dataset: str) -> int:
    """How many numbers an observation and `qpos` begin with alike: a position in the plane, or the arm's joints."""
    return 2 if specification(dataset).in_plane else 6

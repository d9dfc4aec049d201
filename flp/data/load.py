"""Reading datasets: refuse what is not a whole, sane file in OGBench's format, before training on it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flp.data.environments import specification
from flp.system.errors import FLPError
from flp.system.hashing import sha256_of

ACTION_LIMIT = 1 - 1e-5
"""Actions are clipped to plus or minus this, as in FQL, `envs/env_utils.py`."""

MAX_BYTES = 64 * 2**30
"""More than ten times the largest official dataset."""

_FORMAT = {  # key: (type, number of axes, whether every file has it)
    "observations": (np.dtype(np.float32), 2, True),
    "actions": (np.dtype(np.float32), 2, True),
    "terminals": (np.dtype(np.bool_), 1, True),
    "qpos": (np.dtype(np.float32), 2, True),
    "qvel": (np.dtype(np.float32), 2, True),
    "button_states": (np.dtype(np.int64), 2, False),
}
_PIECE = 2**20  # elements read and checked at a time, so that it takes little memory
_REMEDY = "delete it and fetch or generate it again"

_UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError)
"""What `zipfile` raises for damaged, encrypted or exotic archives."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, rows in the order of the file; the arrays are read-only.

    The last row of an episode has no successor, so it starts no transition; transition `i` leads from row
    `transitions[i]` to the row after it, without a second copy of the observations.

    Attributes:
        observations: float32 `[rows, observation_dim]`.
        actions: float32 `[rows, action_dim]`, clipped to ±(1 - 1e-5).
        terminals: bool `[rows]`, true in the last row of an episode.
        transitions: int64 `[n]`, ascending row numbers.
        qpos: float32 `[rows, positions]`, the simulator's state.
        qvel: float32 `[rows, velocities]`.
        button_states: int64 `[rows, buttons]`, or None where there are no buttons.
        clipped_fraction: fraction of action coordinates that were clipped.
        sha256: checksum of the file.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    terminals: NDArray[np.bool_]
    transitions: NDArray[np.int64]
    qpos: NDArray[np.float32]
    qvel: NDArray[np.float32]
    button_states: NDArray[np.int64] | None
    clipped_fraction: float
    sha256: str

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.transitions)

    @property
    def observation_dim(self) -> int:
        """Length of an observation."""
        return int(self.observations.shape[1])

    @property
    def action_dim(self) -> int:
        """Length of an action."""
        return int(self.actions.shape[1])


def validate(path: Path | str, dataset: str | None = None) -> None:
    """Check a dataset file from end to end, one array at a time.

    Args:
        path: an `.npz` file.
        dataset: name of the dataset that it must fit, if known.

    Raises:
        FLPError: missing, truncated or altered; not an `.npz`; a key that is missing or has the wrong type
            or shape, or NaN, or actions outside [-1, 1]; an unfinished last episode; sizes that are absurd or
            not the dataset's. One line that names the file, the key and the remedy.
    """
    for _ in checked_arrays(Path(path), dataset):
        pass


def load_dataset(path: Path | str, dataset: str | None = None) -> Dataset:
    """Load and check a dataset file; takes little more memory than its arrays.

    Args:
        path: an `.npz` file.
        dataset: name of the dataset that it must fit, if known.

    Raises:
        FLPError: as `validate`.
    """
    path = Path(path)
    arrays = dict(checked_arrays(path, dataset))
    clipped = _clip(arrays["actions"])
    for array in arrays.values():
        array.flags.writeable = False
    return Dataset(
        observations=arrays["observations"],
        actions=arrays["actions"],
        terminals=arrays["terminals"],
        transitions=np.flatnonzero(~arrays["terminals"]).astype(np.int64, copy=False),
        qpos=arrays["qpos"],
        qvel=arrays["qvel"],
        button_states=arrays.get("button_states"),
        clipped_fraction=clipped / arrays["actions"].size,
        sha256=sha256_of(path),
    )


def _clip(actions: NDArray[np.float32]) -> int:
    """Clip in place; return how many coordinates were outside."""
    outside = 0
    for piece in _pieces(actions):
        outside += int(np.count_nonzero(np.abs(piece) > ACTION_LIMIT))
        np.clip(piece, -ACTION_LIMIT, ACTION_LIMIT, out=piece)
    return outside


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of consecutive rows."""
    rows = max(1, _PIECE // max(1, array[:1].size))
    return (array[first : first + rows] for first in range(0, len(array), rows))


def checked_arrays(path: Path, dataset: str | None = None) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield `(key, array)` for each array of the format in a file, checked, as it is in the file.

    Raises:
        FLPError: as `validate`.
    """
    with _refusals(path), zipfile.ZipFile(path) as archive:
        shapes = _shapes(path, archive)
        _check_shapes(path, shapes, dataset)
        for key, shape in shapes.items():
            array = _read(path, archive, key, shape)
            _check_values(path, key, array)
            yield key, array


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn what zip and numpy say about a bad file into one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise FLPError(f"{path} does not exist; fetch or generate it") from error
    except _UNREADABLE as error:
        raise FLPError(f"{path} is not a whole .npz file ({error}); {_REMEDY}") from error
    except OSError as error:
        raise FLPError(f"cannot read {path}: {error.strerror or error}; {_REMEDY}") from error
    except MemoryError as error:
        raise FLPError(f"{path} does not fit into memory; use a machine with more") from error


def _shapes(path: Path, archive: zipfile.ZipFile) -> dict[str, tuple[int, ...]]:
    """Shapes from the headers, which are checked before anything is allocated."""
    names = archive.namelist()
    shapes = {}
    for key, (dtype, axes, required) in _FORMAT.items():
        if names.count(f"{key}.npy") > 1:
            raise FLPError(f"{path}: key '{key}' occurs twice; {_REMEDY}")
        if f"{key}.npy" not in names:
            if required:
                raise FLPError(f"{path}: key '{key}' is missing; {_REMEDY}")
            continue
        with archive.open(f"{key}.npy") as member:
            shape, by_columns, found = _header(path, key, member)
            start = member.tell()
        if found.hasobject or found != dtype or by_columns:
            layout = " by columns" if by_columns else ""
            raise FLPError(f"{path}: '{key}' holds {found}{layout}, expected {dtype}; {_REMEDY}")
        if len(shape) != axes or min(shape) < 1:
            raise FLPError(f"{path}: '{key}' has shape {list(shape)}, expected {axes} axes, none empty; {_REMEDY}")
        claimed = dtype.itemsize
        for length in shape:
            claimed *= length
        if claimed > MAX_BYTES or claimed != archive.getinfo(f"{key}.npy").file_size - start:
            raise FLPError(f"{path}: '{key}' claims {claimed} bytes, which is not what the file holds; {_REMEDY}")
        shapes[key] = shape
    return shapes


def _header(path: Path, key: str, member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        header: tuple[tuple[int, ...], bool, np.dtype[Any]] = readers[np.lib.format.read_magic(member)](member)
        return header
    except Exception as error:  # numpy lets Python's own parser read it, which raises what it likes
        reason = " ".join(str(error).split())
        raise FLPError(f"{path}: '{key}' has an unreadable header ({reason}); {_REMEDY}") from error


def _check_shapes(path: Path, shapes: dict[str, tuple[int, ...]], dataset: str | None) -> None:
    rows = shapes["observations"][0]
    for key, shape in shapes.items():
        if shape[0] != rows:
            raise FLPError(f"{path}: '{key}' has {shape[0]} rows, 'observations' has {rows}; {_REMEDY}")
    if dataset is None:
        return
    spec = specification(dataset)
    for key, expected in (("observations", spec.observation_dim), ("actions", spec.action_dim)):
        if shapes[key][1] != expected:
            raise FLPError(
                f"{path}: '{key}' has {shapes[key][1]} columns, {dataset} has {expected}: it is another "
                "environment's; correct the dataset's name or the path"
            )
    if spec.has_buttons and "button_states" not in shapes:
        raise FLPError(f"{path}: key 'button_states' is missing, which {dataset} needs; {_REMEDY}")


def _read(path: Path, archive: zipfile.ZipFile, key: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read an array straight into its memory; the archive verifies its checksum at the end."""
    array = np.empty(shape, _FORMAT[key][0])
    target = array.reshape(-1).view(np.uint8)
    with archive.open(f"{key}.npy") as member:
        _header(path, key, member)
        done = 0
        while done < len(target):
            piece = member.read(min(_PIECE, len(target) - done))
            if not piece:
                raise EOFError(f"'{key}' ends early")
            target[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        if member.read(1):  # only at its end is the checksum compared
            raise EOFError(f"'{key}' goes on too long")
    return array


def _check_values(path: Path, key: str, array: NDArray[Any]) -> None:
    if key == "terminals":
        if array.view(np.uint8).max() > 1:
            raise FLPError(f"{path}: 'terminals' holds other values than true and false; {_REMEDY}")
        if not array[-1]:
            raise FLPError(f"{path}: 'terminals' is false in the last row: the last episode is cut off; {_REMEDY}")
        if array.all():
            raise FLPError(f"{path}: 'terminals' is true in every row, so there are no transitions; {_REMEDY}")
    if array.dtype.kind == "f" and not all(np.isfinite(piece).all() for piece in _pieces(array)):
        raise FLPError(f"{path}: '{key}' holds NaN or infinite values; {_REMEDY}")
    if key == "actions" and not all(np.abs(piece).max() <= 1 + 1e-6 for piece in _pieces(array)):
        raise FLPError(f"{path}: 'actions' leave [-1, 1]; rescale them to the environment's action range")

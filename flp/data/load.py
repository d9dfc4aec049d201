"""Reading datasets, and refusing files that are not complete and valid in OGBench's format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.archive import Archive, opened, pieces
from flp.data.environments import EnvironmentSpec, OGBenchSpec, spec_of
from flp.system.artifacts import reading
from flp.system.errors import FLPError
from flp.system.hashing import sha256_of

ACTION_LIMIT = 1 - 1e-5
"""Actions are clipped to plus or minus this value, as in FQL, `envs/env_utils.py`."""

_COMMON = {  # key: (type, number of axes, whether every file has it)
    "observations": (np.dtype(np.float32), 2, True),
    "actions": (np.dtype(np.float32), 2, True),
    "terminals": (np.dtype(np.bool_), 1, True),
}
FORMAT = _COMMON | {
    "qpos": (np.dtype(np.float32), 2, True),
    "qvel": (np.dtype(np.float32), 2, True),
    "button_states": (np.dtype(np.int64), 2, False),
}
OWN_FORMAT = _COMMON | {  # of a user's task: rewards are recorded, whereas OGBench's tasks compute them from the state
    "rewards": (np.dtype(np.float32), 1, True),
    "masks": (np.dtype(np.float32), 1, True),
}
_REMEDY, _ABSENT = "delete it and run again", "fetch or generate it"
Form = dict[str, tuple[np.dtype[Any], int, bool]]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset in memory, rows in the order of the file; the arrays are read-only.

    The last row of an episode has no successor, so it starts no transition; transition `i` leads from row
    `transitions[i]` to the next row, without a second copy of the observations.

    Attributes:
        observations: float32 `[rows, observation_dim]`.
        actions: float32 `[rows, action_dim]`, clipped to ±(1 - 1e-5).
        terminals: bool `[rows]`, true in the last row of an episode.
        transitions: int64 `[n]`, ascending row numbers.
        qpos: float32 `[rows, positions]`, the simulator's state; None in a user's task, like the next two.
        qvel: float32 `[rows, velocities]`.
        button_states: int64 `[rows, buttons]`, or None where there are no buttons.
        rewards: float32 `[rows]`, of a user's task; None in OGBench's data, whose rewards depend on the task.
        masks: float32 `[rows]`, 0 where the episode ended in a terminal state; None like `rewards`.
        clipped_fraction: fraction of action coordinates that were clipped.
        sha256: checksum of the file.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    terminals: NDArray[np.bool_]
    transitions: NDArray[np.int64]
    qpos: NDArray[np.float32] | None
    qvel: NDArray[np.float32] | None
    button_states: NDArray[np.int64] | None
    rewards: NDArray[np.float32] | None
    masks: NDArray[np.float32] | None
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


def validate(path: Path | str, dataset: EnvironmentSpec | str | None = None, remedy: str = _REMEDY) -> None:
    """Check a dataset file from end to end, one array at a time.

    Args:
        path: an `.npz` file.
        dataset: the dataset that it must fit, if known: a spec, or one of OGBench's names.
        remedy: what to do about a bad file.

    Raises:
        FLPError: missing, truncated or altered; not an `.npz`; a key that is missing, has the wrong type or shape, or
            holds NaN; actions outside [-1, 1]; an unfinished last episode; sizes that are absurd or not the dataset's.
            One line that names the file, the key and the remedy.
    """
    for _ in checked_arrays(Path(path), dataset, remedy):
        pass


def read_dataset(path: Path | str, dataset: EnvironmentSpec | str | None = None, remedy: str = _REMEDY) -> Dataset:
    """Load and check a dataset file, in little more memory than its arrays take.

    Args:
        path: an `.npz` file.
        dataset: the dataset that it must fit, if known: a spec, or one of OGBench's names.
        remedy: what to do about a bad file.

    Raises:
        FLPError: as `validate`.
    """
    path = Path(path)
    arrays = dict(checked_arrays(path, dataset, remedy))
    clipped = _clip(arrays["actions"])
    with reading(path):
        digest = sha256_of(path)
    for array in arrays.values():
        array.flags.writeable = False
    return Dataset(
        observations=arrays["observations"],
        actions=arrays["actions"],
        terminals=arrays["terminals"],
        transitions=np.flatnonzero(~arrays["terminals"]).astype(np.int64, copy=False),
        **{key: arrays.get(key) for key in ("qpos", "qvel", "button_states", "rewards", "masks")},
        clipped_fraction=clipped / arrays["actions"].size,
        sha256=digest,
    )


def _clip(actions: NDArray[np.float32]) -> int:
    """Clip in place; return the number of clipped coordinates."""
    outside = 0
    for piece in pieces(actions):
        outside += int(np.count_nonzero(np.abs(piece) > ACTION_LIMIT))
        np.clip(piece, -ACTION_LIMIT, ACTION_LIMIT, out=piece)
    return outside


def checked_arrays(
    path: Path, dataset: EnvironmentSpec | str | None = None, remedy: str = _REMEDY
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield `(key, array)` for each array of the format in a file, checked but not converted.

    Raises:
        FLPError: as `validate`.
    """
    with opened(path, remedy, _ABSENT) as archive:
        form = _form(archive, dataset)
        shapes = _shapes(archive, form)
        check_shapes(archive, shapes, dataset)
        for key in shapes:
            array = archive.read(key, form[key][0])
            if key == "terminals":
                _check_terminals(archive, array)
            if key == "masks" and not np.isin(array, (0, 1)).all():
                raise archive.bad("'masks' holds other values than 0 and 1")
            check_numbers(archive, key, array)
            yield key, array


def _form(archive: Archive, dataset: EnvironmentSpec | str | None) -> Form:
    """The format of a dataset's file; for an unknown dataset, judged by the file's keys."""
    if dataset is not None:
        return FORMAT if spec_of(dataset).of_ogbench else OWN_FORMAT
    return OWN_FORMAT if "masks" in archive.keys and "qpos" not in archive.keys else FORMAT


def _shapes(archive: Archive, form: Form) -> Shapes:
    """Shapes of the format's arrays, whose types must match exactly."""
    shapes = {}
    for key, (dtype, axes, required) in form.items():
        if key not in archive.keys:
            if required:
                raise archive.bad(f"key '{key}' is missing")
            continue
        header = archive.header(key)
        if header.dtype != dtype or header.by_columns:
            layout = " by columns" if header.by_columns else ""
            raise archive.bad(f"'{key}' holds {header.dtype}{layout}, expected {dtype}")
        shapes[key] = header.shape
        check_axes(archive, key, header.shape, axes)
    return shapes


def check_axes(archive: Archive, key: str, shape: tuple[int, ...], axes: int) -> None:
    """Refuse a shape with the wrong number of axes, and an empty one."""
    if len(shape) != axes or min(shape) < 1:
        raise archive.bad(f"'{key}' has shape {list(shape)}, expected {axes} axes, none empty")


def check_shapes(archive: Archive, shapes: Shapes, dataset: EnvironmentSpec | str | None) -> None:
    """Refuse arrays of unequal length, and those of another environment."""
    rows = shapes["observations"][0]
    for key, shape in shapes.items():
        if shape[0] != rows:
            raise archive.bad(f"'{key}' has {shape[0]} rows, 'observations' has {rows}")
    if dataset is None:
        return
    spec = spec_of(dataset)
    for key, expected in (("observations", spec.observation_dim), ("actions", spec.action_dim)):
        if shapes[key][1] != expected:
            raise FLPError(
                f"{archive.path}: '{key}' has {shapes[key][1]} columns, {spec.dataset} has {expected}: it is another "
                "environment's; correct the dataset's name or the path"
            )
    if isinstance(spec, OGBenchSpec) and spec.has_buttons and "button_states" not in shapes:
        raise archive.bad(f"key 'button_states' is missing, which {spec.dataset} needs")


def _check_terminals(archive: Archive, terminals: NDArray[np.bool_]) -> None:
    if terminals.view(np.uint8).max() > 1:
        raise archive.bad("'terminals' holds other values than true and false")
    if not terminals[-1]:
        raise archive.bad("'terminals' is false in the last row: the last episode is cut off")
    if terminals.all():
        raise archive.bad("'terminals' is true in every row, so there are no transitions")


def check_numbers(archive: Archive, key: str, array: NDArray[Any]) -> None:
    """Refuse NaN and infinite values, and actions outside [-1, 1]."""
    if array.dtype.kind == "f" and not all(np.isfinite(piece).all() for piece in pieces(array)):
        raise archive.bad(f"'{key}' holds NaN or infinite values")
    if key == "actions" and not all(np.abs(piece).max() <= 1 + 1e-6 for piece in pieces(array)):
        raise FLPError(f"{archive.path}: 'actions' leave [-1, 1]; rescale them to the environment's action range")

"""Minari's datasets: rewards and ends as recorded, observations flattened by gymnasium."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.own.log_file import Rows
from flp.own.precision import narrowed
from flp.own.reading import REMEDY
from flp.system.errors import FLPError, one_line
from flp.system.portability import user_path

_ID = re.compile(r"[\w-]+(/[\w-]+)*")


def open_minari(name: str) -> Any:
    """Open a dataset: a folder, or an id, which is downloaded if necessary.

    Raises:
        FLPError: it does not exist, or Minari is not installed.
    """
    try:
        import minari
    except ImportError:
        raise FLPError(f"{name}: Minari's datasets need minari; pip install 'flp[minari]'") from None
    folder = local_folder(name)
    if folder is None and _looks_like_a_folder(name):
        raise FLPError(f"{user_path(name)}: there is no folder with a Minari dataset (data/metadata.json); correct it")
    try:
        return minari.MinariDataset(folder) if folder else minari.load_dataset(name, download=True)
    except Exception as error:  # Minari checks little before it reads
        missing = isinstance(error, ImportError) or "not installed" in str(error)
        remedy = "a download needs pip install 'flp[minari]'" if missing else "correct the name"
        if folder is None:
            remedy = f"there is no such folder here, and as an id, {remedy}"
        raise FLPError(f"Minari cannot open {name} ({one_line(error)}); {remedy}") from error


def local_folder(name: str) -> Path | None:
    """The folder with a dataset's files, if the name is one; None if it is an id."""
    folder = user_path(name)
    places = (place for place in (folder / "data", folder) if (place / "metadata.json").exists())
    return next(places, None)


def _looks_like_a_folder(name: str) -> bool:
    """Whether a name cannot be an id (`namespace/name-v0`), or is a folder on this machine."""
    return _ID.fullmatch(name) is None or user_path(name).exists()


def reference_of(data: Any) -> tuple[float, float] | None:
    """The returns of a random policy and of an expert, if a dataset gives both."""
    low, high = (data.storage.metadata.get(key) for key in ("ref_min_score", "ref_max_score"))
    given = all(isinstance(score, (int, float)) and math.isfinite(score) for score in (low, high)) and low != high
    return (float(low), float(high)) if given else None


def environment_of(data: Any, name: str) -> tuple[str, dict[str, Any]]:
    """The id and arguments of the environment that a dataset names.

    Raises:
        FLPError: it names none, or one that an id alone cannot make.
    """
    spec = data.env_spec
    if spec is None:
        raise FLPError(f"{name} names no environment; name one in its task, or environment: null")
    if spec.additional_wrappers or ":" in spec.id:
        wrappers = ", ".join(wrapper.name for wrapper in spec.additional_wrappers)
        why = f"is wrapped ({wrappers})" if wrappers else "imports a module"
        raise FLPError(
            f"{name}: its environment {spec.id} {why}, for which a dataset's word is not enough; name an environment "
            "of yours in its task"
        )
    kwargs = {key: value for key, value in spec.kwargs.items() if key != "render_mode"}
    if spec.max_episode_steps is not None:
        kwargs["max_episode_steps"] = spec.max_episode_steps
    return spec.id, kwargs


def read_minari(data: Any, name: str, space: Any = None) -> Rows:
    """Read the transitions, in the form of `flp.own.log_file.read_file`; actions in the environment's units.

    Args:
        data: the dataset.
        name: its name in messages.
        space: the space whose order composite observations are flattened in: the environment's; None: the data's.

    Raises:
        FLPError: no episodes, a damaged one, or NaN or infinite values.
    """
    parts: dict[str, list[NDArray[Any]]] = {}
    episodes, count = iter(data.iterate_episodes()), 0
    try:
        for episode in episodes:
            for key, array in _rows(episode, data.observation_space if space is None else space).items():
                parts.setdefault(key, []).append(array)
            count += 1
    except Exception as error:  # Minari and its reader may raise anything
        raise FLPError(f"{name}: episode {count} (from 0) cannot be read ({one_line(error)}); {REMEDY}") from error
    if not parts:
        raise FLPError(f"{name} has no episodes")
    rows = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    for key, array in rows.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FLPError(f"{name}: '{key}' holds NaN or infinite values")
    return rows | {key: narrowed(_Named(name), key, rows[key]) for key in ("observations", "rewards")}


@dataclass(frozen=True)
class _Named:
    """Names the problems of a dataset."""

    name: str

    def bad(self, problem: str) -> FLPError:
        return FLPError(f"{self.name}: {problem}; {REMEDY}")


def _rows(episode: Any, space: Any) -> Rows:
    """One episode: one row more than it has steps; `ValueError` for unequal lengths or bad flags."""
    steps = len(episode)
    rewards, actions = _real(episode.rewards), _real(episode.actions).reshape(steps, -1)
    ended = np.asarray(episode.terminations, np.float32)
    observations = _flat(episode.observations, space, steps + 1)
    lengths = {"observations": len(observations) - 1, "rewards": len(rewards), "terminations": len(ended)}
    if wrong := {key: length for key, length in lengths.items() if length != steps}:
        raise ValueError(f"of {steps} actions it has {wrong}")
    if not np.isin(ended, (0, 1)).all():
        raise ValueError("terminations are not all true or false")
    return {
        "observations": observations,
        "actions": _padded(actions, 0.0),
        "rewards": _padded(rewards, 0.0),
        "masks": _padded(1 - ended, 1.0),
        "terminals": np.arange(steps + 1) == steps,
    }


def _real(array: Any) -> NDArray[Any]:
    """Numbers in their own type, float32 or wider."""
    numbers: NDArray[Any] = np.asarray(array)
    return numbers.astype(np.result_type(numbers.dtype, np.float32), copy=False)


def _padded(array: NDArray[Any], value: float) -> NDArray[Any]:
    return np.concatenate([array, np.full((1, *array.shape[1:]), value, array.dtype)])


def _flat(observations: Any, space: Any, rows: int) -> NDArray[Any]:
    """An episode's observations, each flattened."""
    if isinstance(observations, np.ndarray) and observations.ndim == 2 and len(space.shape or ()) == 1:
        return observations
    from gymnasium.spaces.utils import flatten

    return np.stack([np.asarray(flatten(space, _at(observations, i))) for i in range(rows)])


def _at(nested: Any, index: int) -> Any:
    """One step of nested arrays."""
    if isinstance(nested, dict):
        return {key: _at(value, index) for key, value in nested.items()}
    if isinstance(nested, tuple):
        return tuple(_at(value, index) for value in nested)
    return nested[index]

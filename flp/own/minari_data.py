"""Minari's datasets: rewards and ends as they are, observations flattened by gymnasium's own tool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.own.log_file import Rows
from flp.system.errors import FLPError
from flp.system.surroundings import user_path


@dataclass(frozen=True)
class Minari:
    """What a dataset says beside its transitions.

    Attributes:
        observation_space: gymnasium's, of what was observed.
        action_space: of what was done.
        environment: its environment's id; None where it names none.
        kwargs: what that is made with.
        reference: the returns of a random policy and of an expert, where it tells both.
    """

    observation_space: Any
    action_space: Any
    environment: str | None
    kwargs: dict[str, Any]
    reference: tuple[float, float] | None


def open_minari(name: str) -> Any:
    """Open a dataset: a folder, or an id, which is downloaded if it is not there.

    Raises:
        FLPError: there is none, or Minari is not installed.
    """
    try:
        import minari
    except ImportError:
        raise FLPError(f"{name}: Minari's datasets need minari; pip install 'flp[minari]'") from None
    folder = local_folder(name)
    try:
        return minari.MinariDataset(folder) if folder else minari.load_dataset(name, download=True)
    except Exception as error:  # Minari checks little before it reads
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise FLPError(f"Minari cannot open {name} ({reason}); name its folder, or an id that it knows") from error


def local_folder(name: str) -> Path | None:
    """The folder with a dataset's files, if the name is one; None if it is an id."""
    folder = user_path(name)
    places = (place for place in (folder / "data", folder) if (place / "metadata.json").exists())
    return next(places, None)


def describe(data: Any, name: str) -> Minari:
    """What a dataset says beside its transitions.

    Raises:
        FLPError: its environment is wrapped, which only code can do.
    """
    spec = data.env_spec
    metadata = data.storage.metadata
    ends = [metadata.get(key) for key in ("ref_min_score", "ref_max_score")]
    reference = (float(ends[0]), float(ends[1])) if all(isinstance(end, (int, float)) for end in ends) else None
    if spec is None:
        return Minari(data.observation_space, data.action_space, None, {}, reference)
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
    return Minari(data.observation_space, data.action_space, spec.id, kwargs, reference)


def read_minari(data: Any, name: str) -> Rows:
    """Read the transitions, as `flp.own.log_file.read_file` gives them; actions in the environment's units.

    Raises:
        FLPError: no episodes, or values that are no numbers.
    """
    parts: dict[str, list[NDArray[Any]]] = {}
    for episode in data.iterate_episodes():
        for key, array in _rows(episode, data.observation_space).items():
            parts.setdefault(key, []).append(array)
    if not parts:
        raise FLPError(f"{name} has no episodes")
    rows = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    for key, array in rows.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FLPError(f"{name}: '{key}' holds NaN or infinite values")
    return rows


def _rows(episode: Any, space: Any) -> Rows:
    """One episode: a row more than it has steps."""
    steps = len(episode)
    return {
        "observations": _flat(episode.observations, space, steps + 1),
        "actions": _padded(np.asarray(episode.actions, np.float32).reshape(steps, -1), 0.0),
        "rewards": _padded(np.asarray(episode.rewards, np.float32), 0.0),
        "masks": _padded(1 - np.asarray(episode.terminations, np.float32), 1.0),
        "terminals": np.arange(steps + 1) == steps,
    }


def _padded(array: NDArray[np.float32], value: float) -> NDArray[np.float32]:
    return np.concatenate([array, np.full((1, *array.shape[1:]), value, np.float32)])


def _flat(observations: Any, space: Any, rows: int) -> NDArray[np.float32]:
    """Observations of an episode, each flattened."""
    if isinstance(observations, np.ndarray) and observations.ndim == 2 and len(space.shape or ()) == 1:
        return np.asarray(observations, np.float32)
    from gymnasium.spaces.utils import flatten

    return np.stack([np.asarray(flatten(space, _at(observations, i)), np.float32) for i in range(rows)])


def _at(nested: Any, index: int) -> Any:
    """One step of nested arrays."""
    if isinstance(nested, dict):
        return {key: _at(value, index) for key, value in nested.items()}
    if isinstance(nested, tuple):
        return tuple(_at(value, index) for value in nested)
    return nested[index]

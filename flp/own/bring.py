"""A user's data brought in: read, compared with the environment, actions scaled, a tenth of the episodes held out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.archive import pieces, write_npz
from flp.data.load import OWN_FORMAT
from flp.data.own_file import held_out, own_files, scales
from flp.own.log_file import REMEDY, Rows, read_file, unused
from flp.own.minari_data import environment_of, local_folder, open_minari, read_minari, reference_of
from flp.own.task import OwnSpec
from flp.system.errors import FLPError
from flp.system.portability import user_path

OF_DATASET = "dataset"
"""In place of an environment: the one that the dataset itself names."""

Range = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Asked:
    """What a task of `params.yaml` says of its data and its environment.

    Attributes:
        dataset: the task's name.
        path: the file; None where the data are Minari's.
        minari: Minari's id or a folder; None where they are a file.
        environment: gymnasium's id; `dataset` for the one the Minari dataset names; None for no simulator.
        kwargs: what it is made with.
        success: the rule.
        actions: the range of actions where neither environment nor dataset tells it, one number for all or each.
    """

    dataset: str
    path: str | None
    minari: str | None
    environment: str | None
    kwargs: dict[str, Any]
    success: str
    actions: Range | None

    @property
    def source(self) -> str:
        """The file, or Minari's name."""
        return self.path or str(self.minari)

    def files(self) -> list[Path]:
        """The files that are the data, where they are at hand; none for an id of Minari's."""
        if self.path is None:
            folder = local_folder(str(self.minari))
            return sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
        return own_files(self.path)


@dataclass(frozen=True, eq=False)
class Gathered:
    """The data, read and checked.

    Attributes:
        spec: what is known of the task now.
        parts: all rows, or training and validation where they came in two files; actions in [-1, 1].
        reference: the returns of a random policy and an expert, where the dataset tells them.
    """

    spec: OwnSpec
    parts: list[Rows]
    reference: tuple[float, float] | None


def gather(asked: Asked) -> Gathered:
    """Read the data and compare them with the environment, which is opened for it.

    Raises:
        FLPError: they are not whole or do not fit, in one line.
    """
    environment, kwargs, space, reference = asked.environment, asked.kwargs, None, None
    if asked.path is None:
        from flp.own import adapter

        data = open_minari(asked.source)
        bounded = asked.actions is None or adapter.is_bounded(data.action_space)
        if bounded:
            adapter.action_range(data.action_space, asked.source)
            if asked.actions is not None:
                raise FLPError(f"{asked.dataset}: {asked.source} tells the range of actions itself; leave out actions")
        adapter.observation_dim(data.observation_space, asked.source)
        if environment == OF_DATASET:
            environment, own = environment_of(data, asked.source)
            kwargs = {**own, **kwargs}
        order = None
        if environment is not None:
            order = adapter.order_of(environment, kwargs, data.observation_space, asked.source)
        parts, reference = [read_minari(data, asked.source, order)], reference_of(data)
        space = data.action_space if bounded else None
    else:
        paths = own_files(asked.path) or [user_path(asked.path)]
        if extra := unused(paths[0]):
            print(f"{paths[0]}: not used: {', '.join(map(repr, extra))}", file=sys.stderr)
        parts = [read_file(path) for path in paths]
    spec = _spec(asked, environment, kwargs, space, parts[0])
    for rows in parts:
        _fit(asked.source, spec, rows)
    _warn_of_coarse(asked.source, parts[0]["observations"])
    return Gathered(spec, parts, reference)


def bring_in(asked: Asked, train: Path, validation: Path) -> Gathered:
    """Write both files of a task's dataset; return what is known now. Errors as `gather`."""
    found = gather(asked)
    parts = found.parts
    if len(parts) == 1:
        whole = parts[0]
        hint = "put a validation file beside it, with -val at the end of its name" if asked.path else "record more"
        split = held_out(whole["terminals"], asked.source, hint)
        parts = [{key: array[rows] for key, array in whole.items()} for rows in (slice(split), slice(split, None))]
    for path, rows in zip((train, validation), parts, strict=True):
        write_npz(path, {key: rows[key] for key in OWN_FORMAT})
    return found


def _spec(asked: Asked, environment: str | None, kwargs: dict[str, Any], space: Any, rows: Rows) -> OwnSpec:
    """What is known of the task; its range of actions is the environment's, or the dataset's, or what the task says."""
    sizes = {"observation_dim": rows["observations"].shape[1], "action_dim": rows["actions"].shape[1]}
    known: dict[str, Any] = {"dataset": asked.dataset, "success": asked.success, **sizes}
    if environment is not None:
        from flp.own import adapter

        what = f"{asked.dataset}: {environment}"
        env = adapter.open_environment(environment, kwargs)
        try:
            low, high = adapter.action_range(env.action_space, what)
            if len(low) != sizes["action_dim"]:
                raise FLPError(f"{what} has actions of {len(low)} numbers, the data have {sizes['action_dim']}")
            told = (low, high) if space is None else adapter.action_range(space, asked.source)
            adapter.compare(env, what, sizes["observation_dim"], told)
            horizon = adapter.horizon_of(env)
        finally:
            env.close()
        return OwnSpec(**known, horizon=horizon, environment=environment, kwargs=kwargs, low=low, high=high)
    if space is not None:
        from flp.own import adapter

        low, high = adapter.action_range(space, asked.source)
    else:
        low, high = ((-1.0,), (1.0,)) if asked.actions is None else asked.actions
        low, high = (bound * sizes["action_dim"] if len(bound) == 1 else bound for bound in (low, high))
    for bound in (low, high):
        if len(bound) != sizes["action_dim"]:
            said = f"the range of actions has {len(bound)} numbers, an action {sizes['action_dim']}"
            raise FLPError(f"{asked.dataset}: {said}")
    longest = int(np.diff(np.flatnonzero(rows["terminals"]), prepend=-1).max()) - 1
    return OwnSpec(**known, horizon=max(1, longest), low=low, high=high)


def _fit(source: str, spec: OwnSpec, rows: Rows) -> None:
    """Scale the actions in place; refuse those out of range, and data without transitions."""
    widths = rows["observations"].shape[1], rows["actions"].shape[1]
    if widths != (spec.observation_dim, spec.action_dim):
        raise FLPError(f"{source}: the held-out episodes have other widths than the others; {REMEDY}")
    if rows["terminals"].all():
        raise FLPError(f"{source}: an episode ends in every row, so there are no transitions; {REMEDY}")
    rows["actions"][rows["terminals"]] = spec.low  # nothing is done there, and 0 may be out of range
    for piece in pieces(rows["actions"]):
        piece[:] = _scaled(source, spec, piece)
    rows["actions"][rows["terminals"]] = 0


def _warn_of_coarse(source: str, observations: NDArray[np.float32]) -> None:
    """Tell of columns in which float32, as networks compute, has fewer than a hundred steps to a deviation."""
    spread, largest = scales(observations)
    for column in np.flatnonzero((spread > 0) & (np.spacing(largest) > 0.01 * spread)):
        print(
            f"warning: {source}: column {column} of the observations reaches {largest[column]:g} and varies by "
            f"{spread[column]:g}, of which float32 keeps little; subtract an offset in your file",
            file=sys.stderr,
        )


def _scaled(source: str, spec: OwnSpec, actions: NDArray[np.float32]) -> NDArray[np.float64]:
    scaled = spec.scaled(actions)
    if (np.abs(scaled) > 1 + 1e-6 + spec.rounding).any():
        column = int(np.abs(scaled).max(0).argmax())
        least, greatest = actions[:, column].min(), actions[:, column].max()
        told = "actions: {low: …, high: …}" if spec.environment is None else "the environment's action space"
        raise FLPError(
            f"{source}: actions reach from {least:g} to {greatest:g} in column {column}, outside "
            f"{spec.low[column]:g} to {spec.high[column]:g} ({told}); correct the one or the other"
        )
    return np.clip(scaled, -1.0, 1.0)

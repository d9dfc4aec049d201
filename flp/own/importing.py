"""Import of a user's data: read, compared with the environment, actions scaled, a tenth of the episodes held out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.archive import pieces, write_npz
from flp.data.load import OWN_FORMAT
from flp.own.log_file import Rows, read_file, unused
from flp.own.minari_data import environment_of, local_folder, open_minari, read_minari, reference_of
from flp.own.plausibility import doubts
from flp.own.precision import spacing_at
from flp.own.reading import REMEDY
from flp.own.splitting import own_files, validation_split
from flp.own.task import OwnSpec
from flp.system.errors import FLPError
from flp.system.portability import user_path

OF_DATASET = "dataset"
"""In place of an environment: the one that the dataset itself names."""

Range = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class TaskSource:
    """What a task of `params.yaml` says about its data and its environment.

    Attributes:
        dataset: the task's name.
        path: the file; None for Minari data.
        minari: Minari's id or a folder; None for a file.
        environment: gymnasium's id; `dataset` for the one that the Minari dataset names; None for no simulator.
        kwargs: the environment's arguments.
        success: the rule of success.
        actions: the range of actions if neither environment nor dataset gives it; one number for all, or one each.
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
        """The data's files, as far as they are on this machine; empty for Minari's ids."""
        if self.path is None:
            folder = local_folder(str(self.minari))
            return sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
        return own_files(self.path)


@dataclass(frozen=True, eq=False)
class TaskData:
    """A task's data, read and checked.

    Attributes:
        spec: the task's environment.
        parts: training and validation rows; actions in [-1, 1].
        reference: the returns of a random policy and an expert, if the dataset gives them.
    """

    spec: OwnSpec
    parts: tuple[Rows, Rows]
    reference: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class _Raw:
    """Data as read, with what they say about their environment: its id and arguments, and the space of actions."""

    parts: list[Rows]
    environment: str | None
    kwargs: dict[str, Any]
    actions: Any = None
    reference: tuple[float, float] | None = None


def read_task(task: TaskSource) -> TaskData:
    """Read a task's data and compare them with the environment, which is opened to do so.

    Raises:
        FLPError: they are not whole, do not fit, or are too few to hold some out, in one line.
    """
    raw = _from_minari(task) if task.path is None else _from_files(task, task.path)
    spec = _spec(task, raw)
    _check_range(spec)
    for doubt in doubts(spec, raw.parts[0]):
        print(f"warning: {task.source}: {doubt}", file=sys.stderr)
    for rows in raw.parts:
        _fit(task.source, spec, rows)
    return TaskData(spec, _split(task, raw.parts), raw.reference)


def _split(task: TaskSource, parts: list[Rows]) -> tuple[Rows, Rows]:
    """Training and validation rows; the last tenth of the episodes unless they came in two files."""
    if len(parts) == 2:
        return parts[0], parts[1]
    (rows,) = parts
    hint = "put a validation file next to it, with -val at the end of its name" if task.path else "record more"
    split = validation_split(rows["terminals"], task.source, hint)
    train, validation = (
        {key: array[part] for key, array in rows.items()} for part in (slice(split), slice(split, None))
    )
    return train, validation


def _from_files(task: TaskSource, path: str) -> _Raw:
    files = own_files(path) or [user_path(path)]
    if extra := unused(files[0]):
        print(f"{files[0]}: not used: {', '.join(map(repr, extra))}", file=sys.stderr)
    return _Raw([read_file(file) for file in files], task.environment, task.kwargs)


def _from_minari(task: TaskSource) -> _Raw:
    from flp.own import adapter

    data = open_minari(task.source)
    bounded = adapter.is_bounded(data.action_space)
    if not bounded and task.actions is None and task.environment is None:
        problem = f"{task.source}: actions are {data.action_space}, whose range is not finite"
        raise FLPError(f"{problem}; give it in the task, actions: {{low: …, high: …}}")
    gives_range = bounded or task.actions is None
    if gives_range:
        adapter.action_range(data.action_space, task.source)
        if task.actions is not None:
            raise FLPError(f"{task.dataset}: {task.source} gives the range of actions itself; leave out actions")
    adapter.observation_dim(data.observation_space, task.source)
    environment, kwargs = task.environment, task.kwargs
    if environment == OF_DATASET:
        environment, own = environment_of(data, task.source)
        kwargs = {**own, **kwargs}
    order = None
    if environment is not None:
        order = adapter.order_of(environment, kwargs, data.observation_space, task.source)
    rows = read_minari(data, task.source, order)
    return _Raw([rows], environment, kwargs, data.action_space if gives_range else None, reference_of(data))


def import_task(task: TaskSource, train: Path, validation: Path) -> TaskData:
    """Read a task's data and write both files of its dataset. Errors as `read_task`."""
    data = read_task(task)
    for path, rows in zip((train, validation), data.parts, strict=True):
        write_npz(path, {key: rows[key] for key in OWN_FORMAT})
    return data


def _spec(task: TaskSource, raw: _Raw) -> OwnSpec:
    """The task's spec; its range of actions is the environment's, else the dataset's, else what the task says."""
    rows = raw.parts[0]
    observation_dim, action_dim = rows["observations"].shape[1], rows["actions"].shape[1]
    common: dict[str, Any] = {"dataset": task.dataset, "success": task.success}
    common |= {"observation_dim": observation_dim, "action_dim": action_dim}
    if raw.environment is not None:
        from flp.own import adapter

        what = f"{task.dataset}: {raw.environment}"
        env = adapter.open_environment(raw.environment, raw.kwargs)
        try:
            low, high = adapter.action_range(env.action_space, what)
            if len(low) != action_dim:
                raise FLPError(f"{what} has actions of {len(low)} numbers, the data have {action_dim}")
            of_data = (low, high) if raw.actions is None else adapter.action_range(raw.actions, task.source)
            adapter.compare(env, what, observation_dim, of_data)
            horizon = int(env.spec.max_episode_steps)
        finally:
            adapter.close(env)
        return OwnSpec(**common, horizon=horizon, environment=raw.environment, kwargs=raw.kwargs, low=low, high=high)
    if raw.actions is not None:
        from flp.own import adapter

        low, high = adapter.action_range(raw.actions, task.source)
    else:
        low, high = ((-1.0,), (1.0,)) if task.actions is None else task.actions
        low, high = (bound * action_dim if len(bound) == 1 else bound for bound in (low, high))
    for bound in (low, high):
        if len(bound) != action_dim:
            problem = f"the range of actions has {len(bound)} numbers, an action {action_dim}"
            raise FLPError(f"{task.dataset}: {problem}")
    longest = int(np.diff(np.flatnonzero(rows["terminals"]), prepend=-1).max()) - 1
    return OwnSpec(**common, horizon=max(1, longest), low=low, high=high)


def _fit(source: str, spec: OwnSpec, rows: Rows) -> None:
    """Scale the actions in place; refuse those out of range, and data without transitions."""
    widths = rows["observations"].shape[1], rows["actions"].shape[1]
    if widths != (spec.observation_dim, spec.action_dim):
        raise FLPError(f"{source}: the held-out episodes have other widths than the others; {REMEDY}")
    if rows["terminals"].all():
        raise FLPError(f"{source}: an episode ends in every row, so there are no transitions; {REMEDY}")
    rows["actions"][rows["terminals"]] = spec.low  # no action is taken there, and 0 may be out of range
    scaled = np.empty(rows["actions"].shape, np.float32)
    for target, piece in zip(pieces(scaled), pieces(rows["actions"]), strict=True):
        exact = spec.scaled(piece)
        reach = np.abs(exact).max(0)
        if (reach > 1 + 1e-6 + spec.rounding).any():
            raise _outside(source, spec, rows["actions"][~rows["terminals"]], int(reach.argmax()))
        target[:] = np.clip(exact, -1.0, 1.0)
    scaled[rows["terminals"]] = 0
    rows["actions"] = scaled


def _check_range(spec: OwnSpec) -> None:
    """Warn of a range of actions of which float32, the policies' type, has fewer than 100 steps; refuse one step."""
    low, high = map(np.array, spec.bounds)
    steps = (high - low) / spacing_at(np.maximum(abs(low), abs(high)))
    for column in np.flatnonzero(steps < 100):
        problem = (
            f"{spec.dataset}: float32 keeps {{}} of the range of actions {low[column]:.10g} to {high[column]:.10g}"
        )
        remedy = "subtract an offset from the actions, and add it in the environment"
        if steps[column] <= 1:
            raise FLPError(f"{problem.format('nothing')}; {remedy}")
        print(f"warning: {problem.format('little')}; {remedy}", file=sys.stderr)


def _outside(source: str, spec: OwnSpec, actions: NDArray[Any], column: int) -> FLPError:
    least, greatest = actions[:, column].min(), actions[:, column].max()
    origin = "actions: {low: …, high: …}" if spec.environment is None else "the environment's action space"
    return FLPError(
        f"{source}: actions reach from {least:g} to {greatest:g} in column {column}, outside "
        f"{spec.low[column]:g} to {spec.high[column]:g} ({origin}); correct the one or the other"
    )

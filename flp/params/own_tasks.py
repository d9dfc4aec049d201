"""A user's own tasks: the section `tasks` of params.yaml, one entry for each name that `datasets` may then contain."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from flp.data.environments import known_datasets
from flp.own.importing import OF_DATASET, TaskSource
from flp.own.success import success_rule
from flp.own.task import package_version
from flp.params.fields import AsReal, Float, Section

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,98}[A-Za-z0-9])?")  # of a dataset or task, fit for folders
# Names of other folders and pages of the results.
_TAKEN = ("report", "figures", "videos", "keys", "bench", "tensorboard", "wandb", "index", "sha256")
_NUMBER = re.compile(r"[0-9][0-9_]*(e[+-]?[0-9]+)?", re.IGNORECASE)  # of YAML 1.2, as DVC reads it; PyYAML: 1.1


def _rule(text: str) -> str:
    success_rule(text)
    return text


def _jsonable(values: dict[str, Any]) -> dict[str, Any]:
    try:
        held = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        held = None
    if held != values:
        raise ValueError("must be what JSON can hold: finite numbers, texts, lists, and mappings with texts as keys")
    return values


def _several(value: object) -> object:
    """One number as a list of one."""
    return value if isinstance(value, list) else [value]


Bounds = Annotated[list[Float], Field(min_length=1, max_length=2**12), BeforeValidator(_several)]


class TaskData(Section):
    """Where a task's transitions are: one of the two."""

    path: str | None = None
    """A `.npz` or HDF5 file (`.h5`, `.hdf5`) in D4RL's layout; `{stem}-val` next to it holds the held-out episodes."""
    minari: str | None = None
    """A dataset of Minari's: a folder, or an id, which is downloaded if it is not there."""

    @model_validator(mode="after")
    def _one(self) -> TaskData:
        if bool(self.path) == bool(self.minari):
            raise ValueError("name one source: {path: my.npz} or {minari: the id or folder of a dataset}")
        return self


class Reference(Section):
    """The returns at which the normalised score is 0 and 100."""

    random: Float
    """Undiscounted return of a random policy: 0."""
    expert: Float
    """Undiscounted return of an expert: 100."""

    @model_validator(mode="after")
    def _differ(self) -> Reference:
        if self.random == self.expert:
            raise ValueError("random and expert are the same return; the score between them has no meaning")
        return self


class ActionRange(Section):
    """The range of actions, where neither an environment nor Minari gives it."""

    low: Bounds
    """The lowest action: one number for all dimensions, or one for each."""
    high: Bounds
    """The highest action."""

    @model_validator(mode="after")
    def _ordered(self) -> ActionRange:
        if len({len(self.low), len(self.high)} - {1}) > 1:
            raise ValueError(f"low has {len(self.low)} numbers and high {len(self.high)}")
        count = max(len(self.low), len(self.high))
        pairs = [bound if len(bound) == count else bound * count for bound in (self.low, self.high)]
        if any(low >= high for low, high in zip(*pairs, strict=True)):
            raise ValueError("each low must be below its high")
        return self


class OwnTask(Section):
    """One task: its data, its environment and its criterion of success."""

    data: TaskData
    environment: str | None = OF_DATASET
    """A gymnasium id, with the module that registers it (`my_package:MyArm-v0`); `dataset` for the one that a Minari
    dataset names itself; null for no simulator."""
    kwargs: Annotated[dict[str, Any], AfterValidator(_jsonable)] = Field(default={})
    """Arguments of the environment, such as `{max_episode_steps: 500}`."""
    success: Annotated[str, AfterValidator(_rule)] = "none"
    """`info.success`, a comparison such as `return >= 300` or `info.distance < 0.05`, or `none`: the return counts."""
    discount: Annotated[float, Field(ge=0, lt=1), AsReal] | None = None
    """In place of `offline.discount`; empty: that."""
    reference: Reference | None = None
    """For the normalised score; empty: the Minari dataset's own, if it records them."""
    actions: ActionRange | None = None
    """The range of actions, where neither an environment nor Minari gives it; empty: -1 to 1."""

    @model_validator(mode="after")
    def _environment_given(self) -> OwnTask:
        if self.environment == OF_DATASET and not self.data.minari:
            raise ValueError("environment is missing: a gymnasium id such as my_package:MyArm-v0, or null for none")
        if self.environment == "":
            raise ValueError("environment is empty; write null for no simulator")
        if self.actions is not None and self.environment is not None:
            raise ValueError("actions is for tasks without a simulator; the environment's action space tells its range")
        return self

    def shaping_data(self) -> dict[str, Any]:
        """What its data depend on besides their content: the environment's range of actions scales them."""
        environment = {"environment": self.environment, "version": package_version(self.environment)}
        actions = None if self.actions is None else self.actions.model_dump(mode="json")
        return {**environment, "kwargs": self.kwargs, "actions": actions, "minari": self.data.minari}

    def source(self, name: str) -> TaskSource:
        """The task as its data are imported."""
        actions = None if self.actions is None else (tuple(self.actions.low), tuple(self.actions.high))
        data = {"path": self.data.path, "minari": self.data.minari, "environment": self.environment}
        return TaskSource(name, **data, kwargs=self.kwargs, success=self.success, actions=actions)


def named(tasks: dict[str, OwnTask]) -> dict[str, OwnTask]:
    """The tasks, whose names must be fit for folders and pages and not taken (`ValueError`)."""
    for name in tasks:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a task; take letters, digits, - and _, at most 100")
        # On a command line it would be read as something else.
        if yaml.safe_load(name) != name or _NUMBER.fullmatch(name):
            raise ValueError(f"{name!r} is a number, a date or the like to YAML; take another name")
        if name in known_datasets():
            raise ValueError(f"{name} is OGBench's; give your task another name")
        if name in _TAKEN or name.endswith("-val"):
            raise ValueError(f"{name} is the name of other files of the pipeline; give your task another one")
    return tasks

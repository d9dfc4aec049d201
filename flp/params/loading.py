"""The experiment's parameters: one typed definition for Python, Snakemake, DVC and editors.

`params.yaml` holds the values, `presets/*.yaml` are overlays on it. The section `overrides` changes any of them for
one dataset, and `agents` some of them for one algorithm. Any mistake is refused in one line that names the key. The
sections are defined in `flp/params/sections.py`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from flp.data.environments import EnvironmentSpec, specification
from flp.own.task import spec_from
from flp.params.fields import Distinct, Section, Seed
from flp.params.online import OnlineSettings
from flp.params.own_tasks import OwnTask, named
from flp.params.problems import first_problem
from flp.params.sections import (
    ONLINE_ONLY,
    AgentName,
    DownloadSettings,
    EvaluationSettings,
    Figure2Settings,
    FlowSettings,
    InvertSettings,
    OfflineSettings,
    ReportSettings,
)
from flp.params.yamlfile import read_given, read_yaml
from flp.system import layout
from flp.system.artifacts import read_json
from flp.system.errors import FLPError, nearest
from flp.system.portability import user_path

# What may differ between algorithms: these sections, except what makes runs comparable or shapes the graph.
_OWN = ("offline", "online", "evaluation")
_SHARED = ("agents", "tasks", "seeds_per_job", "sweep", "baselines", "success_timing", "episodes", "seed")


class Params(Section):
    """Everything in `params.yaml`."""

    tasks: Annotated[dict[str, OwnTask], AfterValidator(named)] = Field(default={})
    """Your own tasks, by names that `datasets` may take (docs/your-own-task.md)."""
    datasets: Annotated[list[str], Field(min_length=1), Distinct]
    """OGBench dataset names, without `-v0`, and names of `tasks`."""
    seeds: Annotated[list[Seed], Field(min_length=1), Distinct]
    """Random seeds: one flow and one policy per dataset, task and seed."""
    download: DownloadSettings
    flow: FlowSettings
    invert: InvertSettings
    offline: OfflineSettings
    online: OnlineSettings
    evaluation: EvaluationSettings
    report: ReportSettings
    figure2: Figure2Settings = Field(default=Figure2Settings())
    agents: dict[AgentName, dict[str, Any]] = Field(default={})
    """Other values for one algorithm: `agents: {idql: {offline: {steps: 3000000}, evaluation: {every: 250000}}}`."""
    overrides: dict[str, dict[str, Any]] = Field(default={})
    """Other values for one dataset: `overrides: {cube-double-play: {offline: {discount: 0.99}}}`."""

    @field_validator("datasets")
    @classmethod
    def _datasets_known(cls, names: list[str], info: ValidationInfo) -> list[str]:
        if "tasks" not in info.data:  # they are what is wrong
            return names
        tasks: dict[str, OwnTask] = info.data["tasks"]
        for name in names:
            if name not in tasks:
                try:
                    specification(name, list(tasks))
                except FLPError as error:
                    raise ValueError(str(error)) from error
        return names

    @model_validator(mode="after")
    def _tasks_trained(self) -> Params:
        untrained = set(self.online.tasks or []) - set(self.offline.tasks)
        if untrained:
            raise ValueError(f"online.tasks has {sorted(untrained)}, which offline.tasks does not train")
        return self

    @model_validator(mode="after")
    def _own_file_elsewhere(self) -> Params:
        if self.download.source == "path" and self.download.path:
            self._elsewhere("download.path", self.download.path)
        for name, task in self.tasks.items():
            self._elsewhere(f"tasks.{name}.data.path", task.data.path or "")
        return self

    def _elsewhere(self, key: str, path: str) -> None:
        outputs = [layout.DATA.format(dataset=name) + end for name in self.datasets for end in (".npz", "-val.npz")]
        if path and os.path.realpath(user_path(path)) in map(os.path.realpath, outputs):
            raise ValueError(f"{key} is {path}, which the download stage writes; move your file elsewhere")

    @model_validator(mode="after")
    def _jobs_can_be_named(self) -> Params:
        for group in layout.seed_groups(self.seeds, self.offline.seeds_per_job):
            try:
                layout.join_seeds(group)
            except FLPError as error:
                raise ValueError(f"offline.seeds_per_job is {self.offline.seeds_per_job}: {error}") from error
        return self

    def require_known(self, dataset: str) -> None:
        """Refuse a name that is neither OGBench's nor one of `tasks` (`FLPError`)."""
        if dataset not in self.tasks:
            specification(dataset, list(self.tasks))

    def spec(self, dataset: str) -> EnvironmentSpec:
        """The specification of a dataset and its environment; that of a user's task is known once its data are there.

        Raises:
            FLPError: it is not known, or not yet.
        """
        if dataset not in self.tasks:
            return specification(dataset, list(self.tasks))
        manifest = layout.DATA.format(dataset=dataset) + ".json"
        return spec_from(read_json(manifest).get("task"), manifest, success=self.tasks[dataset].success)

    def for_dataset(self, dataset: str) -> Params:
        """The parameters of one dataset: its overrides are applied and all overrides removed."""
        values = self.model_dump(mode="json")
        overrides = values.pop("overrides").get(dataset, {})
        values = merge(merge(values, self._of_task(dataset)), overrides)
        return _judged(values, f"overrides.{dataset}" if overrides else "params.yaml")

    def _of_task(self, dataset: str) -> dict[str, Any]:
        """Values that follow from a dataset being a user's task: it has one task, and perhaps no environment."""
        if dataset not in self.tasks:
            return {}
        task = self.tasks[dataset]
        online = {"tasks": None} if task.environment is not None else {"tasks": None, "steps": 0}
        discount = {} if task.discount is None else {"discount": task.discount}
        return {"offline": {"tasks": [1], **discount}, "online": online}

    def fine_tuning(self, agent: str) -> Params:
        """The parameters of one algorithm while it is fine-tuned: FLP may choose otherwise than offline."""
        return self.model_copy(update={"offline": self.online.of_flp(self.offline)}) if agent == "flp" else self

    def for_agent(self, agent: str) -> Params:
        """The parameters of one algorithm: its own values are applied and all algorithms' values removed."""
        if agent not in self.agents:
            return self.model_copy(update={"agents": {}})
        values = self.model_dump(mode="json")
        return _validated(merge(values | {"agents": {}}, values["agents"][agent]), f"agents.{agent}")


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`base` with `overlay` on top: mappings are merged, everything else (lists too) is replaced."""
    merged = copy.copy(base)
    for key, value in overlay.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def parse(values: object, source: str = "params.yaml") -> Params:
    """Check a mapping of parameters.

    Raises:
        FLPError: one line with the source, the key's path, what is wrong and the nearest valid name.
    """
    params = _validated(values, source)
    shared = params.model_dump(mode="json", exclude={"overrides"})
    for dataset, overlay in params.overrides.items():
        place = f"{source}: overrides.{dataset}"
        try:
            _check_overlay(params, dataset, overlay)
        except FLPError as error:
            raise FLPError(f"{place}: {error}") from None
        if forbidden := {"tasks", "datasets", "seeds", "overrides", "report", "figure2"} & set(overlay):
            raise FLPError(f"{place}.{min(forbidden)}: cannot differ between datasets; set it at the top level")
        _judged(merge(merge(shared, params._of_task(dataset)), overlay), place)
    _check_agents(params, source)
    for dataset in params.tasks.keys() & set(params.datasets) - params.overrides.keys():
        place = f"{source}: tasks.{dataset}"
        _check_simulator(params, dataset, place)
        _judged(merge(shared, params._of_task(dataset)), place)
    return params


def _judged(values: object, source: str) -> Params:
    """The parameters of one dataset, checked with every algorithm's own values (`FLPError`)."""
    params = _validated(values, source)
    _check_agents(params, source)
    return params


def _validated(values: object, source: str) -> Params:
    """The parameters, each section checked by itself (`FLPError`)."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise FLPError(f"{source}: {first_problem(Params, error)}") from None
    except UnicodeEncodeError as error:
        raise FLPError(f"{source}: {error.object!a} holds half a character; write it again") from None


def _check_agents(params: Params, source: str) -> None:
    """Refuse what an algorithm cannot train with, judged by its own values (`FLPError`)."""
    values = params.model_dump(mode="json", exclude={"overrides", "agents"})
    own: dict[str, Params] = {}
    for agent, overlay in params.agents.items():
        place = f"{source}: agents.{agent}"
        _check_own(overlay, place)
        own[agent] = _validated(merge(values, overlay), place)
    trained = {agent: own.get(agent, params) for agent in params.offline.agents}
    for agent, values_of in trained.items():
        if reason := values_of.offline.unfit(agent):
            raise FLPError(f"{source}: {f'agents.{agent}.' if agent in own else ''}offline: {reason}")
    idle = all(agent in ONLINE_ONLY and values_of.online.steps == 0 for agent, values_of in trained.items())
    if idle and not params.overrides:
        raise FLPError(f"{source}: online.steps is 0, and {', '.join(trained)} learns online only; set it")


def _check_simulator(params: Params, dataset: str, place: str) -> None:
    """Refuse to train only what needs a simulator on a user's task that has none (`FLPError`)."""
    if params.tasks[dataset].environment is None and set(params.offline.agents) <= set(ONLINE_ONLY):
        learners = ", ".join(params.offline.agents)
        raise FLPError(f"{place}: it has no simulator, and {learners} learns online only; add to offline.agents")


def _check_overlay(params: Params, dataset: str, overlay: dict[str, Any]) -> None:
    """Refuse overrides of an unknown dataset, and of values that a user's task does not have (`FLPError`)."""
    params.require_known(dataset)
    if dataset not in params.tasks:
        return
    settled: dict[str, dict[str, Any]] = params._of_task(dataset)
    for section, name in (("offline", "tasks"), ("online", "tasks"), ("online", "steps")):
        values = overlay.get(section)
        if name in settled[section] and isinstance(values, dict) and name in values:
            why = "it has no simulator" if name == "steps" else "a task of yours is one task"
            raise FLPError(f"{section}.{name}: cannot be set here, {why}")


def _check_own(overlay: dict[str, Any], place: str) -> None:
    """Refuse what cannot differ between algorithms."""
    for section, values in overlay.items():
        if section not in _OWN:
            raise FLPError(f"{place}.{section}: cannot differ between algorithms{nearest(section, list(_OWN))}")
        for name in values if isinstance(values, dict) else ():
            if name in _SHARED or (section == "evaluation" and name != "every"):
                raise FLPError(f"{place}.{section}.{name}: cannot differ between algorithms")


def load_params(path: Path | str = "params.yaml", *overlays: Path | str, given: Sequence[str] = ()) -> Params:
    """Read `params.yaml`, overlaid with presets, and those with what is `given` as `KEY=VALUE`.

    Raises:
        FLPError: as `read_yaml`, `read_given` and `parse` do.
    """
    values = read_yaml(path)
    for overlay in overlays:
        values = merge(values, read_yaml(overlay))
    names = [str(p) for p in (path, *overlays)] + (["--config"] if given else [])
    return parse(merge(values, read_given(given)), " + ".join(names))

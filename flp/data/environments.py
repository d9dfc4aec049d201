"""Environments: the interface to all of them (`EnvironmentSpec`), and OGBench's by their datasets' names."""

from __future__ import annotations

import csv
import dataclasses
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flp.arm.ogbench_version import is_known_version
from flp.system.errors import FLPError, nearest
from flp.system.portability import environment_variable

if TYPE_CHECKING:
    import gymnasium

    Environment: TypeAlias = gymnasium.Env[NDArray[Any], NDArray[np.floating[Any]]]

Family = Literal["maze", "soccer", "manipulation", "own"]
SUCCESS_TIMINGS = ("pre", "post")
_NUMPYS_GENERATOR = threading.RLock()  # one for all threads: evaluations and fine-tuning may step side by side


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """A dataset and its environment, described without opening either.

    Attributes:
        dataset: the dataset's name, such as `cube-single-play`.
        family: maze, soccer or manipulation; own for a user's task.
        horizon: steps after which an evaluation episode is cut off.
        num_tasks: the number of tasks, which are numbered from 1.
        observation_dim: length of an observation.
        action_dim: length of an action; every action is in [-1, 1].
    """

    dataset: str
    family: Family
    horizon: int
    num_tasks: int
    observation_dim: int
    action_dim: int

    @property
    def in_plane(self) -> bool:
        """Whether an observation starts with a position in the plane, so that paths can be drawn."""
        return self.family in ("maze", "soccer")

    @property
    def of_ogbench(self) -> bool:
        """Whether it is OGBench's: rewards can be computed from simulator states, and models can be shared."""
        return self.family != "own"

    @property
    def simulated(self) -> bool:
        """Whether there is an environment to act in."""
        return True

    @property
    def has_success(self) -> bool:
        """Whether success is defined."""
        return True

    @property
    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Lower and upper bounds of actions in the environment's own units, each `[action_dim]`."""
        return (-1.0,) * self.action_dim, (1.0,) * self.action_dim

    @property
    def in_units(self) -> bool:
        """Whether the environment's own units are [-1, 1], too."""
        low, high = self.bounds
        return set(low) == {-1.0} and set(high) == {1.0}

    def make(self, task: int | None = None, success_timing: str = "pre", **options: Any) -> Environment:
        """Make the environment; see `make_environment`."""
        raise NotImplementedError

    def unscaled(self, action: NDArray[Any]) -> NDArray[Any]:
        """An action in [-1, 1] in the environment's own units, which are the same for OGBench."""
        return action


@dataclass(frozen=True, kw_only=True)
class OGBenchSpec(EnvironmentSpec):
    """A row of `datasets.csv`.

    Source: OGBench, `ogbench/*/__init__.py` (horizons, tasks), `data_gen_scripts/commands.sh` (sizes, noise). There is
    no humanoidmaze-teleport: OGBench registers the environment but has no data for it. Names omit OGBench's version
    suffix.

    Attributes:
        environment: the dataset's environment, such as `cube-single`.
        dataset_type: how the data were collected: navigate, stitch, explore, play or noisy.
        default_task: OGBench's default task.
        can_generate: whether a scripted controller exists; otherwise data need a trained expert.
        episodes: training episodes in the official file; validation has a tenth of them.
        steps_per_episode: rows per episode; the last has no successor.
        noise: scale of the controller's action noise.
        p_random_action: probability that a step's action is uniformly random.
    """

    environment: str
    dataset_type: str
    default_task: int
    can_generate: bool
    episodes: int
    steps_per_episode: int
    noise: float
    p_random_action: float

    @property
    def has_buttons(self) -> bool:
        """Whether the state includes discrete buttons (`button_states` in the files)."""
        return self.environment.startswith(("scene", "puzzle"))

    def make(self, task: int | None = None, success_timing: str = "pre", **options: Any) -> Environment:
        """Make OGBench's single-task environment with rewards; without a task, the goal-conditioned one."""
        if task is None:
            name = f"{self.environment}-v0"
        else:
            name = f"{self.environment}-singletask-task{task}-v0"
            options["success_timing"] = success_timing
        with simulator_importable():
            import gymnasium
            import ogbench  # noqa: F401  (registers the environments)

            env = gymnasium.make(_fast(gymnasium.spec(name)), disable_env_checker=True, **options)
            _fix_action_space(env.unwrapped)
        _remove_temporary_model(env.unwrapped)
        return env


@cache
def _table() -> dict[str, OGBenchSpec]:
    kinds: dict[object, Any] = {"int": int, "float": float, "bool": lambda text: text == "yes"}
    text = resources.files("flp.data").joinpath("datasets.csv").read_text(encoding="utf-8")
    specs = [
        OGBenchSpec(**{f.name: kinds.get(f.type, str)(row[f.name]) for f in fields(OGBenchSpec)})
        for row in csv.DictReader(text.splitlines())
    ]
    return {spec.dataset: spec for spec in specs}


def known_datasets() -> list[str]:
    """Names of all known OGBench datasets, in OGBench's order."""
    return list(_table())


def with_validation(episodes: int) -> int:
    """Episodes to generate for so many training episodes: a tenth as many, at least one, are added for validation."""
    return episodes + max(1, episodes // 10)


def specification(dataset: str, others: Sequence[str] = ()) -> OGBenchSpec:
    """Look up one of OGBench's datasets by name; `others` are further names to suggest for a misspelt one.

    Raises:
        FLPError: unknown name; the message names the nearest known one.
    """
    try:
        return _table()[dataset]
    except KeyError:
        if dataset.removesuffix("-v0") in _table():
            hint = f"; write '{dataset.removesuffix('-v0')}', without '-v0'"
        else:
            hint = nearest(dataset, [*others, *_table()]) or "; see flp/data/datasets.csv"
        raise FLPError(f"unknown dataset '{dataset}'{hint}") from None


def spec_of(dataset: EnvironmentSpec | str) -> EnvironmentSpec:
    """The spec itself, or that of an OGBench dataset by name (`FLPError` if unknown)."""
    return specification(dataset) if isinstance(dataset, str) else dataset


def make_environment(
    dataset: EnvironmentSpec | str, task: int | None = None, success_timing: str = "pre", **options: Any
) -> Environment:
    """Make the environment of a dataset.

    Args:
        dataset: a spec, or the name of a dataset, such as `cube-single-play`.
        task: 1 to `num_tasks` for OGBench's single-task environment with rewards, or None for the
            goal-conditioned one.
        success_timing: whether reward and success describe the state before an action (`pre`, the default
            of OGBench >= 1.2) or after it (`post`, OGBench 1.1). Without a task the default is OGBench's.
        options: passed to OGBench, such as `mode='data_collection'`.

    Returns:
        A gymnasium environment; observations are float64 `[observation_dim]`, actions `[action_dim]` in
        [-1, 1]. Use `seeded_reset` to start episodes reproducibly.

    Raises:
        FLPError: unknown dataset, task or timing.
    """
    spec = spec_of(dataset)
    if success_timing not in SUCCESS_TIMINGS:
        raise FLPError(f"success_timing '{success_timing}' is unknown; use 'pre' or 'post'")
    if task is not None and not 1 <= task <= spec.num_tasks:
        raise FLPError(f"{spec.dataset} has no task {task}; use 1 to {spec.num_tasks}")
    return spec.make(task, success_timing, **options)


@contextmanager
def simulator_importable() -> Iterator[None]:
    """Let OGBench, dm_control and MuJoCo be imported on any machine, without warnings that nobody can act on.

    MuJoCo and dm_control fail if MUJOCO_GL names a renderer that is not installed. Programs that draw have already
    chosen a renderer and imported MuJoCo (`flp.evaluation.headless`); all others need none.

    Importing `mujoco.viewer` starts GLFW, which warns on machines without a display; OGBench builds its action spaces
    from float64 bounds, which makes gymnasium warn although -1 and 1 are exact in float32.
    """
    with warnings.catch_warnings(), environment_variable("MUJOCO_GL", "disabled"):
        warnings.filterwarnings("ignore", message=r".*(X11|GLFW|DISPLAY|Wayland).*")
        warnings.filterwarnings("ignore", message=r".*Box (low|high)'s precision lowered.*")
        yield


def _fast(spec: Any) -> Any:
    """The same environment; its faster version if it is a robot arm's and OGBench's version is known."""
    module, name = spec.entry_point.split(":")
    if not module.startswith("ogbench.manipspace.") or not is_known_version():
        return spec
    from flp.arm import scenes

    return dataclasses.replace(spec, entry_point=scenes.FAST[name])


def _fix_action_space(env: Any) -> None:
    """Give a manipulation environment one permanent action space.

    OGBench's property creates a new, unseeded space at every access, so that no seed reaches the random actions inside
    its resets. A property cannot be shadowed on an instance, hence the one-off subclass.
    """
    cls = type(env)
    if isinstance(getattr(cls, "action_space", None), property):
        env.__class__ = type(cls.__name__, (cls,), {"action_space": env.action_space})


def _remove_temporary_model(env: Any) -> None:
    """Delete the compiled maze's XML file, which OGBench leaves in the temporary folder."""
    path = Path(getattr(env, "fullpath", ""))
    if path.suffix == ".xml" and path.parent == Path(tempfile.gettempdir()):
        path.unlink(missing_ok=True)


@contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator for the block, in which no other thread is let, then restore its state.

    OGBench's mazes (resets and teleports) and scripted controllers draw from it.
    """
    with _NUMPYS_GENERATOR:
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def seeded_reset(env: Any, seed: int) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Reset an environment so that the seed alone determines the initial state.

    `env.reset(seed=...)` is not enough: OGBench's mazes draw from NumPy's global generator, and every family takes
    random actions from an unseeded action space. Teleport mazes also draw from the global generator in `step`; wrap
    those rollouts in `numpy_seeded`.

    Args:
        env: an environment from `make_environment`, possibly wrapped.
        seed: any non-negative integer.

    Returns:
        `(observation, info)`: float64 `[observation_dim]`, and OGBench's info.
    """
    with numpy_seeded(seed):
        env.unwrapped.action_space.seed(seed % 2**32)
        observation, info = env.reset(seed=seed % 2**32)
    return observation, info

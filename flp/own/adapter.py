"""A user's environment as the pipeline sees it: flat observations, actions in [-1, 1], success in the info."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from flp.data.environments import simulator_importable
from flp.own.success import success_rule
from flp.system.errors import FLPError, one_line

Bounds = tuple[tuple[float, ...], tuple[float, ...]]
_RETURNED = {
    "reset": "(observation, info) and take a seed",
    "step": "(observation, reward, terminated, truncated, info)",
}
_INSTALL = "is its package installed, and does the id name the module that registers it (my_package:MyArm-v0)?"


def open_environment(name: str, kwargs: dict[str, Any]) -> Any:
    """Make an environment as gymnasium does.

    Raises:
        FLPError: it cannot be made, or has no time limit.
    """
    module, colon, id_ = name.rpartition(":")
    if colon and not (module and id_):
        raise FLPError(f"environment {name} is no gymnasium id; write it as my_package:MyArm-v0")
    remedy = "look at its kwargs"
    try:
        with simulator_importable(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if module:
                remedy = f"importing {module} fails"
                import_module(module)
                remedy = "look at its kwargs"
            env = gymnasium.make(name, disable_env_checker=True, **kwargs)
    except (Exception, SystemExit) as error:  # the imported package may raise anything
        remedy = _INSTALL if isinstance(error, (ImportError, gymnasium.error.UnregisteredEnv)) else remedy
        raise FLPError(f"environment {name} cannot be made ({one_line(error)}); {remedy}") from error
    if env.spec is None or env.spec.max_episode_steps is None:
        close(env)
        raise FLPError(f"environment {name} has no time limit; give it one, kwargs: {{max_episode_steps: 1000}}")
    return env


def close(env: Any) -> None:
    """Close an environment that is no longer needed: if it cannot be closed, nothing is lost."""
    with suppress(Exception, SystemExit):
        env.close()


def observation_dim(space: Any, what: str) -> int:
    """The length of an observation, flattened by gymnasium.

    Raises:
        FLPError: it cannot be flattened.
    """
    try:
        (length,) = spaces.utils.flatten_space(space).shape
    except (NotImplementedError, ValueError, TypeError):
        raise FLPError(f"{what}: observations of {space} cannot be flattened into a vector") from None
    return int(length)


def order_of(name: str, kwargs: dict[str, Any], space: Any, source: str) -> Any:
    """The environment's observation space, whose order composite data (of `space`) must follow when flattened.

    An environment's dictionary may order its keys differently from the data, whose keys were sorted on writing. None
    if the data's space is no dictionary or tuple.

    Raises:
        FLPError: the two spaces have different parts.
    """
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        return None
    env = open_environment(name, kwargs)
    close(env)
    if _parts(env.observation_space) != _parts(space):
        raise FLPError(f"{name} has observations {env.observation_space}, {source} has {space}")
    return env.observation_space


def _parts(space: Any) -> Any:
    """What a space consists of, irrespective of the order of its keys."""
    if isinstance(space, spaces.Dict):
        return {key: _parts(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(map(_parts, space.spaces))
    return type(space), space.shape, getattr(space, "n", None)


def is_bounded(space: Any) -> bool:
    """Whether actions have a finite range, or a type without a range."""
    return not isinstance(space, spaces.Box) or bool(np.isfinite([space.low, space.high]).all())


def action_range(space: Any, what: str) -> Bounds:
    """The lower and upper bounds of actions, flattened.

    Raises:
        FLPError: actions are not from a finite box.
    """
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        raise FLPError(
            f"{what}: actions are discrete ({space}); a flow models densities of continuous actions, so that this "
            "needs an environment whose actions are a box"
        )
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise FLPError(f"{what}: actions are {space}, not a box of real numbers")
    low, high = (np.asarray(bound, np.float64).ravel() for bound in (space.low, space.high))
    if not is_bounded(space):
        raise FLPError(f"{what}: actions are {space}, whose range is not finite; wrap it with one that is")
    if not (low < high).all():
        (fixed, *_) = np.flatnonzero(low >= high)
        raise FLPError(
            f"{what}: column {fixed} of the actions has the range {low[fixed]:g} to {high[fixed]:g}: there is nothing "
            "to choose; wrap the environment with one that leaves it out"
        )
    return tuple(low.tolist()), tuple(high.tolist())


class Adapter(gymnasium.Wrapper[Any, Any, Any, Any]):  # type: ignore[misc]
    """The environment of a task.

    Args:
        env: the user's environment, whose spaces have been compared with the data's.
        name: the task's name.
        success: the rule, as `success_rule` reads it.
        unscaled: maps an action in [-1, 1] to the environment's units.
    """

    def __init__(self, env: Any, name: str, success: str, unscaled: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._shape, self._dtype = env.action_space.shape, env.action_space.dtype
        flat = isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 1
        super().__init__(env if flat else gymnasium.wrappers.FlattenObservation(env))
        self.action_space = spaces.Box(-1.0, 1.0, env.action_space.low.ravel().shape, np.float32)
        self._name, self._success, self._unscaled = name, success, unscaled
        self._rule, self._total = success_rule(success), 0.0

    def reset(self, **options: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode.

        Raises:
            FLPError: the environment fails, or its observation is not finite or has another shape than its space.
        """
        self._total = 0.0
        with self._blamed("reset"):
            observation, info = self.env.reset(**options)
            info = dict(info)
        return self._observed(observation), info

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Take an action in [-1, 1].

        Where the episode ends, `info["success"]` is the verdict of the task's rule; before, it is False.

        Raises:
            FLPError: as `reset`; or the reward is not finite in float32; or the rule does not fit the info.
        """
        if np.shape(action) != self.action_space.shape:
            raise FLPError(f"{self._name}: an action has shape {np.shape(action)}, expected {self.action_space.shape}")
        if not np.isfinite(action).all():
            raise FLPError(f"{self._name}: an action holds NaN or infinite values")
        own = self._unscaled(action).reshape(self._shape).astype(self._dtype)
        with self._blamed("step"):
            observation, reward, terminated, truncated, info = self.env.step(own)
            terminated, truncated, info = bool(terminated), bool(truncated), dict(info)
        observation, reward = self._observed(observation), self._rewarded(reward)
        self._total += reward
        info["success"] = self._won(info) if terminated or truncated else False
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the environment, whatever it raises."""
        close(self.env)

    @contextmanager
    def _blamed(self, call: str) -> Iterator[None]:
        """Turn whatever the environment raises, even its exit, into one line."""
        try:
            yield
        except FLPError:
            raise
        except (Exception, SystemExit) as error:
            # As when it is called with a seed that it does not take, or returns less than is expected.
            of_contract = isinstance(error, TypeError) or "unpack" in str(error)
            remedy = f"; {call} must return {_RETURNED[call]}" if of_contract else ""
            raise FLPError(f"{self._name}: its environment's {call} failed ({one_line(error)}){remedy}") from error

    def _observed(self, observation: Any) -> NDArray[Any]:
        array, expected = _numbers(observation), self.observation_space.shape
        if array is None or array.shape != expected:
            found = f"that is a {type(observation).__name__}" if array is None else f"of shape {array.shape}"
            raise FLPError(f"{self._name}: its environment gave an observation {found}, expected numbers of {expected}")
        if not _fits_float32(array):
            raise FLPError(f"{self._name}: its environment gave an observation with NaN or infinite values in float32")
        return array

    def _rewarded(self, reward: Any) -> float:
        array = _numbers(reward)
        if array is None or array.shape or not _fits_float32(array):
            raise FLPError(f"{self._name}: its environment gave the reward {reward!r}, not a finite number of float32")
        return float(array)

    def _won(self, info: dict[str, Any]) -> bool:
        if self._rule is None:
            return False
        try:
            return self._rule(info, self._total)
        except ValueError as error:
            raise FLPError(f"{self._name}: success is '{self._success}', but {error}") from error
        except (LookupError, TypeError) as error:
            has = ", ".join(map(str, info)) or "nothing"
            raise FLPError(
                f"{self._name}: success is '{self._success}', which its info does not contain where the episode ends "
                f"(it has: {has})"
            ) from error


def _numbers(value: Any) -> NDArray[Any] | None:
    """An array of numbers or truth values; None for anything else."""
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        return None
    return array if array.dtype.kind in "biuf" else None


def _fits_float32(array: NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(np.float32)).all())


def compare(env: Any, what: str, length: int, bounds: Bounds) -> None:
    """Compare an environment's spaces with the data's: the length of an observation, and the range of actions.

    Raises:
        FLPError: they differ.
    """
    here = observation_dim(env.observation_space, what)
    if here != length:
        raise FLPError(f"{what} has observations of {here} numbers, the data have {length}")
    low, high = action_range(env.action_space, what)
    if len(low) != len(bounds[0]):
        raise FLPError(f"{what} has actions of {len(low)} numbers, the data have {len(bounds[0])}")
    if not np.allclose([low, high], bounds, rtol=1e-6, atol=1e-9):
        raise FLPError(
            f"{what} has actions from {low} to {high}, the data from {bounds[0]} to {bounds[1]}; if the environment "
            "has changed, make the data again: snakemake --cores all -R download_dataset"
        )

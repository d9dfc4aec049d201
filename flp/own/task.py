"""The spec of a user's task: determined when its data are imported, and stored in the data's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import packages_distributions, version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from flp.data.environments import EnvironmentSpec, Family
from flp.system.errors import FLPError

if TYPE_CHECKING:
    from flp.data.environments import Environment


@dataclass(frozen=True, kw_only=True)
class OwnSpec(EnvironmentSpec):
    """A user's task; it has one task, number 1.

    Attributes:
        environment: gymnasium's id, with the module that registers it if necessary; None without a simulator.
        kwargs: the environment's arguments.
        success: the rule, as `success_rule` reads it.
        low: lower bound of actions in the environment's units, `[action_dim]`; corresponds to -1.
        high: upper bound; corresponds to 1.
    """

    family: Family = "own"
    num_tasks: int = 1
    environment: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    success: str = "none"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether there is an environment to act in."""
        return self.environment is not None

    @property
    def has_success(self) -> bool:
        """Whether there is a rule of success."""
        return self.success != "none"

    @property
    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """`low` and `high`."""
        return self.low, self.high

    def make(self, task: int | None = None, success_timing: str = "pre", **options: Any) -> Environment:
        """Make the environment, wrapped for the pipeline (`flp.own.adapter`); there is only one task."""
        from flp.own.adapter import Adapter, compare, open_environment

        if self.environment is None:
            raise FLPError(f"{self.dataset} has no simulator (its task says environment: null)")
        env = open_environment(self.environment, {**self.kwargs, **options})
        compare(env, f"{self.dataset}: {self.environment}", self.observation_dim, (self.low, self.high))
        return Adapter(env, self.dataset, self.success, self.unscaled)

    @property
    def rounding(self) -> NDArray[np.float64]:
        """float32's rounding error of an action in the environment's units, after scaling to [-1, 1]."""
        low, high = np.array(self.low), np.array(self.high)
        return np.asarray(4 * np.finfo(np.float32).eps * np.maximum(abs(low), abs(high)) / (high - low), np.float64)

    def scaled(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """Scale actions `[n, a]` from the environment's units to [-1, 1]."""
        low, high = np.array(self.low), np.array(self.high)
        return np.asarray(actions if self.in_units else 2 * (actions - low) / (high - low) - 1, np.float64)

    def unscaled(self, action: NDArray[Any]) -> NDArray[np.float64]:
        """Scale an action in [-1, 1] to the environment's units, clipped to their range."""
        low, high = np.array(self.low), np.array(self.high)
        inside = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        return np.asarray(inside if self.in_units else np.clip(low + (inside + 1) / 2 * (high - low), low, high))

    def described(self) -> dict[str, Any]:
        """All fields, for a manifest."""
        return asdict(self)


def package_version(environment: str | None) -> str | None:
    """The version of the package that an id names (`my_package:MyArm-v0`), if it is installed.

    Gymnasium's own environments carry a version in their ids.
    """
    module, _, name = (environment or "").rpartition(":")
    if not module or not name:
        return None
    for package in _distributions().get(module.partition(".")[0], ()):
        return version(package)
    return None


@cache
def _distributions() -> Mapping[str, list[str]]:
    """The installed distributions of every top-level module: reading them takes a second."""
    return packages_distributions()


def spec_from(described: Any, source: str, **changed: Any) -> OwnSpec:
    """The spec that `described` returned, with some fields changed.

    Raises:
        FLPError: `described` is something else.
    """
    names = {f.name for f in fields(OwnSpec)}
    try:
        values = {**described, **changed}
        if unknown := values.keys() - names:
            raise KeyError(*unknown)
        return TypeAdapter(OwnSpec).validate_python(values | {side: tuple(values[side]) for side in ("low", "high")})
    except (KeyError, TypeError, ValidationError) as error:
        raise FLPError(
            f"{source} does not describe a task ({', '.join(sorted(names))}); make the data again"
        ) from error

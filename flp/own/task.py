"""What is known of a user's task: found out when its data are brought in, and kept in the data's manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
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
        environment: gymnasium's id, with the module that registers it if need be; None without a simulator.
        kwargs: what the environment is made with.
        success: the rule, as `success_rule` reads it.
        low: the least action in the environment's own units, `[action_dim]`; -1 stands for it.
        high: the greatest; 1 stands for it.
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
    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What `low` and `high` say."""
        return self.low, self.high

    def make(self, task: int | None = None, success_timing: str = "pre", **options: Any) -> Environment:
        """Make the environment, as the pipeline acts in it (`flp.own.adapter`); the task is its only one."""
        from flp.own.adapter import Adapter, compare, open_environment

        if self.environment is None:
            raise FLPError(f"{self.dataset} has no simulator (its task says environment: null)")
        env = open_environment(self.environment, {**self.kwargs, **options})
        compare(env, f"{self.dataset}: {self.environment}", self.observation_dim, (self.low, self.high))
        return Adapter(env, self.dataset, self.success, self.unscaled)

    @property
    def rounding(self) -> NDArray[np.float64]:
        """What float32 may round an action in the environment's units by, in those of [-1, 1]."""
        low, high = np.array(self.low), np.array(self.high)
        return np.asarray(4 * np.finfo(np.float32).eps * np.maximum(abs(low), abs(high)) / (high - low), np.float64)

    def scaled(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """Actions in the environment's units `[n, a]`, to [-1, 1]."""
        low, high = np.array(self.low), np.array(self.high)
        return np.asarray(actions if self.in_units else 2 * (actions - low) / (high - low) - 1, np.float64)

    def unscaled(self, action: NDArray[Any]) -> NDArray[np.float64]:
        """The reverse, within the range."""
        low, high = np.array(self.low), np.array(self.high)
        inside = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        return np.asarray(inside if self.in_units else np.clip(low + (inside + 1) / 2 * (high - low), low, high))

    def described(self) -> dict[str, Any]:
        """All of it, for a manifest."""
        return asdict(self)


def package_version(environment: str | None) -> str | None:
    """The version of the package that an id names (`my_package:MyArm-v0`), where it is installed and known.

    Gymnasium's own environments have theirs in their ids.
    """
    module, _, name = (environment or "").rpartition(":")
    if not module or not name:
        return None
    for package in packages_distributions().get(module.partition(".")[0], ()):
        return version(package)
    return None


def spec_from(described: Any, source: str, **changed: Any) -> OwnSpec:
    """What `described` gave, some of it changed.

    Raises:
        FLPError: it is something else.
    """
    names = {f.name for f in fields(OwnSpec)}
    try:
        values = {**described, **changed}
        if unknown := values.keys() - names:
            raise KeyError(*unknown)
        return TypeAdapter(OwnSpec).validate_python(values | {side: tuple(values[side]) for side in ("low", "high")})
    except (KeyError, TypeError, ValidationError) as error:
        raise FLPError(f"{source} does not describe a task ({', '.join(sorted(names))}); make the data anew") from error

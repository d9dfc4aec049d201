"""The interface of every algorithm, and what they share.

An agent holds R runs, its parameters stacked `[R, ...]`. Four verbs: `draw` the randomness of some updates,
`update` on a batch (`observations`, `actions`, `next_observations`, `rewards`, `masks`), `act`, and `behave`
(the behaviour policy alone, where there is one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from flp.flow.behavior import Flow
from flp.learner.trainable import Learner
from flp.params.sections import OfflineSettings
from flp.randomness.streams import RunStreams


@dataclass(frozen=True)
class Spec:
    """What an agent is made from."""

    streams: RunStreams
    """Initialisation streams, one per run, on the device the parameters live on."""
    observation_dim: int
    action_dim: int
    offline: OfflineSettings
    """The shared hyperparameters."""
    alpha: Tensor
    """FLP's α per run, `[R]`."""
    candidates: tuple[int, ...]
    """FLP's N per run."""
    flow: Flow | None
    """The frozen behaviour flow, one field per run."""
    growing_discount: Tensor | None = None
    """γ, of no dimension, where it changes while the agent learns."""
    fql_alpha: Tensor | None = None
    """FQL's α per run, `[R]`, in place of its section's one value."""

    @property
    def discount(self) -> Tensor | float:
        """γ of targets."""
        return self.offline.discount if self.growing_discount is None else self.growing_discount


class Agent(Learner):
    """Base of all agents."""

    uses_latents = False
    """Whether `actions` in the batch are latents z = f⁻¹(a)."""
    uses_returns = False
    """Whether the batch has Monte-Carlo `returns` `[R, B]` too; −∞ where an online episode has not ended yet."""
    value_scale: float = 1.0
    """What its critics' values are multiplied by."""
    aggregation: Literal["mean", "min"] = "min"
    """What counts of the values of its critics."""
    restraint: str = ""
    """What keeps its values nearer to the data, such as `raise offline.alpha`; empty where no parameter does."""
    candidates: tuple[int, ...] = ()
    """Among how many draws each run chooses when it acts; empty where there is no choice."""

    @property
    def chooses(self) -> bool:
        """Whether it acts by one of several draws."""
        return bool(self.candidates)

    def act(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """Actions for the environment in [-1, 1] and as they are stored, each `[R, B, a]`."""
        raise NotImplementedError

    def explore(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """Like `act`, while fine-tuning online: for agents that add noise there."""
        return self.act(observations, streams)

    def behave(self, observations: Tensor, streams: RunStreams) -> Tensor | None:
        """Actions of the behaviour policy `[R, B, a]`, or None where the agent has none."""
        return None

    def value(self, observations: Tensor, actions: Tensor) -> Tensor | None:
        """The critic's value of actions for the environment, `[R, B]`, or None where the agent has no critic."""
        return None

    def is_shared(self, name: str) -> bool:
        """Whether an entry of `state_dict` belongs to the shared frozen flow and is not the run's own."""
        return name.startswith("flow.")


def settings_of(spec: Spec, name: str) -> Any:
    """The algorithm's own section, `offline.baselines.{name}`."""
    return getattr(spec.offline.baselines, name)

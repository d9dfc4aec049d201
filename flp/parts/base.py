"""The interface of every algorithm.

An agent holds R runs, its parameters stacked `[R, ...]`. It can `draw` the randomness of several updates, `update` on
a batch (`observations`, `actions`, `next_observations`, `rewards`, `masks`), `act`, `explore` (act while it is
fine-tuned online), `behave` (the behaviour policy alone, if it has one) and give the `value` of actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flp.flow.behavior import Flow
from flp.learner.trainable import Learner
from flp.params.sections import OfflineSettings
from flp.randomness.streams import RunStreams


@dataclass(frozen=True)
class Spec:
    """What an agent is built from."""

    streams: RunStreams
    """Initialisation streams, one per run, on the device of the parameters."""
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
    """γ as a 0-d tensor, if it changes during training."""
    fql_alpha: Tensor | None = None
    """FQL's α per run, `[R]`, instead of its section's single value."""

    @property
    def discount(self) -> Tensor | float:
        """γ of the targets."""
        return self.offline.discount if self.growing_discount is None else self.growing_discount


class Agent(Learner):
    """Base of all agents."""

    uses_latents = False
    """Whether `actions` in the batch are latents z = f⁻¹(a)."""
    uses_returns = False
    """Whether the batch includes Monte-Carlo `returns` `[R, B]`; −∞ while an online episode is under way."""
    uses_next_actions = False
    """Whether the batch includes `next_actions` `[R, B, a]` and `has_next_action` `[R, B]`."""
    value_scale: float = 1.0
    """Factor by which the critics' values are scaled."""
    aggregation: Literal["mean", "min", "lower_bound"] = "min"
    """How the ensemble's values are reduced."""
    restraint: str = ""
    """What keeps its values closer to the data, such as `raise offline.alpha`; empty if no parameter does."""
    candidates: tuple[int, ...] = ()
    """How many draws each run chooses among when it acts; empty if it does not choose."""
    updates: Tensor
    """Updates so far, a 0-d int64 tensor; see `count_updates`."""

    @property
    def chooses(self) -> bool:
        """Whether it acts by one of several draws."""
        return bool(self.candidates)

    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """Actions for the environment in [-1, 1], `[R, B, a]`."""
        raise NotImplementedError

    def explore(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """Actions during online fine-tuning, as executed and as stored in the replay, each `[R, B, a]`."""
        actions = self.act(observations, streams)
        return actions, actions

    def behave(self, observations: Tensor, streams: RunStreams) -> Tensor | None:
        """Actions of the behaviour policy `[R, B, a]`, or None if the agent has none."""
        return None

    def value(self, observations: Tensor, actions: Tensor) -> Tensor | None:
        """The critic's value of actions for the environment, `[R, B]`, or None if the agent has no critic."""
        return None

    def is_shared(self, name: str) -> bool:
        """Whether an entry of `state_dict` belongs to the shared frozen flow rather than to a run."""
        return name.startswith("flow.")

    def count_updates(self, device: torch.device) -> None:
        """Keep `updates` as a buffer on the device, which `update` increments.

        A captured update cannot read a counter on the host.
        """
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=device))

"""A flow that is the policy, and FQL's critic of its own next actions: what FBRAC and FAWAC share."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.nets import aggregate
from flp.learner.trainable import Batch, Logs
from flp.parts.base import Spec
from flp.parts.common import FlowAgent, make_critic, td_loss
from flp.randomness.streams import RunStreams


class FlowPolicy(FlowAgent):
    """R flows of their own with their critics; how Q moves a flow is the algorithm's.

    Args:
        spec: what the agent is made from.
        steps: Euler steps of the flow.
    """

    def __init__(self, spec: Spec, steps: int) -> None:
        super().__init__(spec, "joint", steps)
        o = spec.offline
        self.discount, self.target_rate, self.aggregation = o.discount, o.target_rate, o.aggregation
        self.critic, self.target_critic = make_critic(spec)

    def critic_loss(self, batch: Batch, z: Tensor) -> tuple[Tensor, Logs]:
        """(Q − y)², mean over the ensemble, per run `[R]`; z `[R, B, a]` gives the next actions."""
        return td_loss(self.critic, batch, self.target(batch, z))

    @torch.no_grad()
    def target(self, batch: Batch, z: Tensor) -> Tensor:
        """y = r + γ · mask · Q_φ⁻(s′, f(s′, z)), `[R, B]`."""
        actions = self.behavior.decode(batch["next_observations"], z)
        q = aggregate(self.target_critic(batch["next_observations"], actions), self.aggregation)
        return batch["rewards"] + self.discount * batch["masks"] * q

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_φ(s, a)."""
        return aggregate(self.critic(observations, actions), self.aggregation)

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """Draw z ~ N(0, I) and decode it."""
        actions = self.behavior.decode(observations, streams.normal(observations.shape[1], self.action_dim))
        return actions, actions

"""Implicit flow Q-learning: in-sample values, and the best of N actions of a behaviour flow (FQL, agents/ifql.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.optimizers import Adam, descend
from flp.learner.polyak import polyak_update
from flp.learner.trainable import Batch, Logs
from flp.parts.base import Agent, Spec
from flp.parts.behavior_flow import BehaviorFlow
from flp.parts.in_sample import make_values
from flp.parts.selection import take_best
from flp.randomness.streams import RunStreams


class IFQL(Agent):
    """R behaviour flows from whose draws Q selects."""

    restraint = "lower offline.baselines.ifql.expectile"

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        o, own = spec.offline, spec.offline.baselines.ifql
        self.action_dim, self.target_rate = spec.action_dim, o.target_rate
        self.candidates = (own.candidates,) * len(spec.streams)
        self.behavior = BehaviorFlow(self, spec, own.flow, own.flow_steps)
        self.values = make_values(spec, own.expectile)
        self.optimizers = [Adam([*self.behavior.trained(), *self.values.trained()], o.learning_rate)]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """`x_0` and `t` of flow matching, for an own flow."""
        return self.behavior.draw(streams, updates, batch_size)

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One joint step of V, Q and flow; each loss has a gradient in its own network alone."""
        value_loss, value_logs = self.values.value_loss(batch)
        critic_loss, critic_logs = self.values.critic_loss(batch)
        flow_loss = self.behavior.loss(batch, noise)
        polyak_update(self.values.target_critic, self.values.critic, self.target_rate)
        descend(self.optimizers[0], value_loss + critic_loss + flow_loss)
        return {"flow_loss": flow_loss.detach()} | value_logs | critic_logs

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q_φ(s, a), `[R, B]`."""
        return self.values.q(observations, actions)

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """Decode N draws and take the one with the largest min Q."""
        batch, n = observations.shape[1], self.candidates[0]  # the same for every run
        repeated = observations.repeat_interleave(n, 1)
        actions = self.behavior.decode(repeated, streams.normal(batch, n, self.action_dim).flatten(1, 2))
        return take_best(self.values.q(repeated, actions), actions, n)

"""Implicit flow Q-learning: in-sample values, and the best of N actions of a behaviour flow (FQL, agents/ifql.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.optimizers import Adam, descend
from flp.learner.polyak import polyak_update
from flp.learner.trainable import Batch, Logs
from flp.parts.base import Spec
from flp.parts.common import FlowAgent, InSampleValues
from flp.parts.selection import take_best
from flp.randomness.streams import RunStreams


class IFQL(FlowAgent):
    """R behaviour flows whose draws are ranked by Q."""

    restraint = "lower offline.baselines.ifql.expectile"

    def __init__(self, spec: Spec) -> None:
        o, own = spec.offline, spec.offline.baselines.ifql
        super().__init__(spec, own.flow, own.flow_steps)
        self.candidates = (own.candidates,) * len(spec.streams)
        self.target_rate = o.target_rate
        self.values = InSampleValues(spec, own.expectile)
        self.optimizers = [Adam([*self.behavior_parameters(), *self.values.trained()], o.learning_rate)]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Noise and times of flow matching, for an own flow."""
        return self.draw_behavior(streams, updates, batch_size)

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of V, Q and flow at once; each loss reaches its own network alone."""
        value_loss, value_logs = self.values.value_loss(batch)
        critic_loss, critic_logs = self.values.critic_loss(batch)
        flow_loss = self.behavior_loss(batch, noise)
        polyak_update(self.values.target_critic, self.values.critic, self.target_rate)
        descend(self.optimizers[0], value_loss + critic_loss + flow_loss)
        return {"flow_loss": flow_loss.detach()} | value_logs | critic_logs

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q_φ(s, a)."""
        return self.values.q(observations, actions)

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """Decode N draws and take the one with the largest min Q."""
        batch, n = observations.shape[1], self.candidates[0]  # the same for every run
        repeated = observations.repeat_interleave(n, 1)
        actions = self.behavior.decode(repeated, streams.normal(batch, n, self.action_dim).flatten(1, 2))
        return take_best(self.values.q(repeated, actions), actions, n)

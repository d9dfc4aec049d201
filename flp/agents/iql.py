"""Implicit Q-learning with advantage-weighted regression (FQL, agents/iql.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.optimizers import Adam, descend
from flp.learner.polyak import polyak_update
from flp.learner.trainable import Batch, Logs
from flp.networks.values import aggregate
from flp.parts.base import Agent, Spec
from flp.parts.gaussian import GaussianActor, log_prob
from flp.parts.in_sample import make_values
from flp.randomness.streams import RunStreams


class IQL(Agent):
    """R Gaussian policies π_θ(a | s) = N(μ_θ(s), I) with in-sample values."""

    restraint = "lower offline.baselines.iql.expectile"

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        o, own = spec.offline, spec.offline.baselines.iql
        self.alpha, self.max_weight, self.target_rate = own.alpha, own.max_weight, o.target_rate
        self.actor = GaussianActor(spec.streams, spec.observation_dim, spec.action_dim, o.hidden)
        self.values = make_values(spec, own.expectile)
        self.optimizers = [Adam([*self.actor.parameters(), *self.values.trained()], o.learning_rate)]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Nothing: the losses are deterministic."""
        return {}

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One joint step of V, Q and policy; each loss has a gradient in its own network alone."""
        v, q = self.values.value(batch["observations"]), self.values.critic(batch["observations"], batch["actions"])
        value_loss, value_logs = self.values.value_loss(batch, v)
        critic_loss, critic_logs = self.values.critic_loss(batch, q)
        actor_loss, logs = self.actor_loss(batch, (aggregate(q, "min") - v).detach())
        polyak_update(self.values.target_critic, self.values.critic, self.target_rate)
        descend(self.optimizers[0], value_loss + critic_loss + actor_loss)
        return logs | value_logs | critic_logs

    def actor_loss(self, batch: Batch, advantage: Tensor) -> tuple[Tensor, Logs]:
        """−min(exp(α A(s, a)), 100) log π_θ(a | s) with A(s, a) = min Q(s, a) − V(s) `[R, B]`, per run `[R]`."""
        weight = (self.alpha * advantage).exp().clamp(max=self.max_weight)
        loss = -(weight * log_prob(self.actor(batch["observations"]), batch["actions"])).mean(1)
        return loss, {"actor_loss": loss.detach(), "advantage": advantage.mean(1), "weight": weight.mean(1)}

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q_φ(s, a), `[R, B]`."""
        return self.values.q(observations, actions)

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """μ_θ(s), as at temperature 0, clipped to [-1, 1]."""
        return self.actor(observations).clamp(-1, 1)

    @torch.no_grad()
    def explore(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """A draw of the policy, as at temperature 1, clipped to [-1, 1]."""
        mean = self.actor(observations)
        actions = (mean + streams.normal(*mean.shape[1:])).clamp(-1, 1)
        return actions, actions

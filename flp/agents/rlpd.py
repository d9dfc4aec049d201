"""Reinforcement learning with prior data: a soft actor-critic, half of every batch offline data (FQL, agents/sac.py).

It learns online only. The original (Ball et al., 2023) has ten critics and twenty updates per step; this is what FQL's
authors ran: two critics and their minimum in targets, one update per step, no entropy in the critic's target.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from flp.learner.optimizers import Adam
from flp.learner.trainable import Batch, Logs
from flp.parts.actor_critic import ActorCritic
from flp.parts.base import Spec
from flp.parts.critics import make_critic
from flp.parts.tanh_gaussian import TanhGaussian, squashed
from flp.randomness.streams import RunStreams


class RLPD(ActorCritic):
    """R stochastic policies a = tanh(μ_θ(s) + σ_θ(s) z) with temperatures α."""

    balanced = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        o, own = spec.offline, spec.offline.baselines.rlpd
        self.aggregation = "min"  # whatever offline.aggregation is: the official code's q_agg
        self.target_entropy = own.target_entropy * spec.action_dim
        self.actor = TanhGaussian(spec.streams, spec.observation_dim, spec.action_dim, o.hidden)
        start = torch.full((len(spec.streams),), math.log(own.initial_temperature), device=spec.streams.device)
        self.log_alpha = nn.Parameter(start)
        self.critic, self.target_critic = make_critic(spec)
        self.optimizers = [
            Adam([*self.actor.parameters(), self.log_alpha], o.learning_rate),
            Adam(self.critic.parameters(), o.learning_rate),
        ]

    def actions(self, observations: Tensor, z: Tensor) -> Tensor:
        """tanh(μ_θ(s) + σ_θ(s) z), `[R, B, a]`."""
        mean, log_std = self.actor(observations)
        return squashed(mean, log_std, z)[0]

    def actor_loss(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        """α log π(a | s) − Q(s, a) with constant α, plus α (H − H̄) with constant entropy H, per run `[R]`."""
        observations, alpha = batch["observations"], self.log_alpha.exp()
        mean, log_std = self.actor(observations)
        actions, log_prob = squashed(mean, log_std, noise["z"])
        q = self.critic(observations, actions).mean((1, 2))
        log_prob = log_prob.mean(1)
        entropy = -log_prob.detach()
        loss = alpha.detach() * log_prob - q + alpha * (entropy - self.target_entropy)
        return loss, {"actor_q": q.detach(), "entropy": entropy, "temperature": alpha.detach()}

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """tanh μ_θ(s), without noise."""
        return self.actor(observations)[0].tanh()

    @torch.no_grad()
    def explore(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """A draw of the policy."""
        actions = super().act(observations, streams)
        return actions, actions

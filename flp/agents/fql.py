"""Flow Q-learning: a one-step policy distilled from a behaviour flow while it maximises Q (FQL, agents/fql.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.optimizers import Adam
from flp.learner.trainable import Batch, Logs
from flp.networks.mlp import MLP
from flp.networks.values import magnitude
from flp.parts.actor_critic import ActorCritic
from flp.parts.base import Spec
from flp.parts.behavior_flow import BehaviorFlow
from flp.parts.critics import make_critic
from flp.randomness.streams import RunStreams


class FQL(ActorCritic):
    """R one-step policies μ_θ(s, z), z ~ N(0, I), with their behaviour flows and critics."""

    restraint = "raise offline.baselines.fql.alpha"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        o, own = spec.offline, spec.offline.baselines.fql
        self.alpha = own.alpha if spec.fql_alpha is None else spec.fql_alpha
        self.normalize_q = own.normalize_q
        self.behavior = BehaviorFlow(self, spec, own.flow, own.flow_steps)
        self.actor = MLP(spec.streams, spec.observation_dim + spec.action_dim, o.hidden, spec.action_dim)
        self.critic, self.target_critic = make_critic(spec)
        self.optimizers = [
            Adam([*self.actor.parameters(), *self.behavior.trained()], o.learning_rate),
            Adam(self.critic.parameters(), o.learning_rate),
        ]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """`z` and `next_z` of the policy, and `x_0` and `t` of flow matching, for an own flow."""
        return super().draw(streams, updates, batch_size) | self.behavior.draw(streams, updates, batch_size)

    def policy(self, observations: Tensor, z: Tensor) -> Tensor:
        """μ_θ(s, z), unclipped: `[R, B, a]`."""
        return self.actor(torch.cat([observations, z], -1)).squeeze(1)

    def actions(self, observations: Tensor, z: Tensor) -> Tensor:
        """μ_θ(s, z), clipped to [-1, 1]."""
        return self.policy(observations, z).clamp(-1, 1)

    def actor_loss(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        """Flow matching + α ‖μ_θ(s, z) − f(s, z)‖² − Q(s, μ_θ(s, z)), per run `[R]`."""
        observations, z = batch["observations"], noise["z"]
        flow_loss = self.behavior.loss(batch, noise)
        with torch.no_grad():
            taught = self.behavior.decode(observations, z)
        actions = self.policy(observations, z)
        distillation = (actions - taught).square().mean((1, 2))
        q = self.critic(observations, actions.clamp(-1, 1)).mean(1)
        gain = q.mean(1)
        if self.normalize_q:
            gain = gain / magnitude(q)
        logs = {"flow_loss": flow_loss, "distillation": distillation, "actor_q": q.mean(1)}
        return flow_loss + self.alpha * distillation - gain, {name: value.detach() for name, value in logs.items()}

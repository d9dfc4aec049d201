"""Flow Q-learning: a one-step policy distilled from a behaviour flow while it climbs Q (FQL, agents/fql.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.nets import MLP, aggregate, follow
from flp.learner.optimizers import Adam, descend
from flp.learner.trainable import Batch, Logs
from flp.parts.base import Spec, settings_of
from flp.parts.common import FlowAgent, make_critic, td_loss
from flp.randomness.streams import RunStreams


class FQL(FlowAgent):
    """R one-step policies μ_θ(s, z), z ~ N(0, I), with their behaviour flows and critics."""

    def __init__(self, spec: Spec) -> None:
        o, own = spec.offline, settings_of(spec, "fql")
        super().__init__(spec, own.flow, own.flow_steps)
        self.alpha, self.normalize_q = own.alpha, own.normalize_q
        self.discount, self.target_rate, self.aggregation = o.discount, o.target_rate, o.aggregation
        self.actor = MLP(spec.streams, spec.observation_dim + spec.action_dim, o.hidden, spec.action_dim)
        self.critic, self.target_critic = make_critic(spec)
        self.optimizers = [
            Adam([*self.actor.parameters(), *self.behavior_parameters()], o.learning_rate),
            Adam(self.critic.parameters(), o.learning_rate),
        ]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Latents of the actor and of the next actions; noise and times of flow matching, for an own flow."""
        z = streams.normal(updates, batch_size, 2, self.action_dim).transpose(0, 1)
        return {"z": z[..., 0, :], "next_z": z[..., 1, :]} | self.draw_behavior(streams, updates, batch_size)

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of all networks, every loss from the parameters before it."""
        actor_loss, logs = self.actor_loss(batch, noise)
        critic_loss, critic_logs = self.critic_loss(batch, noise["next_z"])
        follow(self.target_critic, self.critic, self.target_rate)
        descend(self.optimizers[0], actor_loss)
        descend(self.optimizers[1], critic_loss)
        return logs | critic_logs

    def policy(self, observations: Tensor, z: Tensor) -> Tensor:
        """μ_θ(s, z), unclipped: `[R, B, a]`."""
        actions: Tensor = self.actor(torch.cat([observations, z], -1)).squeeze(1)
        return actions

    def actor_loss(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        """Flow matching + α ‖μ_θ(s, z) − f(s, z)‖² − Q(s, μ_θ(s, z)), per run `[R]`."""
        observations, z = batch["observations"], noise["z"]
        flow_loss = self.behavior_loss(batch, noise)
        with torch.no_grad():
            taught = self.behavior.decode(observations, z)
        actions = self.policy(observations, z)
        distillation = (actions - taught).square().mean((1, 2))
        q = self.critic(observations, actions.clamp(-1, 1)).mean(1)
        gain = q.mean(1)
        if self.normalize_q:
            gain = gain / q.detach().abs().mean(1)
        logs = {"flow_loss": flow_loss, "distillation": distillation, "actor_q": q.mean(1)}
        return flow_loss + self.alpha * distillation - gain, {name: value.detach() for name, value in logs.items()}

    def critic_loss(self, batch: Batch, z: Tensor) -> tuple[Tensor, Logs]:
        """(Q − y)², mean over the ensemble, per run `[R]`; z `[R, B, a]` gives the next actions."""
        return td_loss(self.critic, batch, self.target(batch, z))

    @torch.no_grad()
    def target(self, batch: Batch, z: Tensor) -> Tensor:
        """y = r + γ · mask · Q_φ⁻(s′, μ_θ(s′, z)), `[R, B]`."""
        actions = self.policy(batch["next_observations"], z).clamp(-1, 1)
        q = aggregate(self.target_critic(batch["next_observations"], actions), self.aggregation)
        return batch["rewards"] + self.discount * batch["masks"] * q

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_φ(s, a)."""
        return aggregate(self.critic(observations, actions), self.aggregation)

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """Draw z ~ N(0, I) and map it in one step."""
        actions = self.policy(observations, streams.normal(observations.shape[1], self.action_dim)).clamp(-1, 1)
        return actions, actions

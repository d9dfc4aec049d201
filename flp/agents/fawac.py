"""Flow advantage-weighted actor-critic: flow matching weighted by exponentiated advantages (FQL's paper, Eq. 10)."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.optimizers import Adam, descend
from flp.learner.polyak import polyak_update
from flp.learner.trainable import Batch, Logs
from flp.networks.values import Value
from flp.parts.actor_critic import ActorCritic
from flp.parts.base import Spec
from flp.parts.behavior_flow import BehaviorFlow
from flp.parts.critics import make_critic, td_loss
from flp.randomness.streams import RunStreams


class FAWAC(ActorCritic):
    """R flow policies f(s, z) that imitate actions in proportion to their exponentiated advantages."""

    restraint = "lower offline.baselines.fawac.alpha"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        o, own = spec.offline, spec.offline.baselines.fawac
        self.alpha, self.max_weight = own.alpha, own.max_weight
        self.behavior = BehaviorFlow(self, spec, "joint", own.flow_steps)
        self.critic, self.target_critic = make_critic(spec)
        self.baseline = Value(spec.streams, spec.observation_dim, o.hidden, layer_norm=o.critic_layer_norm)
        trained = [*self.behavior.trained(), *self.baseline.parameters(), *self.critic.parameters()]
        self.optimizers = [Adam(trained, o.learning_rate)]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """`next_z` ~ N(0, I) `[updates, R, B, a]` of the next actions, and `x_0` and `t` of flow matching."""
        next_z = streams.normal(updates, batch_size, self.action_dim).transpose(0, 1)
        return {"next_z": next_z} | self.behavior.draw(streams, updates, batch_size)

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One joint step of flow, V and Q; each loss has a gradient in its own network alone."""
        v, q = self.baseline(batch["observations"]), self.critic(batch["observations"], batch["actions"])
        flow_loss, logs = self.flow_loss(batch, noise, (q.mean(1) - v).detach())
        value_loss, value_logs = self.value_loss(batch, v)
        critic_loss, critic_logs = td_loss(self.critic, batch, self.target(batch, noise["next_z"]), q)
        polyak_update(self.target_critic, self.critic, self.target_rate)
        descend(self.optimizers[0], flow_loss + value_loss + critic_loss)
        return logs | value_logs | critic_logs

    def actions(self, observations: Tensor, z: Tensor) -> Tensor:
        """f(s, z), clipped to [-1, 1]."""
        return self.behavior.decode(observations, z)

    def flow_loss(self, batch: Batch, noise: dict[str, Tensor], advantage: Tensor) -> tuple[Tensor, Logs]:
        """min(exp(α A), 100) ‖v(s, x_t, t) − (a − x_0)‖², mean over dimensions and batch, per run `[R]`.

        A(s, a) = Q(s, a) − V(s) `[R, B]`, with the ensemble's mean, however targets aggregate it.
        """
        observations, actions, x_0, t = batch["observations"], batch["actions"], noise["x_0"], noise["t"]
        weight = (self.alpha * advantage).exp().clamp(max=self.max_weight)
        velocity = self.behavior.flow.field(observations, torch.lerp(x_0, actions, t), t)
        loss = (weight * (velocity - (actions - x_0)).square().mean(-1)).mean(1)
        return loss, {"flow_loss": loss.detach(), "advantage": advantage.mean(1), "weight": weight.mean(1)}

    def value_loss(self, batch: Batch, v: Tensor) -> tuple[Tensor, Logs]:
        """(V(s) − Q_φ⁻(s, a))² at dataset actions with V(s) `[R, B]`, mean over the ensemble, per run `[R]`.

        FQL's paper does not say how V is learnt (open); this is how its second author's later code does it.
        """
        with torch.no_grad():
            q = self.target_critic(batch["observations"], batch["actions"])
        loss = (v.unsqueeze(1) - q).square().mean((1, 2))
        return loss, {"value_loss": loss.detach(), "v": v.detach().mean(1)}

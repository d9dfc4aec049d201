"""Flow behaviour-regularised actor-critic: Q's gradient passes through every step of the flow (FQL's paper, Eq. 6)."""

from __future__ import annotations

from torch import Tensor

from flp.learner.nets import follow
from flp.learner.optimizers import Adam, descend
from flp.learner.trainable import Batch, Logs
from flp.parts.base import Spec, settings_of
from flp.parts.flow_policy import FlowPolicy
from flp.randomness.streams import RunStreams


class FBRAC(FlowPolicy):
    """R flow policies that climb Q by backpropagation through time."""

    def __init__(self, spec: Spec) -> None:
        o, own = spec.offline, settings_of(spec, "fbrac")
        super().__init__(spec, own.flow_steps)
        self.alpha = own.alpha
        self.optimizers = [
            Adam(self.behavior_parameters(), o.learning_rate),
            Adam(self.critic.parameters(), o.learning_rate),
        ]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Latents of the policy's actions and of the next ones; noise and times of flow matching."""
        z = streams.normal(updates, batch_size, 2, self.action_dim).transpose(0, 1)
        return {"z": z[..., 0, :], "next_z": z[..., 1, :]} | self.draw_behavior(streams, updates, batch_size)

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of both networks, either loss from the parameters before it."""
        actor_loss, logs = self.actor_loss(batch, noise)
        critic_loss, critic_logs = self.critic_loss(batch, noise["next_z"])
        follow(self.target_critic, self.critic, self.target_rate)
        descend(self.optimizers[0], actor_loss)
        descend(self.optimizers[1], critic_loss)
        return logs | critic_logs

    def actor_loss(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        """α · flow matching − Q(s, f(s, z)), per run `[R]`; the clip at the flow's end stops what pulls beyond it."""
        flow_loss = self.behavior_loss(batch, noise)
        actions = self.behavior.decode(batch["observations"], noise["z"])
        q = self.critic(batch["observations"], actions).mean((1, 2))
        return self.alpha * flow_loss - q, {"flow_loss": flow_loss.detach(), "actor_q": q.detach()}

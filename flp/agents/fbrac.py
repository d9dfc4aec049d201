"""Flow behaviour-regularised actor-critic: Q's gradient passes through every step of the flow (FQL's paper, Eq. 6)."""

from __future__ import annotations

from torch import Tensor

from flp.learner.optimizers import Adam
from flp.learner.trainable import Batch, Logs
from flp.parts.actor_critic import ActorCritic
from flp.parts.base import Spec
from flp.parts.common import FlowAgent
from flp.randomness.streams import RunStreams


class FBRAC(FlowAgent, ActorCritic):
    """R flow policies that climb Q by backpropagation through time."""

    restraint = "raise offline.baselines.fbrac.alpha"

    def __init__(self, spec: Spec) -> None:
        o, own = spec.offline, spec.offline.baselines.fbrac
        super().__init__(spec, "joint", own.flow_steps)
        self.build_critic(spec)
        self.alpha = own.alpha
        self.optimizers = [
            Adam(self.behavior_parameters(), o.learning_rate),
            Adam(self.critic.parameters(), o.learning_rate),
        ]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Noise of the policy's actions and of the next ones; noise and times of flow matching."""
        return super().draw(streams, updates, batch_size) | self.draw_behavior(streams, updates, batch_size)

    def actions(self, observations: Tensor, z: Tensor) -> Tensor:
        """f(s, z)."""
        return self.behavior.decode(observations, z)

    def actor_loss(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        """α · flow matching − Q(s, f(s, z)), per run `[R]`; the clip at the flow's end stops what pulls beyond it."""
        flow_loss = self.behavior_loss(batch, noise)
        actions = self.actions(batch["observations"], noise["z"])
        q = self.critic(batch["observations"], actions).mean((1, 2))
        return self.alpha * flow_loss - q, {"flow_loss": flow_loss.detach(), "actor_q": q.detach()}

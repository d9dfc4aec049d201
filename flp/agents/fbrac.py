"""Flow behaviour-regularised actor-critic: Q's gradient passes through every step of the flow (FQL's paper, Eq. 6)."""

from __future__ import annotations

from torch import Tensor

from flp.learner.optimizers import Adam
from flp.learner.trainable import Batch, Logs
from flp.parts.actor_critic import ActorCritic
from flp.parts.base import Spec
from flp.parts.behavior_flow import BehaviorFlow
from flp.parts.critics import make_critic
from flp.randomness.streams import RunStreams


class FBRAC(ActorCritic):
    """R flow policies f(s, z) that maximise Q by backpropagation through time."""

    restraint = "raise offline.baselines.fbrac.alpha"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        o, own = spec.offline, spec.offline.baselines.fbrac
        self.alpha = own.alpha
        self.behavior = BehaviorFlow(self, spec, "joint", own.flow_steps)
        self.critic, self.target_critic = make_critic(spec)
        self.optimizers = [
            Adam(self.behavior.trained(), o.learning_rate),
            Adam(self.critic.parameters(), o.learning_rate),
        ]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """`z` and `next_z` of the policy, and `x_0` and `t` of flow matching."""
        return super().draw(streams, updates, batch_size) | self.behavior.draw(streams, updates, batch_size)

    def actions(self, observations: Tensor, z: Tensor) -> Tensor:
        """f(s, z), clipped to [-1, 1]."""
        return self.behavior.decode(observations, z)

    def actor_loss(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        """α · flow matching − Q(s, f(s, z)), per run `[R]`; Q's gradient is zero where f(s, z) is clipped."""
        flow_loss = self.behavior.loss(batch, noise)
        actions = self.actions(batch["observations"], noise["z"])
        q = self.critic(batch["observations"], actions).mean((1, 2))
        return self.alpha * flow_loss - q, {"flow_loss": flow_loss.detach(), "actor_q": q.detach()}

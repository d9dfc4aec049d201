"""A policy that maps noise to actions, with a critic of its own next actions: the base of FQL, FBRAC, FAWAC and RLPD.

As in FQL's official code (agents/fql.py), every loss is computed from the parameters before the update, and the target
critic moves before the critic does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.optimizers import descend
from flp.learner.polyak import polyak_update
from flp.learner.trainable import Batch, Logs
from flp.networks.values import Critic, aggregate
from flp.parts.base import Agent, Spec
from flp.parts.critics import td_loss
from flp.randomness.streams import RunStreams


class ActorCritic(Agent):
    """Base of agents whose critic bootstraps from `actions`; how Q trains the policy is up to the algorithm.

    A subclass builds `critic` and `target_critic`; its first optimizer is the actor's, its second the critic's.
    """

    critic: Critic
    target_critic: Critic

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        o = spec.offline
        self.action_dim = spec.action_dim
        self.discount, self.target_rate, self.aggregation = spec.discount, o.target_rate, o.aggregation

    def actions(self, observations: Tensor, z: Tensor) -> Tensor:
        """The policy's actions `[R, B, a]` in [-1, 1] from noise z ~ N(0, I) of that shape."""
        raise NotImplementedError

    def actor_loss(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        """The actor's loss per run `[R]`."""
        raise NotImplementedError

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """N(0, I) of the policy's actions, `z`, and of the next ones, `next_z`, each `[updates, R, B, a]`."""
        z = streams.normal(updates, batch_size, 2, self.action_dim).transpose(0, 1)
        return {"z": z[..., 0, :], "next_z": z[..., 1, :]}

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of actor and critic."""
        actor_loss, logs = self.actor_loss(batch, noise)
        critic_loss, critic_logs = self.critic_loss(batch, noise["next_z"])
        polyak_update(self.target_critic, self.critic, self.target_rate)
        descend(self.optimizers[0], actor_loss)
        descend(self.optimizers[1], critic_loss)
        return logs | critic_logs

    def critic_loss(self, batch: Batch, z: Tensor) -> tuple[Tensor, Logs]:
        """(Q(s, a) − y)², mean over the ensemble, per run `[R]`; noise z `[R, B, a]` of the next actions."""
        return td_loss(self.critic, batch, self.target(batch, z))

    @torch.no_grad()
    def target(self, batch: Batch, z: Tensor) -> Tensor:
        """y = r + γ · mask · Q_φ⁻(s′, a′), `[R, B]`, with the policy's action a′ of noise z."""
        next_observations = batch["next_observations"]
        q = aggregate(self.target_critic(next_observations, self.actions(next_observations, z)), self.aggregation)
        return batch["rewards"] + self.discount * batch["masks"] * q

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_φ(s, a), `[R, B]`."""
        return aggregate(self.critic(observations, actions), self.aggregation)

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """The policy's action of z ~ N(0, I)."""
        return self.actions(observations, streams.normal(observations.shape[1], self.action_dim))

"""Consistency-AC: a two-step consistency policy, cloned while it maximises Q (CAC, agents/ql_consistency.py).

Networks are updated one after the other, each with the new parameters of those before it. Settings are FQL's authors':
the official ones of D4RL's antmaze, without normalised targets.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from flp.learner.optimizers import Adam, descend
from flp.learner.polyak import polyak_update
from flp.learner.trainable import Batch, Logs
from flp.networks.mish import MishCritic
from flp.networks.values import aggregate, magnitude
from flp.parts.base import Agent, Spec
from flp.parts.consistency import Consistency, discretization_steps
from flp.parts.critics import critic_logs
from flp.parts.selection import best_of_n, q_values
from flp.randomness.streams import RunStreams


class CAC(Agent):
    """R consistency policies with critics; a policy's moving average teaches it and acts in targets."""

    restraint = "lower offline.baselines.cac.eta"

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        o, own = spec.offline, spec.offline.baselines.cac
        self.own, self.discount, self.target_rate = own, spec.discount, o.target_rate
        self.action_dim, self.candidates = spec.action_dim, (own.candidates,) * len(spec.streams)
        sizes = spec.observation_dim, spec.action_dim, own.hidden or o.hidden
        self.actor = Consistency(spec.streams, *sizes)
        self.average = deepcopy(self.actor).requires_grad_(False)
        self.critic = MishCritic(spec.streams, *sizes, members=o.critics)
        self.target_critic = deepcopy(self.critic).requires_grad_(False)
        self.count_updates(spec.streams.device)
        self.optimizers = [
            Adam(network.parameters(), o.learning_rate, clip_norm=own.clip_norm, runs=len(spec.streams))
            for network in (self.actor, self.critic)
        ]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Randomness of policy, targets and consistency.

        Returns:
            N(0, I) of the policy's actions, `policy` `[updates, R, B, 2, a]`, and of n next ones, `next`
            `[updates, R, B, n, 2, a]`; `z` ~ N(0, I) `[updates, R, B, a]` and `u` ~ U[0, 1) `[updates, R, B, 1]` of the
            consistency loss; `coin` ~ U[0, 1) `[updates, R, B, 1]`, whose first entry picks a critic.
        """
        drawn = {
            "policy": streams.normal(updates, batch_size, 2, self.action_dim),
            "next": streams.normal(updates, batch_size, self.own.max_backup, 2, self.action_dim),
            "z": streams.normal(updates, batch_size, self.action_dim),
            "u": streams.uniform(updates, batch_size, 1),
            "coin": streams.uniform(updates, batch_size, 1),
        }
        return {name: value.transpose(0, 1) for name, value in drawn.items()}

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of Q, of the policy with the new Q, and of the moving averages."""
        critic_loss, logs = self.critic_loss(batch, noise["next"])
        descend(self.optimizers[1], critic_loss)
        actor_loss, actor_logs = self.actor_loss(batch, noise)
        descend(self.optimizers[0], actor_loss)
        moves = (self.updates % self.own.ema_every == 0) & (self.updates >= self.own.ema_start)
        polyak_update(self.average, self.actor, self.own.ema_rate * moves.to(actor_loss.dtype))
        polyak_update(self.target_critic, self.critic, self.target_rate)
        self.updates += 1
        return logs | actor_logs

    def actor_loss(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        """Consistency − η · mean Q_i(s, a) / mean |Q_j(s, a)| with a random i ≠ j, per run `[R]`."""
        steps = discretization_steps(self.updates, self.own.restart)
        consistency_loss = self.actor.loss(batch, self.average, noise["z"], noise["u"], steps)
        actions = self.actor.sample(batch["observations"], noise["policy"])
        q = self.critic(batch["observations"], actions)
        gains = q.mean(2) / magnitude(q).roll(-1, 1)
        chosen = (noise["coin"][:, 0] * q.shape[1]).floor() == torch.arange(q.shape[1], device=q.device)
        logs = {"consistency_loss": consistency_loss.detach(), "actor_q": q.detach().mean((1, 2))}
        return consistency_loss - self.own.eta * (chosen * gains).sum(1), logs

    def critic_loss(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Logs]:
        """(Q(s, a) − y)², summed over the ensemble, per run `[R]`; noise `[R, B, n, 2, a]` of the next actions."""
        y = self.target(batch, noise)
        q = self.critic(batch["observations"], batch["actions"])
        loss = (q - y.unsqueeze(1)).square().sum(1).mean(1)
        return loss, critic_logs(loss, q)

    @torch.no_grad()
    def target(self, batch: Batch, noise: Tensor) -> Tensor:
        """y = r + γ · mask · min_i max_n Q_i⁻(s′, a′_n), `[R, B]`."""
        _, q = self.sample(self.average, batch["next_observations"], noise)
        y = batch["rewards"] + self.discount * batch["masks"] * q.amax(-1).amin(1)
        return y / (y.std(1, keepdim=True) + 1e-6) if self.own.normalize_target else y

    def sample(self, policy: Consistency, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A policy's actions of noise `[R, B, n, 2, a]`, `[R, B, n, a]`, and each Q_φ⁻ of them, `[R, E, B, n]`."""
        n = noise.shape[2]
        actions = policy.sample(observations.repeat_interleave(n, 1), noise.flatten(1, 2))
        actions = actions.view(len(noise), -1, n, self.action_dim)
        return actions, q_values(self.target_critic, observations, actions)

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q_φ⁻(s, a), `[R, B]`."""
        return aggregate(self.target_critic(observations, actions), "min")

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """Draw n actions and take one with probability softmax(min Q_φ⁻), by the Gumbel-max trick."""
        batch, n = observations.shape[1], self.candidates[0]  # the same for every run
        actions, q = self.sample(self.actor, observations, streams.normal(batch, n, 2, self.action_dim))
        gumbel = -torch.log(-torch.log(streams.uniform(batch, n)))
        return best_of_n(aggregate(q, "min") + gumbel, actions)

"""Calibrated Q-learning: the policy's values are pushed down, but not below the data's returns (Cal-QL, JaxCQL).

Every loss is computed from the parameters before the update; the target critic moves after the critic does.
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from flp.learner.optimizers import Adam, descend
from flp.learner.polyak import polyak_update
from flp.learner.trainable import Batch, Logs
from flp.networks.relu import OrthogonalCritic
from flp.networks.values import aggregate
from flp.parts.base import Agent, Spec
from flp.parts.critics import critic_logs
from flp.parts.selection import q_values
from flp.parts.tanh_gaussian import ScaledTanhGaussian, squashed
from flp.randomness.streams import RunStreams

_MAX_FACTOR = 1e6  # of the learnt factor α′


class ConservativeWeight(nn.Module):
    """w · penalty; with a gap, α′ w (penalty − gap), where α′ rises while the penalty exceeds the gap (CQL).

    Args:
        streams: the runs' random streams.
        weight: w.
        gap: the penalty that is aimed at; None for a constant factor of 1.
    """

    def __init__(self, streams: RunStreams, weight: float, gap: float | None) -> None:
        super().__init__()
        self.weight, self.gap = weight, gap
        if gap is not None:
            self.log_factor = nn.Parameter(torch.ones(len(streams), device=streams.device))

    def forward(self, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """From the penalty `[R, E]` the critics' part of the loss, summed over E, and the factor's loss, each `[R]`."""
        if self.gap is None:
            return self.weight * penalty.sum(1), torch.zeros_like(penalty[:, 0])
        excess = self.weight * (penalty - self.gap)
        factor = self.log_factor.exp().clamp(max=_MAX_FACTOR).unsqueeze(1)
        return (factor.detach() * excess).sum(1), -(factor * excess.detach()).mean(1)


class CalQL(Agent):
    """R soft actor-critics that take their ensembles' minimum; critics learn rewards times `reward_scale`."""

    uses_returns = True
    restraint = "raise offline.baselines.calql.weight"
    balanced = True

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        o, own = spec.offline, spec.offline.baselines.calql
        self.action_dim, self.discount, self.target_rate = spec.action_dim, spec.discount, o.target_rate
        self.value_scale, self.draws = own.reward_scale, own.draws
        sizes = spec.observation_dim, spec.action_dim, o.hidden
        self.policy = ScaledTanhGaussian(spec.streams, *sizes)
        self.critic = OrthogonalCritic(spec.streams, *sizes, members=o.critics)
        self.target_critic = deepcopy(self.critic).requires_grad_(False)
        self.pressure = ConservativeWeight(spec.streams, own.weight, own.lagrange_gap)  # its name is in saved policies
        self.log_alpha = nn.Parameter(torch.zeros(len(spec.streams), device=spec.streams.device))
        self.optimizers = [
            Adam([*self.policy.parameters(), self.log_alpha], own.policy_learning_rate),
            Adam([*self.critic.parameters(), *self.pressure.parameters()], o.learning_rate),
        ]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Randomness of the actions that the losses evaluate.

        Returns:
            `random` ~ U[0, 1), and N(0, I) of the policy's actions at s, `now`, at s′, `next`, and in targets,
            `target`, each `[updates, R, B, n, a]`; N(0, I) of the actor's own action, `policy` `[updates, R, B, 1, a]`.
        """
        several = updates, batch_size, self.draws, self.action_dim
        drawn = {"random": streams.uniform(*several)}
        drawn |= {name: streams.normal(*several) for name in ("now", "next", "target")}
        drawn["policy"] = streams.normal(updates, batch_size, 1, self.action_dim)
        return {name: value.transpose(0, 1) for name, value in drawn.items()}

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of policy, temperature and critic."""
        actor_loss, logs = self.actor_loss(batch, noise["policy"])
        critic_loss, critic_logs = self.critic_loss(batch, noise)
        descend(self.optimizers[0], actor_loss)
        descend(self.optimizers[1], critic_loss)
        polyak_update(self.target_critic, self.critic, self.target_rate)
        return logs | critic_logs

    def actor_loss(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Logs]:
        """α log π − min Q(s, a), and −log α · (log π + H̄) with H̄ = −|A|, per run `[R]`."""
        actions, log_prob = self.sample(batch["observations"], noise)
        q = aggregate(q_values(self.critic, batch["observations"], actions), "min")
        alpha = self.log_alpha.exp().detach()
        loss = alpha * log_prob.mean((1, 2)) - q.mean((1, 2))
        temperature_loss = -self.log_alpha * (log_prob.detach().mean((1, 2)) - self.action_dim)
        logs = {"actor_loss": loss, "actor_q": q.mean((1, 2)) / self.value_scale, "entropy": -log_prob.mean((1, 2))}
        return loss + temperature_loss, {name: value.detach() for name, value in logs.items()} | {"temperature": alpha}

    def critic_loss(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        """(Q(s, a) − y)² + w · penalty, summed over the ensemble, and the loss of α′, per run `[R]`."""
        q, penalty, calibrated = self.penalty(batch, noise)
        error = (q - self.target(batch, noise["target"]).unsqueeze(1)).square().mean(2).sum(1)
        weighted, factor_loss = self.pressure(penalty)
        logs = critic_logs(error + weighted, q / self.value_scale)
        logs |= {"penalty": penalty.detach().mean(1), "calibrated": calibrated}
        return error + weighted + factor_loss, logs

    def penalty(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """log Σ exp(Q(s, ·) − log density) − Q(s, a), over uniform actions and the policy's at s and s′.

        Returns:
            Q(s, a) `[R, E, B]`, the penalty `[R, E]`, and the share of the policy's values that were below the return
            and replaced by it, `[R]`.
        """
        n, observations = self.draws, batch["observations"]
        with torch.no_grad():
            at_next, next_log_prob = self.sample(batch["next_observations"], noise["next"])
            at_now, now_log_prob = self.sample(observations, noise["now"])
        actions = torch.cat([2 * noise["random"] - 1, at_next, at_now, batch["actions"].unsqueeze(2)], 2)
        q_random, q_policy, q = torch.split(q_values(self.critic, observations, actions), [n, 2 * n, 1], -1)
        returns = (self.value_scale * batch["returns"])[:, None, :, None]
        calibrated = (q_policy < returns).float().mean((1, 2, 3))
        q_policy = torch.maximum(q_policy, returns) - torch.cat([next_log_prob, now_log_prob], -1).unsqueeze(1)
        q_random = q_random + self.action_dim * math.log(2)  # a density of ½ per dimension
        q = q.squeeze(-1)
        return q, (torch.cat([q_random, q_policy], -1).logsumexp(-1) - q).mean(2), calibrated

    @torch.no_grad()
    def target(self, batch: Batch, noise: Tensor) -> Tensor:
        """y = r + γ · mask · max_n min Q_φ⁻(s′, a′_n), without entropy, `[R, B]`; noise is `[R, B, n, a]`."""
        actions, _ = self.sample(batch["next_observations"], noise)
        q = aggregate(q_values(self.target_critic, batch["next_observations"], actions), "min").amax(-1)
        return self.value_scale * batch["rewards"] + self.discount * batch["masks"] * q

    def sample(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's actions of noise `[R, B, n, a]`, and their log densities `[R, B, n]`."""
        mean, log_std = self.policy(observations)
        return squashed(mean.unsqueeze(2), log_std.unsqueeze(2), noise)

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q_φ(s, a) of unscaled rewards, `[R, B]`."""
        return aggregate(self.critic(observations, actions), "min") / self.value_scale

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """tanh μ_θ(s), without noise."""
        return self.policy(observations)[0].tanh()

    @torch.no_grad()
    def explore(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """A draw of the policy."""
        actions, _ = self.sample(observations, streams.normal(observations.shape[1], 1, self.action_dim))
        actions = actions.squeeze(2)
        return actions, actions

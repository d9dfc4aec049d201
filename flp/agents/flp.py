"""Flow Latent Policy: Algorithm 1 of the paper.

The flow is frozen and maps latents to actions; policy and critic are functions of its latents. No gradient passes
through the flow, and training does not even evaluate it: the dataset's actions were inverted once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flp.learner.optimizers import Adam, descend
from flp.learner.polyak import polyak_update
from flp.learner.trainable import Batch, Logs
from flp.networks.values import Critic, aggregate
from flp.parts.base import Agent, Spec
from flp.parts.critics import make_critic, td_loss
from flp.parts.gaussian import LatentPolicy, kl_to_prior, sample
from flp.parts.selection import best_of_n, log_weights, q_values, resample, weighted_mean
from flp.randomness.streams import RunStreams


class Proposed(NamedTuple):
    """Candidate latents `[R, B, N, d]`, their values, and their log weights under π*, each `[R, B, N]`."""

    candidates: Tensor
    values: Tensor
    log_weights: Tensor


class FLP(Agent):
    """R latent policies π_θ(z | s) with their latent critics Q_φ(s, z)."""

    uses_latents = True

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        if spec.flow is None:
            raise ValueError("FLP needs the pretrained flow")
        o = spec.offline
        self.discount, self.target_rate, self.aggregation = spec.discount, o.target_rate, o.aggregation
        self.resamples, self.temperature, self.acting_noise = o.selection == "resample", o.temperature, o.acting_noise
        self.candidates = spec.candidates
        self.target_candidates = tuple(o.target_candidates or n for n in spec.candidates)
        self.surplus = _surplus(self.candidates, spec.alpha.device)
        self.target_surplus = _surplus(self.target_candidates, spec.alpha.device)
        self.policy = LatentPolicy(
            spec.streams, spec.observation_dim, spec.action_dim, o.hidden, (o.log_std_min, o.log_std_max)
        )
        self.critic, self.target_critic = make_critic(spec)
        self.flow = spec.flow.freeze()
        self.optimizers = [
            Adam(self.policy.parameters(), o.learning_rate),
            Adam(self.critic.parameters(), o.learning_rate),
        ]
        self.alpha, self.kl_budget = spec.alpha, o.kl_budget
        self.restraint = "raise offline.alpha"
        if self.kl_budget is not None:
            self.restraint = "lower offline.kl_budget"
            self.log_alpha = nn.Parameter(spec.alpha.log())
            self.optimizers.append(Adam([self.log_alpha], o.learning_rate))

    @property
    def chooses(self) -> bool:
        """Whether it acts by one of N draws rather than by its mean."""
        return self.acting_noise > 0

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """N(0, I) of z, `policy` `[updates, R, B, d]`, and of the next `candidates` `[updates, R, B, N, d]`."""
        d = self.flow.field.action_dim
        noise = streams.normals([n + 1 for n in self.target_candidates], updates, batch_size, d).transpose(0, 1)
        return {"policy": noise[..., 0, :], "candidates": noise[..., 1:, :]}

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """Lines 6 to 12 of Algorithm 1."""
        actor_loss, logs = self.actor_loss(batch, noise["policy"])
        descend(self.optimizers[0], actor_loss)
        if self.kl_budget is not None:
            descend(self.optimizers[2], self.log_alpha * (self.kl_budget - logs["kl"]))
        critic_loss, critic_logs = self.critic_loss(batch, noise["candidates"])
        descend(self.optimizers[1], critic_loss)
        polyak_update(self.target_critic, self.critic, self.target_rate)
        return logs | critic_logs

    def weight(self) -> Tensor:
        """α of Eq. 4 per run, `[R]`: given, or found by dual ascent if the KL has a budget."""
        return self.alpha if self.kl_budget is None else self.log_alpha.detach().exp()

    def actor_loss(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Logs]:
        """Eq. 4: −Q_φ(s, z) + α KL(π_θ(·|s) ‖ N(0, I)), per run `[R]`; noise is `[R, B, d]`."""
        mean, log_std = self.policy(batch["observations"])
        z = sample(mean, log_std, noise)
        q = self.critic(batch["observations"], z).mean((1, 2))
        kl = kl_to_prior(mean, log_std).mean(1)
        logs = {
            "actor_q": q.detach(),
            "kl": kl.detach(),
            "policy_std": log_std.detach().exp().mean((1, 2)),
            "latent_norm": z.detach().norm(dim=-1).mean(1),
        }
        if self.kl_budget is not None:
            logs["kl_weight"] = self.weight()  # not "alpha", which identifies the run in every table
        return self.weight() * kl - q, logs

    def critic_loss(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Logs]:
        """Eq. 5, per run `[R]`; noise is `[R, B, N, d]`."""
        return td_loss(self.critic, batch, self.target(batch, noise))

    @torch.no_grad()
    def target(self, batch: Batch, noise: Tensor) -> Tensor:
        """y = r + γ · mask · V(s′), `[R, B]`: V is Q_φ⁻ of the best of N candidates, or its mean under π*."""
        proposed = self.propose(self.target_critic, batch["next_observations"], noise, self.target_surplus)
        # The best candidate's value is the largest value, so no candidate needs to be selected.
        v = weighted_mean(proposed.log_weights, proposed.values) if self.resamples else proposed.values.amax(-1)
        return batch["rewards"] + self.discount * batch["masks"] * v

    def propose(
        self, critic: Critic, observations: Tensor, noise: Tensor, surplus: Tensor | None, noise_scale: float = 1.0
    ) -> Proposed:
        """Candidates μ + noise_scale · σ · noise `[R, B, N, d]` with their values; −∞ for a run's surplus ones."""
        mean, log_std = self.policy(observations)
        candidates = sample(mean.unsqueeze(2), log_std.unsqueeze(2), noise_scale * noise)
        values = aggregate(q_values(critic, observations, candidates), self.aggregation)
        weights = log_weights(values, self.temperature * self.weight(), candidates, noise)
        if surplus is not None:
            values, weights = (scores.masked_fill(surplus, -torch.inf) for scores in (values, weights))
        return Proposed(candidates, values, weights)

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_φ(s, f⁻¹(a)), `[R, B]`: the critic's actions are latents."""
        latents = self.flow.inverse(observations, actions)
        return aggregate(self.critic(observations, latents), self.aggregation)

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """Decode the chosen latent, clipped to [-1, 1]."""
        return self.flow.decode(observations, self.latents(observations, streams))

    @torch.no_grad()
    def explore(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """Like `act`, but with the policy's full noise; the latent itself is what is stored."""
        z = self.choose(observations, streams, 1.0)
        return self.flow.decode(observations, z), z

    @torch.no_grad()
    def latents(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """The latents `[R, B, d]` that `act` decodes: μ if `acting_noise` is 0, else one of N draws."""
        if self.acting_noise == 0:
            return self.policy(observations)[0]
        return self.choose(observations, streams, self.acting_noise)

    def choose(self, observations: Tensor, streams: RunStreams, noise_scale: float) -> Tensor:
        """The best of N latents of N(μ, (noise_scale · σ)²), or one resampled from them: `[R, B, d]`."""
        batch = observations.shape[1]
        noise = streams.normals(self.candidates, batch, self.flow.field.action_dim)
        if max(self.candidates) == 1 and not self.resamples:  # nothing to choose, so the critic is not evaluated
            mean, log_std = self.policy(observations)
            return sample(mean, log_std, noise_scale * noise.squeeze(2))
        proposed = self.propose(self.critic, observations, noise, self.surplus, noise_scale)
        if self.resamples:
            return resample(proposed.log_weights, proposed.candidates, streams.uniform(batch, 1))
        return best_of_n(proposed.values, proposed.candidates)

    @torch.no_grad()
    def behave(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """The frozen flow itself: f(s, z) of z ~ N(0, I), clipped to [-1, 1]."""
        z = streams.normal(observations.shape[1], self.flow.field.action_dim)
        return self.flow.decode(observations, z)


def _surplus(counts: tuple[int, ...], device: torch.device) -> Tensor | None:
    """Which of the largest N candidates a run with a smaller N ignores, bool `[R, 1, N]`; None if all N are equal."""
    if len(set(counts)) == 1:
        return None
    return (torch.arange(max(counts), device=device) >= torch.tensor(counts, device=device)[:, None])[:, None]

"""Flow Latent Policy: Algorithm 1 of the paper.

The flow is frozen and maps latents to actions; policy and critic live in its latent space. No gradient passes
through the flow, and it is not even called in training: the dataset's actions were inverted once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.nets import Critic, aggregate, follow
from flp.learner.optimizers import Adam, descend
from flp.learner.trainable import Batch, Logs
from flp.parts.base import Agent, Spec
from flp.parts.common import make_critic, td_loss
from flp.parts.latent import LatentPolicy, best_of_n, kl_to_prior, sample
from flp.randomness.streams import RunStreams


class FLP(Agent):
    """R latent policies π_θ(z | s) with their latent critics Q_φ(s, z)."""

    uses_latents = True

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        if spec.flow is None:
            raise ValueError("FLP needs the pretrained flow")
        o = spec.offline
        self.discount, self.target_rate, self.aggregation = o.discount, o.target_rate, o.aggregation
        self.alpha = spec.alpha
        self.candidates = spec.candidates
        # In a sweep over N every run scores the largest N; a run with a smaller one ignores the rest.
        counts = torch.tensor(spec.candidates, device=spec.alpha.device)
        surplus = torch.arange(max(spec.candidates), device=counts.device) >= counts[:, None]
        self.surplus = surplus[:, None] if bool(surplus.any()) else None
        self.policy = LatentPolicy(
            spec.streams, spec.observation_dim, spec.action_dim, o.hidden, (o.log_std_min, o.log_std_max)
        )
        self.critic, self.target_critic = make_critic(spec)
        self.flow = spec.flow.freeze()
        self.optimizers = [
            Adam(self.policy.parameters(), o.learning_rate),
            Adam(self.critic.parameters(), o.learning_rate),
        ]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Noise of the actor's z and of the N next candidates."""
        d = self.flow.field.action_dim
        noise = streams.normals([n + 1 for n in self.candidates], updates, batch_size, d).transpose(0, 1)
        return {"policy": noise[..., 0, :], "candidates": noise[..., 1:, :]}

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """Lines 6 to 12 of Algorithm 1."""
        actor_loss, logs = self.actor_loss(batch, noise["policy"])
        descend(self.optimizers[0], actor_loss)
        critic_loss, critic_logs = self.critic_loss(batch, noise["candidates"])
        descend(self.optimizers[1], critic_loss)
        follow(self.target_critic, self.critic, self.target_rate)
        return logs | critic_logs

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
        return self.alpha * kl - q, logs

    def critic_loss(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Logs]:
        """Eq. 5, per run `[R]`; noise is `[R, B, N, d]`."""
        return td_loss(self.critic, batch, self.target(batch, noise))

    @torch.no_grad()
    def target(self, batch: Batch, noise: Tensor) -> Tensor:
        """y = r + γ · mask · Q_φ⁻(s′, z*), `[R, B]`, with z* the best of N candidates."""
        mean, log_std = self.policy(batch["next_observations"])
        candidates = sample(mean.unsqueeze(2), log_std.unsqueeze(2), noise)
        values = self._score(self.target_critic, batch["next_observations"], candidates)
        # The value of the best candidate is the largest value: nothing needs to be picked.
        return batch["rewards"] + self.discount * batch["masks"] * values.amax(-1)

    def _score(self, critic: Critic, observations: Tensor, candidates: Tensor) -> Tensor:
        """Aggregated Q of candidates `[R, B, N, d]` → `[R, B, N]`; a run's surplus candidates score −∞."""
        n = candidates.shape[2]
        repeated = observations.unsqueeze(2).expand(-1, -1, n, -1).flatten(1, 2)
        values = aggregate(critic(repeated, candidates.flatten(1, 2)), self.aggregation)
        values = values.view(len(values), -1, n)
        return values if self.surplus is None else values.masked_fill(self.surplus, -torch.inf)

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_φ(s, f⁻¹(a)): the critic knows latents."""
        latents = self.flow.inverse(observations, actions)
        return aggregate(self.critic(observations, latents), self.aggregation)

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """Draw N latents, keep the best by Q_φ, decode it; the latent itself is what is stored."""
        mean, log_std = self.policy(observations)
        noise = streams.normals(self.candidates, observations.shape[1], mean.shape[-1])
        candidates = sample(mean.unsqueeze(2), log_std.unsqueeze(2), noise)
        z = best_of_n(self._score(self.critic, observations, candidates), candidates)
        return self.flow.decode(observations, z), z

    @torch.no_grad()
    def behave(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """The frozen flow itself: z ~ N(0, I), decoded."""
        z = streams.normal(observations.shape[1], self.flow.field.action_dim)
        return self.flow.decode(observations, z)

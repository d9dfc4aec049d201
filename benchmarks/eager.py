"""One FLP run written naively: the slow, obvious reference of the update benchmarks.

Ordinary modules, `torch.optim.Adam`, one network after another, one run at a time.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(inputs: int, hidden: list[int], outputs: int, *, layer_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip([inputs, *hidden], hidden, strict=False):
        layers += [nn.Linear(a, b), nn.GELU(approximate="tanh")]
        layers += [nn.LayerNorm(b, eps=1e-6)] if layer_norm else []
    return nn.Sequential(*layers, nn.Linear(hidden[-1], outputs))


class EagerFLP:
    """Algorithm 1 for one run, as a newcomer would write it."""

    def __init__(self, observation_dim: int, latent_dim: int, hidden: list[int], candidates: int) -> None:
        self.policy = mlp(observation_dim, hidden, 2 * latent_dim, layer_norm=False)
        width = observation_dim + latent_dim
        self.critics = nn.ModuleList(mlp(width, hidden, 1, layer_norm=True) for _ in range(2))
        self.targets = copy.deepcopy(self.critics)
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), 3e-4)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), 3e-4)
        self.candidates, self.alpha, self.discount, self.rate = candidates, 1.0, 0.99, 0.005

    def gaussian(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.policy(observations).chunk(2, -1)
        return mean, log_std.clamp(-5, 2).exp()

    def update(self, s: Tensor, z: Tensor, r: Tensor, mask: Tensor, s_next: Tensor) -> None:
        mean, std = self.gaussian(s)
        drawn = mean + std * torch.randn_like(mean)
        q = torch.stack([critic(torch.cat([s, drawn], -1)) for critic in self.critics]).mean()
        kl = 0.5 * (std**2 + mean**2 - 1 - 2 * std.log()).sum(-1).mean()
        self.policy_optimizer.zero_grad()
        torch.autograd.backward(self.alpha * kl - q)
        self.policy_optimizer.step()
        with torch.no_grad():
            mean, std = self.gaussian(s_next)
            noise = torch.randn(len(s), self.candidates, mean.shape[-1])
            candidates = mean[:, None] + std[:, None] * noise
            repeated = s_next[:, None].expand(-1, self.candidates, -1)
            pairs = torch.cat([repeated, candidates], -1)
            values = torch.stack([target(pairs).squeeze(-1) for target in self.targets]).mean(0)
            y = r + self.discount * mask * values.max(-1).values
        pair = torch.cat([s, z], -1)
        loss = torch.stack([F.mse_loss(critic(pair).squeeze(-1), y) for critic in self.critics]).mean()
        self.critic_optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.critic_optimizer.step()
        with torch.no_grad():
            for target, source in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.lerp_(source, self.rate)

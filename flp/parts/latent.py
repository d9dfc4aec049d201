"""The latent policy π_θ(z | s) = N(μ_θ(s), diag σ_θ²(s)), and its closed-form KL."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flp.learner.nets import MLP
from flp.randomness.streams import RunStreams


class LatentPolicy(nn.Module):
    """A diagonal Gaussian per run that starts at the prior N(0, I): its head is zero, so KL = 0.

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        latent_dim: width of z, the action's.
        hidden: widths of the hidden layers.
        log_std_range: clamp of log σ.
    """

    def __init__(
        self,
        streams: RunStreams,
        observation_dim: int,
        latent_dim: int,
        hidden: Sequence[int],
        log_std_range: tuple[float, float] = (-5.0, 2.0),
    ) -> None:
        super().__init__()
        self.log_std_range = log_std_range
        self.net = MLP(streams, observation_dim, hidden, 2 * latent_dim, zero_head=True)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Map `[R, B, o]` to mean and log standard deviation, each `[R, B, d]`."""
        mean, log_std = self.net(observations).squeeze(1).chunk(2, -1)
        return mean, log_std.clamp(*self.log_std_range)


def kl_to_prior(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ (σ² + μ² − 1 − log σ²), summed over the last axis."""
    return 0.5 * (torch.exp(2 * log_std) + mean.square() - 1 - 2 * log_std).sum(-1)


def sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Reparameterised draws μ + σ · noise; broadcast noise `[R, B, N, d]` needs mean `[R, B, 1, d]`."""
    return mean + torch.exp(log_std) * noise

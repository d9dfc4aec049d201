"""The latent policy π_θ(z | s) = N(μ_θ(s), diag σ_θ²(s)), and its closed-form KL."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flp.parts.common import DiagonalGaussian
from flp.randomness.streams import RunStreams


class LatentPolicy(DiagonalGaussian):
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
        super().__init__(streams, observation_dim, latent_dim, hidden, log_std_range, zero_head=True)


def kl_to_prior(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ (σ² + μ² − 1 − log σ²), summed over the last axis."""
    return 0.5 * (torch.exp(2 * log_std) + mean.square() - 1 - 2 * log_std).sum(-1)


def sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Reparameterised draws μ + σ · noise; broadcast noise `[R, B, N, d]` needs mean `[R, B, 1, d]`."""
    return mean + torch.exp(log_std) * noise

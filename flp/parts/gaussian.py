"""Gaussian policies, one per run: of unit variance, diagonal, and the latent policy with its closed-form KL."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flp.networks.mlp import MLP
from flp.randomness.streams import RunStreams

# FQL's variance scaling of 0.01 (final_fc_init_scale) scales the weights by its square root.
HEAD_SCALE = 0.1


class GaussianActor(nn.Module):
    """The mean of N(μ_θ(s), I), per run (FQL, utils/networks.py, Actor with const_std).

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        action_dim: width of a.
        hidden: widths of the hidden layers.
        tanh: squash the mean.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        streams: RunStreams,
        observation_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        *,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        self.tanh = tanh
        self.net = MLP(streams, observation_dim, hidden, action_dim)
        with torch.no_grad():
            self.net.weights[-1].mul_(HEAD_SCALE)

    def forward(self, observations: Tensor) -> Tensor:
        """Map `[R, B, o]` to `[R, B, a]`."""
        mean = self.net(observations).squeeze(1)
        return mean.tanh() if self.tanh else mean


def log_prob(mean: Tensor, actions: Tensor) -> Tensor:
    """log N(a; mean, I) of actions `[..., a]`, summed over the last axis: `[...]`."""
    return -0.5 * ((actions - mean).square() + math.log(2 * math.pi)).sum(-1)


class DiagonalGaussian(nn.Module):
    """Mean μ_θ(s) and log σ_θ(s) of a Gaussian, per run, by one network with two heads.

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        width: of the random variable.
        hidden: widths of the hidden layers.
        log_std_range: bounds to which log σ is clamped.
        zero_head: start at N(0, I).
    """

    __call__: Callable[..., tuple[Tensor, Tensor]]

    def __init__(
        self,
        streams: RunStreams,
        observation_dim: int,
        width: int,
        hidden: Sequence[int],
        log_std_range: tuple[float, float] = (-5.0, 2.0),
        *,
        zero_head: bool = False,
    ) -> None:
        super().__init__()
        self.log_std_range = log_std_range
        self.net = MLP(streams, observation_dim, hidden, 2 * width, zero_head=zero_head)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Map `[R, B, o]` to mean and log standard deviation, each `[R, B, width]`."""
        mean, log_std = self.net(observations).squeeze(1).chunk(2, -1)
        return mean, log_std.clamp(*self.log_std_range)


class LatentPolicy(DiagonalGaussian):
    """π_θ(z | s) = N(μ_θ(s), diag σ_θ²(s)), per run; it starts at the prior N(0, I), where the KL is 0.

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        latent_dim: width of z, equal to that of a.
        hidden: widths of the hidden layers.
        log_std_range: bounds to which log σ is clamped.
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
    """KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ (σ² + μ² − 1 − log σ²), summed over the last axis: `[..., d]` to `[...]`."""
    return 0.5 * (torch.exp(2 * log_std) + mean.square() - 1 - 2 * log_std).sum(-1)


def sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Reparameterised draws μ + σ · noise, broadcast: noise `[R, B, N, d]` needs a mean `[R, B, 1, d]`."""
    return mean + torch.exp(log_std) * noise

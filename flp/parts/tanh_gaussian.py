"""A Gaussian squashed by tanh, and its log density: the policy of soft actor-critics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flp.networks.relu import OrthogonalMLP
from flp.parts.gaussian import HEAD_SCALE, DiagonalGaussian
from flp.randomness.streams import RunStreams


class TanhGaussian(DiagonalGaussian):
    """a = tanh(x), x ~ N(μ_θ(s), diag σ_θ²(s)), per run (FQL, utils/networks.py, Actor with tanh_squash).

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        action_dim: width of a.
        hidden: widths of the hidden layers.
    """

    def __init__(self, streams: RunStreams, observation_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__(streams, observation_dim, action_dim, hidden)
        # One layer holds both heads: each is scaled to the initial range it would have as a layer of its own.
        separate = math.sqrt((hidden[-1] + 2 * action_dim) / (hidden[-1] + action_dim))
        with torch.no_grad():
            self.net.weights[-1].mul_(HEAD_SCALE * separate)


class ScaledTanhGaussian(nn.Module):
    """The same with log σ = m · out + o, m and o learnt, per run (JaxCQL, model.py, TanhGaussianPolicy).

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        action_dim: width of a.
        hidden: widths of the hidden layers, ReLU.
    """

    __call__: Callable[..., tuple[Tensor, Tensor]]

    def __init__(self, streams: RunStreams, observation_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = OrthogonalMLP(streams, observation_dim, hidden, 2 * action_dim)
        ones = torch.ones(len(streams), device=streams.device)
        self.multiplier, self.offset = nn.Parameter(ones), nn.Parameter(-ones)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Map `[R, B, o]` to mean and log standard deviation before tanh, each `[R, B, a]`."""
        mean, out = self.net(observations).squeeze(1).chunk(2, -1)
        log_std = torch.addcmul(self.offset[:, None, None], self.multiplier[:, None, None], out)
        return mean, log_std.clamp(-20, 2)


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(x) with x = μ + σ · noise, and log π(a) = Σ log N(x; μ, σ²) − log(1 − tanh² x).

    Args:
        mean: μ, `[..., a]`.
        log_std: log σ, `[..., a]`.
        noise: draws of N(0, I), `[..., a]`.

    Returns:
        a `[..., a]` in [-1, 1], and log π(a) `[...]`.
    """
    x = mean + log_std.exp() * noise
    gaussian = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std
    # 1 − tanh² x = 4 / (e^x + e^−x)², without cancellation at large |x|
    log_derivative = 2 * (math.log(2) - x - F.softplus(-2 * x))
    return x.tanh(), (gaussian - log_derivative).sum(-1)

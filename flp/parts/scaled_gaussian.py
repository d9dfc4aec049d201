"""Cal-QL's policy: a squashed Gaussian whose log σ is scaled and shifted by two learnt numbers (JaxCQL, model.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flp.learner.rectified import OrthogonalMLP
from flp.randomness.streams import RunStreams

_LOG_STD = -20.0, 2.0


class ScaledTanhGaussian(nn.Module):
    """a = tanh u with u ~ N(μ_θ(s), σ_θ²(s)) and log σ = m · out + o, clipped, per run.

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        action_dim: width of a.
        hidden: widths of the hidden layers.
    """

    def __init__(self, streams: RunStreams, observation_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = OrthogonalMLP(streams, observation_dim, hidden, 2 * action_dim)
        ones = torch.ones(len(streams), device=streams.device)
        self.multiplier, self.offset = nn.Parameter(ones), nn.Parameter(-ones)

    def gaussian(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Map `[R, B, o]` to μ and log σ, each `[R, B, a]`."""
        mean, out = self.net(observations).squeeze(1).chunk(2, -1)
        return mean, torch.addcmul(self.offset[:, None, None], self.multiplier[:, None, None], out).clamp(*_LOG_STD)

    def forward(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """n draws for each of `[R, B, o]` from noise `[R, B, n, a]`: actions `[R, B, n, a]`, log π `[R, B, n]`."""
        mean, log_std = (part.unsqueeze(2) for part in self.gaussian(observations))
        u = mean + log_std.exp() * noise
        log_prob = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std
        # log(1 - tanh² u), which is never taken of zero so.
        squashing = 2 * (math.log(2) - u - F.softplus(-2 * u))
        return u.tanh(), (log_prob - squashing).sum(-1)

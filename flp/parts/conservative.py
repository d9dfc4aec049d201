"""The strength of what holds values down (CQL, Kumar et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flp.randomness.streams import RunStreams

_MOST = 1e6  # of the learnt factor


class Pressure(nn.Module):
    """w · penalty; with a gap α′ w (penalty − gap), where the factor α′ rises while the penalty is above it.

    Args:
        streams: the runs' random streams.
        weight: w.
        gap: the penalty that is aimed at; None for a fixed factor of 1.
    """

    def __init__(self, streams: RunStreams, weight: float, gap: float | None) -> None:
        super().__init__()
        self.weight, self.gap = weight, gap
        if gap is not None:
            self.log_factor = nn.Parameter(torch.ones(len(streams), device=streams.device))

    def forward(self, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """From the penalty `[R, members]` the part of the critics' losses, summed, and the factor's own loss, `[R]`."""
        if self.gap is None:
            return self.weight * penalty.sum(1), torch.zeros_like(penalty[:, 0])
        excess = self.weight * (penalty - self.gap)
        factor = self.log_factor.exp().clamp(max=_MOST).unsqueeze(1)
        return (factor.detach() * excess).sum(1), -(factor * excess.detach()).mean(1)

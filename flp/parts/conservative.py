"""What holds values down (CQL, Kumar et al. 2020): several actions ranked in a state, and the penalty's strength."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flp.learner.nets import Critic
from flp.randomness.streams import RunStreams

_MOST = 1e6  # of the learnt factor


def rank(critic: Critic, observations: Tensor, actions: Tensor) -> Tensor:
    """Q of several actions `[R, B, n, a]` in each of `[R, B, o]`: `[R, members, B, n]`."""
    n = actions.shape[2]
    repeated = observations.unsqueeze(2).expand(-1, -1, n, -1).flatten(1, 2)
    values: Tensor = critic(repeated, actions.flatten(1, 2))
    return values.view(*values.shape[:2], -1, n)


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

"""Polyak averaging: a target network that moves slowly towards the network it is a copy of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def polyak_update(target: nn.Module, source: nn.Module, rate: float | Tensor) -> None:
    """θ_target ← (1 − rate) · θ_target + rate · θ_source.

    A rate that changes from update to update is a 0-d tensor, so that a captured update reads its current value.
    """
    if isinstance(rate, Tensor):
        for t, s in zip(target.parameters(), source.parameters(), strict=True):
            t.lerp_(s, rate)
    else:
        torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)

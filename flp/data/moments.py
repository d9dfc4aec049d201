"""Mean and standard deviation of a dataset's observations, to standardise the inputs of networks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def observation_moments(observations: NDArray[np.float32], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of observations `[rows, o]`, float32 `[o]` each.

    The standard deviation of each entry is at least a tenth of the mean standard deviation: divided by a tiny one, a
    value slightly outside the data would become huge.
    """
    mean, std = observations.mean(0, dtype=np.float64), observations.std(0, dtype=np.float64)
    std = np.maximum(std, 0.1 * (std.mean() or 10.0))
    return (
        torch.tensor(mean, dtype=torch.float32, device=device),
        torch.tensor(std, dtype=torch.float32, device=device),
    )

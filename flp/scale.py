"""The scale of a dataset's observations, for networks that are shown standardised ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from flp.data.load import Dataset
from flp.devices import to_device


def observation_moments(data: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a dataset's observations, `[o]` each; constant entries get deviation 1."""
    mean, std = data.observations.mean(0, dtype=np.float64), data.observations.std(0, dtype=np.float64)
    std = np.where(std > 1e-6, std, 1.0)
    return to_device(mean.astype(np.float32), device), to_device(std.astype(np.float32), device)

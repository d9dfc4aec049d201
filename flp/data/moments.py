"""The scale of a dataset's observations, for networks that are shown standardised ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def observation_moments(observations: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of a dataset's observations `[rows, o]`, float32 `[o]` each.

    An entry that hardly moves gets a tenth of the mean deviation instead of its own: divided by that, a value a little
    outside the data would be huge.
    """
    mean, std = observations.mean(0, dtype=np.float64), observations.std(0, dtype=np.float64)
    std = np.maximum(std, 0.1 * (std.mean() or 10.0))
    return mean.astype(np.float32), std.astype(np.float32)

"""Saturated actions: the mass that a controller's clipping piles up at ±1, spread out beyond it for the flow.

A share of the actions of a controller that clips is exactly ±1. No flow carries a density one to one onto such an
atom: what it learns is a spike, inverses of which lie anywhere, far out and telling of the state. But the environment
clips as well, so that 1 and 1.1 are the same action, and the atom may lie anywhere beyond: here at
±(1 + scale · |N(0, 1)|). The flow learns these actions, the inversion inverts these very ones, and what is decoded is
clipped.

The regulariser keeps its meaning. With ã what a latent decodes to and a = clip(ã) what is executed,

    KL(π(z|s) ‖ N(0, I)) = KL(π(ã|s) ‖ β(ã|s)) ≥ KL(π(a|s) ‖ β(a|s)):

the first because the flow is one to one, the second by the data-processing inequality, for clipping is a function. And
β(a|s), what the spread actions are once they are clipped, is the behaviour itself with its atoms. So the KL between
latents bounds that of the executed actions from above, and is equal to it where nothing is clipped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flp.data.load import ACTION_LIMIT, Dataset
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams


def saturated(actions: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which coordinates are at the limit that datasets are clipped to, or beyond."""
    return np.abs(actions) >= np.float32(ACTION_LIMIT)


def learnable(data: Dataset, scale: float, *names: object) -> NDArray[np.float32]:
    """What a flow is to learn of a dataset's actions, `[rows, a]`, saturated coordinates moved beyond ±1.

    Drawn for the whole file at once, on the CPU: every row's number is the same whoever asks.

    Args:
        data: the dataset.
        scale: deviation of the half-normal beyond ±1; 0 leaves the actions as they are.
        names: what names the random numbers: dataset, the flow's seed, file.
    """
    if scale == 0:
        return data.actions
    noise = RunStreams([seed_of("saturation", *names)]).normal(*data.actions.shape)[0].numpy()
    beyond = np.copysign(1 + np.float32(scale) * np.abs(noise), data.actions)
    return np.where(saturated(data.actions), beyond, data.actions)

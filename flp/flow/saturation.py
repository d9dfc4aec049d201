"""Saturated actions: the probability mass that a controller's clipping puts at ±1, dispersed beyond it for the flow.

A controller that clips emits exactly ±1 with positive probability. No flow maps a density one-to-one onto such an atom:
it learns a spike, whose inverses are arbitrary, far from the origin and dependent on the state. But the environment
clips as well, so that 1 and 1.1 are the same action and the atom may be moved anywhere beyond: here to
±(1 + scale · |N(0, 1)|). The flow learns these actions, the inversion inverts the same ones, and decoded actions are
clipped.

The regulariser keeps its meaning. With ã = f(s, z) and the executed action a = clip(ã),

    KL(π(z|s) ‖ N(0, I)) = KL(π(ã|s) ‖ β(ã|s)) ≥ KL(π(a|s) ‖ β(a|s)):

the equality because the flow is one-to-one, the inequality by data processing, because clipping is a function. And
β(a|s), the distribution of the dispersed actions after clipping, is the behaviour itself with its atoms. So the KL
between latents bounds that of the executed actions from above, with equality where nothing is clipped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flp.data.load import ACTION_LIMIT, Dataset
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams


def saturated(actions: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which coordinates are at or beyond the limit to which datasets are clipped, of the same shape."""
    return np.abs(actions) >= np.float32(ACTION_LIMIT)


def learnable(data: Dataset, scale: float, *names: object) -> NDArray[np.float32]:
    """A dataset's actions `[rows, a]` with saturated coordinates moved beyond ±1, for a flow to learn.

    The noise is drawn for the whole file at once, on the CPU, so that each row's is always the same.

    Args:
        data: the dataset.
        scale: scale of the half-normal beyond ±1; 0 leaves the actions as they are.
        names: dataset, the flow's seed and file, which seed the noise.
    """
    if scale == 0:
        return data.actions
    noise = RunStreams([seed_of("saturation", *names)]).normal(*data.actions.shape)[0].numpy()
    beyond = np.copysign(1 + np.float32(scale) * np.abs(noise), data.actions)
    return np.where(saturated(data.actions), beyond, data.actions)

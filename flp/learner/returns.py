"""Monte-Carlo returns: what a trajectory went on to earn, for agents that hold their values against it."""

from __future__ import annotations

import torch
from torch import Tensor


def monte_carlo(rewards: Tensor, masks: Tensor, last: Tensor, discount: float) -> Tensor:
    """G = r + γ · mask · G′ backwards along every trajectory, `[T, n]`.

    A trajectory that was cut off has earned no less than was seen. Its last reward is taken to persist: with rewards of
    −1 to 0 a tail of zeros would promise success. In a maze −1 is the least there is; a robot arm might yet undo a part
    of its task (open: how FQL's authors did it).

    Args:
        rewards: `[T, n]`, T kinds of rewards along the same trajectories, one after the other.
        masks: `[T, n]`, 0 where an episode ends by success, else 1.
        last: bool `[n]`, true at the last transition of a trajectory.
        discount: γ.
    """
    ends = last.nonzero().flatten()
    lengths = ends.diff(prepend=ends.new_full((1,), -1))
    returns, weights = rewards.double(), discount * masks.double()
    returns[:, ends] *= 1 + weights[:, ends] / (1 - discount)
    for back in range(1, int(lengths.max())):
        rows = ends[lengths > back] - back
        returns[:, rows] += weights[:, rows] * returns[:, rows + 1]
    return returns.to(rewards.dtype)


def last_of(transitions: Tensor) -> Tensor:
    """Which transitions, ascending row numbers `[n]`, are the last of their trajectories: the next row starts none."""
    return torch.cat([transitions.diff() > 1, transitions.new_ones(1, dtype=torch.bool)])

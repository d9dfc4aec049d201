"""What a trajectory went on to earn: over n steps, for targets; to its end, for agents that hold values against it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Earned = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Rewards and masks of transitions."""
Followed = Callable[[Tensor], tuple[Tensor, Tensor]]
"""The transitions after these, and whether those are of the same trajectory."""


def sum_ahead(
    transitions: Tensor, earned: Earned, followed: Followed, discount: Tensor | float, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """R = Σ_k γ^k (Π_j<k mask_j) r_k over `steps` transitions, fewer where the trajectory ends before.

    Also W = γ^(K-1) Π_k mask_k over the K that were summed, and the last of them: R + γ · W · V(s′) is the target, with
    the state s′ after the last; of one step R is the reward, W the mask.

    Args:
        transitions: the first ones, indices of any shape.
        earned: what they earned, which may have axes before theirs.
        followed: what came after.
        discount: γ.
        steps: n, at least 1.
    """
    (total, weight), end = earned(transitions), transitions
    for _ in range(1, steps):
        after, goes_on = followed(end)
        rewards, masks = earned(after)
        total = torch.where(goes_on, total + discount * weight * rewards, total)
        weight = torch.where(goes_on, discount * weight * masks, weight)
        end = torch.where(goes_on, after, end)
    return total, weight, end


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

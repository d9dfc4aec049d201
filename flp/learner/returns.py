"""Returns of trajectories: over n steps, for targets; to the end, for agents that calibrate their values by them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Earned = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Rewards and masks of transitions."""
Followed = Callable[[Tensor], tuple[Tensor, Tensor]]
"""The transitions after these, and whether they belong to the same trajectory."""


def n_step_return(
    transitions: Tensor, earned: Earned, followed: Followed, discount: Tensor | float, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """R = Σ_k γ^k (Π_j<k mask_j) r_k over n transitions, or fewer if the trajectory ends earlier.

    The target is R + γ · W · V(s′), where s′ is the state after the last of the K transitions that were summed and
    W = γ^(K-1) Π_k mask_k. For a single step R is the reward and W the mask.

    Args:
        transitions: indices of the first transitions, of any shape.
        earned: rewards and masks of transitions, which may have further leading axes.
        followed: the transitions after them.
        discount: γ.
        steps: n, at least 1.

    Returns:
        R, W, and the indices of the last transitions.
    """
    (total, weight), end = earned(transitions), transitions
    for _ in range(1, steps):
        after, continues = followed(end)
        rewards, masks = earned(after)
        total = torch.where(continues, total + discount * weight * rewards, total)
        weight = torch.where(continues, discount * weight * masks, weight)
        end = torch.where(continues, after, end)
    return total, weight, end


def monte_carlo(rewards: Tensor, masks: Tensor, last: Tensor, discount: float) -> Tensor:
    """G = r + γ · mask · G′ backwards along every trajectory, `[T, n]`.

    The last reward of a truncated trajectory is assumed to persist: with rewards from −1 to 0, a tail of zeros would
    promise success. In a maze −1 is the lowest reward; a robot arm might still undo a part of its task (open: how FQL's
    authors did it).

    Args:
        rewards: `[T, n]`, the rewards of T tasks along the same trajectories, which are concatenated.
        masks: `[T, n]`, 0 where an episode ends by success, else 1.
        last: bool `[n]`, true at the last transition of a trajectory.
        discount: γ, below 1.
    """
    ends = last.nonzero().flatten()
    lengths = ends.diff(prepend=ends.new_full((1,), -1))
    returns, weights = rewards.double(), discount * masks.double()
    returns[:, ends] *= 1 + weights[:, ends] / (1 - discount)
    for back in range(1, int(lengths.max())):
        rows = ends[lengths > back] - back
        returns[:, rows] += weights[:, rows] * returns[:, rows + 1]
    return returns.to(rewards.dtype)


def is_last(transitions: Tensor) -> Tensor:
    """Which transitions, ascending row numbers `[n]`, end their trajectories: their next row starts none; bool."""
    return torch.cat([transitions.diff() > 1, transitions.new_ones(1, dtype=torch.bool)])

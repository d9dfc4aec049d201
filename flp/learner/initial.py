"""How an agent's networks begin: what they see of observations, and what its critics say before they know anything."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flp.learner.nets import MLP, Critic, Value


def standardize(module: nn.Module, mean: Tensor, std: Tensor, scale: float, skip: nn.Module | None = None) -> None:
    """Let all networks in a module, except those in `skip`, see observations as scale · (s − mean) / std.

    A network starts with zero biases and small weights: on raw coordinates all its kinks meet in the origin, and
    on coordinates of unit size it is so smooth that values leak through the walls of a maze. A scale above 1
    lets it tell nearby states apart early. Mean and standard deviation are `[o]`.
    """
    skipped = set(skip.modules()) if skip is not None else set()
    for net in module.modules():
        if isinstance(net, MLP) and net not in skipped:
            net.scale[..., : len(std)] = scale / std
            net.shift[..., : len(std)] = -scale * mean / std


@torch.no_grad()
def start_values(module: nn.Module, start: Tensor) -> None:
    """Let all critics and state values in a module say `start`, `[R]`, about everything, before they are trained.

    A critic that starts from 0 where rewards are -1 has to sink to -1 / (1 - discount) before it can tell anything,
    and what has not sunk yet looks like success meanwhile. Started from what the average reward is worth for ever,
    values only rise, from the goal backwards.
    """
    for critic in module.modules():
        if isinstance(critic, (Critic, Value)):
            critic.net.biases[-1].add_(start.repeat_interleave(critic.net.members)[:, None, None])

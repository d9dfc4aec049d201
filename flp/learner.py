"""What can be trained: stacked parameters of R runs, their optimizers, and how they update.

A learner draws the randomness of its updates ahead and updates by pure tensor code, without synchronising with
the host, so that updates can be captured into a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from flp.streams import RunStreams

Batch = dict[str, Tensor]
"""`observations`, `actions` and more, each `[R, B, ...]`."""
Logs = dict[str, Tensor]
"""Per-run scalars `[R]`."""


class Learner(nn.Module):
    """Base of all that is trained."""

    optimizers: list[torch.optim.Optimizer]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Draw the random numbers of some updates, each `[updates, R, batch_size, ...]`."""
        raise NotImplementedError

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """Take one gradient step of every network on a batch `[R, B, ...]`; return per-run scalars."""
        raise NotImplementedError

    def optimizer_state(self) -> dict[str, Tensor]:
        """All optimizer tensors by a flat name, `{optimizer}.{parameter}.{field}`."""
        return {
            f"{i}.{j}.{name}": value
            for i, optimizer in enumerate(self.optimizers)
            for j, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `optimizer_state` gave."""
        for i, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                owner, parameter, field = name.split(".")
                if int(owner) == i:
                    state.setdefault(int(parameter), {})[field] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Adam over stacked parameters: element-wise, so runs do not mix; one fused kernel, graph-capturable."""
    parameters = list(parameters)
    return torch.optim.Adam(parameters, learning_rate, fused=True, capturable=parameters[0].is_cuda)


def descend(optimizer: torch.optim.Optimizer, losses: Tensor) -> None:
    """One step down the sum of per-run losses `[R]`: gradients of different runs never mix."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter, gradient in zip(parameters, torch.autograd.grad(losses.sum(), parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()

"""The interface of what is trained: stacked parameters of R runs, their optimizers, and how they update.

A learner draws the randomness of its updates ahead and updates by pure tensor code, without synchronising with
the host, so that updates can be captured as a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flp.learner.optimizers import Adam
from flp.randomness.streams import RunStreams

Batch = dict[str, Tensor]
"""`observations`, `actions` and more, each `[R, B, ...]`."""
Logs = dict[str, Tensor]
"""Per-run scalars `[R]`."""


class Learner(nn.Module):
    """Base of agents, flows and classifiers."""

    optimizers: list[Adam]
    balanced = False
    """Whether half of every batch consists of online transitions, once there are any; else batches are uniform."""
    decided: bool | None = None
    """`is_due()` as a compiled update finds it, which cannot branch on a tensor."""

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Draw the random numbers of several updates, each `[updates, R, batch_size, ...]`."""
        raise NotImplementedError

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """Take one gradient step on a batch `[R, B, ...]` with the `[R, ...]` noise of one update; return scalars."""
        raise NotImplementedError

    def is_due(self) -> Tensor | None:
        """Whether the next update takes the step that only some take, a 0-d bool tensor; None if all take all."""
        return None

    def moves(self) -> bool | Tensor:
        """`is_due()`, as a bool where an update may branch on it; one that is captured on a GPU may not."""
        if self.decided is not None:
            return self.decided
        due = self.is_due()
        if due is None:
            return True
        return due if due.is_cuda or torch.compiler.is_dynamo_compiling() else bool(due)

    def optimizer_state(self) -> dict[str, Tensor]:
        """All optimizer tensors by a flat name, `{optimizer}.{parameter}.{field}`."""
        return {
            f"{i}.{name}": t for i, optimizer in enumerate(self.optimizers) for name, t in optimizer.state().items()
        }

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `optimizer_state` returned."""
        for i, optimizer in enumerate(self.optimizers):
            optimizer.restore({k.removeprefix(f"{i}."): t for k, t in tensors.items() if k.startswith(f"{i}.")})

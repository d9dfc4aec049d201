"""What can be trained: stacked parameters of R runs, their optimizers, and how they update.

A learner draws the randomness of its updates ahead and updates by pure tensor code, without synchronising with
the host, so that updates can be captured into a CUDA graph.
"""

from __future__ import annotations

from torch import Tensor, nn

from flp.learner.optimizers import Adam
from flp.randomness.streams import RunStreams

Batch = dict[str, Tensor]
"""`observations`, `actions` and more, each `[R, B, ...]`."""
Logs = dict[str, Tensor]
"""Per-run scalars `[R]`."""


class Learner(nn.Module):
    """Base of all that is trained."""

    optimizers: list[Adam]
    balanced = False
    """Whether half of every batch is of online transitions, once there are any; else batches are uniform."""

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Draw the random numbers of some updates, each `[updates, R, batch_size, ...]`."""
        raise NotImplementedError

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """Take one gradient step of every network on a batch `[R, B, ...]`; return per-run scalars."""
        raise NotImplementedError

    def optimizer_state(self) -> dict[str, Tensor]:
        """All optimizer tensors by a flat name, `{optimizer}.{parameter}.{field}`."""
        return {
            f"{i}.{name}": t for i, optimizer in enumerate(self.optimizers) for name, t in optimizer.state().items()
        }

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `optimizer_state` gave."""
        for i, optimizer in enumerate(self.optimizers):
            optimizer.restore({k.removeprefix(f"{i}."): t for k, t in tensors.items() if k.startswith(f"{i}.")})

"""Training the behaviour flow by flow matching (Eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.flow.velocity import VelocityField, flow_matching_loss
from flp.learner.optimizers import Adam, descend
from flp.learner.trainable import Batch, Learner, Logs
from flp.randomness.streams import RunStreams


class FlowLearner(Learner):
    """One velocity field per run with its optimizer.

    Args:
        field: the velocity field.
        learning_rate: Adam's step size.
        decay_steps: steps over which it decays to zero; None for a constant rate.
        draws: K, draws of x_0 and t for each transition of a batch.
    """

    def __init__(
        self, field: VelocityField, learning_rate: float, decay_steps: int | None = None, draws: int = 1
    ) -> None:
        super().__init__()
        self.field, self.draws = field, draws
        self.optimizers = [Adam(field.parameters(), learning_rate, decay_steps=decay_steps)]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """`x_0` ~ N(0, I) `[updates, R, K·B, a]` and `t` ~ U[0, 1) `[updates, R, K·B, 1]`."""
        size = self.draws * batch_size
        noise = streams.normal(updates, size, self.field.action_dim).transpose(0, 1)
        return {"x_0": noise, "t": streams.uniform(updates, size, 1).transpose(0, 1)}

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One gradient step on Eq. 3."""
        loss = self.loss(batch, noise)
        descend(self.optimizers[0], loss)
        return {"loss": loss.detach()}

    def loss(self, batch: Batch, noise: dict[str, Tensor]) -> Tensor:
        """Eq. 3 per run, `[R]`."""
        return flow_matching_loss(self.field, batch["observations"], batch["actions"], noise["x_0"], noise["t"])


class Pairs:
    """Observations and actions, shared by all runs, for flow matching to sample.

    Args:
        observations: every row, `[rows, o]`.
        actions: every row, `[rows, a]`.
        transitions: the rows that are sampled, `[n]`.
    """

    def __init__(self, observations: Tensor, actions: Tensor, transitions: Tensor) -> None:
        self.observations, self.actions, self.transitions = observations, actions, transitions
        self.offline_size = len(transitions)

    def __len__(self) -> int:
        return len(self.transitions)

    def batch(self, indices: Tensor) -> Batch:
        """Pairs by indices `[R, B]` into `transitions`."""
        rows = self.transitions[indices]
        return {"observations": self.observations[rows], "actions": self.actions[rows]}


@torch.no_grad()
def validation_loss(learner: FlowLearner, pairs: Pairs, streams: RunStreams, size: int = 4096) -> Tensor:
    """Eq. 3 per run `[R]` on up to `size` pairs; pass streams with the same seeds each time, for comparable noise."""
    indices = evenly_spaced(len(pairs), size).to(pairs.transitions.device)
    noise = {name: value[0] for name, value in learner.draw(streams, 1, len(indices)).items()}
    return learner.loss(pairs.batch(indices.expand(len(streams), -1)), noise)


def evenly_spaced(count: int, most: int) -> Tensor:
    """Indices of `most` of `count` rows, evenly spaced, or of all rows if they are fewer: `[min(count, most)]`."""
    chosen = min(count, most)
    return torch.arange(chosen) * count // max(1, chosen)

"""Behaviour cloning by a Gaussian of unit variance: regression of the dataset's actions."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.optimizers import Adam, descend
from flp.learner.trainable import Batch, Logs
from flp.parts.base import Agent, Spec
from flp.parts.gaussian import GaussianActor, log_prob
from flp.randomness.streams import RunStreams


class BC(Agent):
    """R Gaussian policies π_θ(a | s) = N(μ_θ(s), I)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        o = spec.offline
        self.actor = GaussianActor(spec.streams, spec.observation_dim, spec.action_dim, o.hidden)
        self.optimizers = [Adam(self.actor.parameters(), o.learning_rate)]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Nothing: the loss is deterministic."""
        return {}

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One gradient step."""
        loss = self.actor_loss(batch)
        descend(self.optimizers[0], loss)
        return {"actor_loss": loss.detach()}

    def actor_loss(self, batch: Batch) -> Tensor:
        """−log π_θ(a | s), per run `[R]`."""
        return -log_prob(self.actor(batch["observations"]), batch["actions"]).mean(1)

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """μ_θ(s), as at temperature 0, clipped to [-1, 1]."""
        return self.actor(observations).clamp(-1, 1)

"""Behaviour cloning by a flow: FQL's behaviour flow alone, trained on the actor's networks and budget."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.optimizers import Adam, descend
from flp.learner.trainable import Batch, Logs
from flp.parts.base import Spec
from flp.parts.common import FlowAgent
from flp.randomness.streams import RunStreams

_FLOW_STEPS = 10  # FQL's


class FBC(FlowAgent):
    """R flows of their own (not the pretrained one), which are the policies."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, "joint", _FLOW_STEPS)
        self.optimizers = [Adam(self.behavior_parameters(), spec.offline.learning_rate)]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Noise and times of flow matching."""
        return self.draw_behavior(streams, updates, batch_size)

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step down Eq. 3."""
        loss = self.behavior_loss(batch, noise)
        descend(self.optimizers[0], loss)
        return {"flow_loss": loss.detach()}

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """Draw z ~ N(0, I) and decode it."""
        z = streams.normal(observations.shape[1], self.action_dim)
        return self.behavior.decode(observations, z)

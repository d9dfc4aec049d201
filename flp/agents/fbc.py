"""Behaviour cloning by a flow: FQL's behaviour flow alone, with the actor's network and training budget."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.optimizers import Adam, descend
from flp.learner.trainable import Batch, Logs
from flp.parts.base import Agent, Spec
from flp.parts.behavior_flow import BehaviorFlow
from flp.randomness.streams import RunStreams

_FLOW_STEPS = 10  # FQL's


class FBC(Agent):
    """R flow policies f(s, z) of their own, not the pretrained one."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.action_dim = spec.action_dim
        self.behavior = BehaviorFlow(self, spec, "joint", _FLOW_STEPS)
        self.optimizers = [Adam(self.behavior.trained(), spec.offline.learning_rate)]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """`x_0` and `t` of flow matching."""
        return self.behavior.draw(streams, updates, batch_size)

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One gradient step on Eq. 3."""
        loss = self.behavior.loss(batch, noise)
        descend(self.optimizers[0], loss)
        return {"flow_loss": loss.detach()}

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """f(s, z) of z ~ N(0, I), clipped to [-1, 1]."""
        return self.behavior.decode(observations, streams.normal(observations.shape[1], self.action_dim))

"""The behaviour flow of a baseline: one of its own, trained jointly, or the shared pretrained one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flp.flow.behavior import Flow
from flp.flow.velocity import VelocityField, flow_matching_loss
from flp.learner.trainable import Batch
from flp.parts.base import Agent, Spec
from flp.randomness.streams import RunStreams
from flp.system.errors import FLPError


class BehaviorFlow:
    """A flow f(s, z) of an agent, which registers it: as `own_flow`, or as `flow` (see `Agent.is_shared`).

    Args:
        agent: whose flow it is.
        spec: what the agent is built from.
        source: "joint" for a flow of its own, trained with the agent; "pretrained" for the shared one, frozen.
        steps: Euler steps of an own flow.

    Raises:
        FLPError: the pretrained flow is missing.
    """

    def __init__(self, agent: Agent, spec: Spec, source: str, steps: int) -> None:
        self.action_dim, self.is_joint = spec.action_dim, source == "joint"
        if self.is_joint:
            field = VelocityField(spec.streams, spec.observation_dim, spec.action_dim, spec.offline.hidden)
            self.flow = Flow(field, "euler", steps)
            agent.add_module("own_flow", self.flow)
        elif spec.flow is None:
            raise FLPError(
                "an algorithm whose flow is 'pretrained' needs a section of its own in flp/params/baselines.py that "
                "says so (flow: pretrained), for the flow to be its input"
            )
        else:
            self.flow = spec.flow.freeze()
            agent.add_module("flow", self.flow)

    def trained(self) -> list[nn.Parameter]:
        """The parameters to be trained; none of the shared flow's."""
        return list(self.flow.parameters()) if self.is_joint else []

    def decode(self, observations: Tensor, z: Tensor) -> Tensor:
        """f(s, z) `[R, B, a]` in [-1, 1] of latents `[R, B, a]`."""
        return self.flow.decode(observations, z)

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """`x_0` ~ N(0, I) `[updates, R, B, a]` and `t` ~ U[0, 1) `[updates, R, B, 1]`; nothing for the shared flow."""
        if not self.is_joint:
            return {}
        x_0 = streams.normal(updates, batch_size, self.action_dim).transpose(0, 1)
        return {"x_0": x_0, "t": streams.uniform(updates, batch_size, 1).transpose(0, 1)}

    def loss(self, batch: Batch, noise: dict[str, Tensor]) -> Tensor:
        """Flow matching, Eq. 3, per run `[R]`; zero for the shared flow."""
        if not self.is_joint:
            return torch.zeros_like(batch["rewards"][:, 0])
        field = self.flow.field
        return flow_matching_loss(field, batch["observations"], batch["actions"], noise["x_0"], noise["t"])

"""The velocity field v_ω(s, x, t) and the loss it is fitted by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flp.learner.nets import MLP
from flp.randomness.streams import RunStreams


class VelocityField(nn.Module):
    """v_ω(s, x, t), one per run, on the concatenation [s, x, t] (FQL, ActorVectorField)."""

    def __init__(self, streams: RunStreams, observation_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.net = MLP(streams, observation_dim + action_dim + 1, hidden, action_dim)

    def forward(self, observations: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Map `[R, B, o]`, `[R, B, a]` and times `[R, B, 1]` to velocities `[R, B, a]`."""
        velocity: Tensor = self.net(torch.cat([observations, x, t], -1))
        return velocity.squeeze(1)


def flow_matching_loss(field: VelocityField, observations: Tensor, actions: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Eq. 3 with the linear path x_t = (1 − t) x_0 + t x_1, per run: `[R]`.

    Args:
        observations: `[R, B, o]`.
        actions: x_1, `[R, B, a]`.
        noise: x_0 ~ N(0, I), `[R, B, a]`.
        t: uniform in [0, 1), `[R, B, 1]`.
    """
    x_t = torch.lerp(noise, actions, t)
    velocity = field(observations, x_t, t)
    # FQL averages over the action dimensions too; the paper's norm is this times the dimension.
    loss: Tensor = (velocity - (actions - noise)).square().mean((1, 2))
    return loss

"""The velocity field v_ω(s, x, t) and its flow-matching loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flp.networks.mlp import MLP
from flp.randomness.streams import RunStreams


class VelocityField(nn.Module):
    """v_ω(s, x, t), one per run, on the concatenation [s, x, t] (FQL, ActorVectorField), or on [e(s), x, t].

    The state is the same at every solver step, so that its encoding e(s) is computed once.

    Args:
        streams: the runs' random streams.
        observation_dim: o.
        action_dim: a.
        hidden: widths of the hidden layers.
        encoder: widths of e's layers, each followed by an activation; if empty, e(s) = s.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        streams: RunStreams,
        observation_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        encoder: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.encoder = MLP(streams, observation_dim, encoder[:-1], encoder[-1]) if encoder else None
        features = encoder[-1] if encoder else observation_dim
        self.net = MLP(streams, features + action_dim + 1, hidden, action_dim)

    @property
    def first(self) -> MLP:
        """The network that sees observations."""
        return self.net if self.encoder is None else self.encoder

    def encode(self, observations: Tensor) -> Tensor:
        """e(s), `[R, B, features]`."""
        if self.encoder is None:
            return observations
        return self.encoder.activate(self.encoder(observations).squeeze(1))

    def velocity(self, features: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Map e(s) `[R, B, features]`, `[R, B, a]` and times `[R, B, 1]` to velocities `[R, B, a]`."""
        return self.net(torch.cat([features, x, t], -1)).squeeze(1)

    def forward(self, observations: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Map `[R, B, o]`, `[R, B, a]` and times `[R, B, 1]` to velocities `[R, B, a]`."""
        return self.velocity(self.encode(observations), x, t)


def flow_matching_loss(field: VelocityField, observations: Tensor, actions: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Eq. 3, ‖v_ω(s, x_t, t) − (x_1 − x_0)‖² with x_t = (1 − t) x_0 + t x_1, mean over batch and a, per run `[R]`.

    Args:
        observations: `[R, B, o]`.
        actions: x_1, `[R, B, a]`.
        noise: x_0 ~ N(0, I), `[R, K·B, a]`: K draws for each transition, one batch after the other.
        t: uniform in [0, 1), `[R, K·B, 1]`.
    """
    features = field.encode(observations)
    if (draws := noise.shape[1] // actions.shape[1]) > 1:
        features, actions = features.repeat(1, draws, 1), actions.repeat(1, draws, 1)
    velocity = field.velocity(features, torch.lerp(noise, actions, t), t)
    # As FQL does, it averages over the action dimensions; the paper's norm is this times the dimension.
    return (velocity - (actions - noise)).square().mean((1, 2))

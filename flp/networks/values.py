"""Action values and state values, one network or ensemble per run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flp.networks.mlp import MLP
from flp.randomness.streams import RunStreams


class Critic(nn.Module):
    """An ensemble of E action values Q_φ(s, a), per run.

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        action_dim: width of a.
        hidden: widths of the hidden layers.
        members: E.
        options: keyword arguments of `network`.
    """

    network: type[MLP] = MLP
    __call__: Callable[..., Tensor]

    def __init__(
        self,
        streams: RunStreams,
        observation_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        *,
        members: int,
        **options: bool,
    ) -> None:
        super().__init__()
        self.net = self.network(streams, observation_dim + action_dim, hidden, 1, members=members, **options)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Map `[R, B, o]` and `[R, B, a]` to `[R, E, B]`."""
        return self.net(torch.cat([observations, actions], -1)).squeeze(-1)


class Value(nn.Module):
    """State values V(s), one network per run.

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        hidden: widths of the hidden layers.
        options: keyword arguments of `network`.
    """

    network: type[MLP] = MLP
    __call__: Callable[..., Tensor]

    def __init__(self, streams: RunStreams, observation_dim: int, hidden: Sequence[int], **options: bool) -> None:
        super().__init__()
        self.net = self.network(streams, observation_dim, hidden, 1, **options)

    def forward(self, observations: Tensor) -> Tensor:
        """Map `[R, B, o]` to `[R, B]`."""
        return self.net(observations)[:, 0, :, 0]


def aggregate(values: Tensor, how: str) -> Tensor:
    """Reduce an ensemble's `[R, E, ...]` to `[R, ...]`: "mean", "min", or "lower_bound", mean − standard deviation."""
    if how == "lower_bound":
        # A root's slope at 0, where all members agree, is infinite.
        return values.mean(1) - (values.var(1, correction=0) + 1e-12).sqrt()
    return values.amin(1) if how == "min" else values.mean(1)


def magnitude(values: Tensor) -> Tensor:
    """Mean |Q| over the last dimension, by which losses are divided: above 0 even where a critic is 0 everywhere."""
    return values.detach().abs().mean(-1).clamp(min=1e-6)

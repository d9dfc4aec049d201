"""Multi-layer perceptrons, critics and values as in the codes of IDQL and Cal-QL: ReLU and no layer normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flp.learner.nets import _LAYER_NORM_EPSILON, MLP, Critic, Value, _head
from flp.randomness.streams import RunStreams


class RectifiedMLP(MLP):
    """R x E perceptrons with ReLU.

    Args:
        streams: the runs' random streams, for initialisation.
        inputs: width of the input.
        hidden: widths of the hidden layers.
        outputs: width of the output.
        members: E, the ensemble's size.
        normalize: normalise the input of every sample over its dimensions.
    """

    def __init__(
        self,
        streams: RunStreams,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        members: int = 1,
        normalize: bool = False,
    ) -> None:
        super().__init__(streams, inputs, hidden, outputs, members=members)
        self.normalize = normalize

    def forward(self, x: Tensor) -> Tensor:
        """Map `[runs, batch, inputs]` to `[runs, members, batch, outputs]`."""
        batch = x.shape[1]
        x = x.unsqueeze(1).expand(-1, self.members, -1, -1).reshape(self.runs * self.members, batch, -1)
        x = torch.addcmul(self.shift, x, self.scale)
        if self.normalize:
            x = F.layer_norm(x, x.shape[-1:], eps=_LAYER_NORM_EPSILON)
        for weight, bias in list(zip(self.weights, self.biases, strict=True))[:-1]:
            x = torch.baddbmm(bias, x, weight).relu()
        return _head(x, self.weights[-1], self.biases[-1]).view(self.runs, self.members, batch, -1)


class OrthogonalMLP(RectifiedMLP):
    """R x E perceptrons with ReLU whose weights start orthogonal, with a small head (JaxCQL, model.py)."""

    def __init__(
        self, streams: RunStreams, inputs: int, hidden: Sequence[int], outputs: int, *, members: int = 1
    ) -> None:
        super().__init__(streams, inputs, hidden, outputs, members=members)
        gains = [math.sqrt(2)] * len(hidden) + [0.01]
        with torch.no_grad():
            for weight, gain in zip(self.weights, gains, strict=True):
                weight.copy_(gain * orthogonal(streams, members, *weight.shape[1:]))


def orthogonal(streams: RunStreams, members: int, rows: int, columns: int) -> Tensor:
    """Random matrices `[R · members, rows, columns]`; their rows or columns, whichever are fewer, are orthonormal."""
    normal = streams.normal(members, max(rows, columns), min(rows, columns)).flatten(0, 1)
    q, r = torch.linalg.qr(normal.cpu())  # there, so that it is the same for every device
    matrices: Tensor = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).to(normal.device)
    return matrices if rows >= columns else matrices.mT


class RectifiedCritic(Critic):
    """An ensemble of Q_φ(s, a), per run."""

    def __init__(
        self, streams: RunStreams, observation_dim: int, action_dim: int, hidden: Sequence[int], *, members: int
    ) -> None:
        nn.Module.__init__(self)
        self.net = RectifiedMLP(streams, observation_dim + action_dim, hidden, 1, members=members)


class OrthogonalCritic(Critic):
    """An ensemble of Q_φ(s, a), per run, that starts near zero."""

    def __init__(
        self, streams: RunStreams, observation_dim: int, action_dim: int, hidden: Sequence[int], *, members: int
    ) -> None:
        nn.Module.__init__(self)
        self.net = OrthogonalMLP(streams, observation_dim + action_dim, hidden, 1, members=members)


class RectifiedValue(Value):
    """V(s), per run."""

    def __init__(self, streams: RunStreams, observation_dim: int, hidden: Sequence[int], *, normalize: bool) -> None:
        nn.Module.__init__(self)
        self.net = RectifiedMLP(streams, observation_dim, hidden, 1, normalize=normalize)

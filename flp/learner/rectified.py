"""Multi-layer perceptrons, critics and values as in the codes of IDQL and Cal-QL: ReLU and no layer normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flp.learner.nets import _LAYER_NORM_EPSILON, MLP, Critic, Value
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

    def shown(self, x: Tensor) -> Tensor:
        """The input as the first layer sees it."""
        x = super().shown(x)
        return F.layer_norm(x, x.shape[-1:], eps=_LAYER_NORM_EPSILON) if self.normalize else x

    def activate(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        return x.relu()


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

    network = RectifiedMLP


class OrthogonalCritic(Critic):
    """An ensemble of Q_φ(s, a), per run, that starts near zero."""

    network = OrthogonalMLP


class RectifiedValue(Value):
    """V(s), per run."""

    network = RectifiedMLP

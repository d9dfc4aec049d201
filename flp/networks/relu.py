"""ReLU perceptrons without layer normalisation, critics and values, as in the code of IDQL and Cal-QL."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flp.networks.layers import LAYER_NORM_EPSILON
from flp.networks.mlp import MLP
from flp.networks.values import Critic, Value
from flp.randomness.streams import RunStreams


class ReLUMLP(MLP):
    """R × E perceptrons with ReLU.

    Args:
        streams: the runs' random streams, for initialisation.
        inputs: width of the input.
        hidden: widths of the hidden layers.
        outputs: width of the output.
        members: E, the ensemble's size.
        normalize: apply layer normalisation to the input.
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

    def standardized(self, x: Tensor) -> Tensor:
        """The input of the first layer: standardised, then normalised over its dimensions if asked for."""
        x = super().standardized(x)
        return F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPSILON) if self.normalize else x

    def activate(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        return x.relu()


class OrthogonalMLP(ReLUMLP):
    """R × E perceptrons with ReLU, orthogonal initial weights and a small head (JaxCQL, model.py)."""

    def __init__(
        self, streams: RunStreams, inputs: int, hidden: Sequence[int], outputs: int, *, members: int = 1
    ) -> None:
        super().__init__(streams, inputs, hidden, outputs, members=members)
        gains = [math.sqrt(2)] * len(hidden) + [0.01]
        with torch.no_grad():
            for weight, gain in zip(self.weights, gains, strict=True):
                weight.copy_(gain * orthogonal(streams, members, *weight.shape[1:]))


def orthogonal(streams: RunStreams, members: int, rows: int, columns: int) -> Tensor:
    """Random matrices `[R · members, rows, columns]` whose rows or columns, whichever are fewer, are orthonormal."""
    normal = streams.normal(members, max(rows, columns), min(rows, columns)).flatten(0, 1)
    q, r = torch.linalg.qr(normal.cpu())  # on the CPU, so that every device starts from the same weights
    matrices: Tensor = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).to(normal.device)
    return matrices if rows >= columns else matrices.mT


class ReLUCritic(Critic):
    """An ensemble of Q_φ(s, a), per run."""

    network = ReLUMLP


class OrthogonalCritic(Critic):
    """An ensemble of Q_φ(s, a), per run, that starts near zero."""

    network = OrthogonalMLP


class ReLUValue(Value):
    """V(s), per run."""

    network = ReLUMLP

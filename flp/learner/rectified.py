"""Multi-layer perceptrons, critics and values as the code of IDQL has them: ReLU and no layer normalisation inside."""

from __future__ import annotations

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


class RectifiedCritic(Critic):
    """An ensemble of Q_φ(s, a), per run."""

    def __init__(
        self, streams: RunStreams, observation_dim: int, action_dim: int, hidden: Sequence[int], *, members: int
    ) -> None:
        nn.Module.__init__(self)
        self.net = RectifiedMLP(streams, observation_dim + action_dim, hidden, 1, members=members)


class RectifiedValue(Value):
    """V(s), per run."""

    def __init__(self, streams: RunStreams, observation_dim: int, hidden: Sequence[int], *, normalize: bool) -> None:
        nn.Module.__init__(self)
        self.net = RectifiedMLP(streams, observation_dim, hidden, 1, normalize=normalize)

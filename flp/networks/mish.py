"""The networks of Consistency-AC: Mish, and PyTorch's default initialisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flp.networks.denoiser import Dense
from flp.networks.mlp import MLP
from flp.networks.values import Critic
from flp.randomness.streams import RunStreams

_LONGEST = 10000.0  # longest wavelength of the sinusoids, over 2π


@torch.no_grad()
def initialize_as_torch(streams: RunStreams, weight: Tensor, bias: Tensor) -> None:
    """Weights and biases uniform within ±1/√inputs."""
    for tensor in (weight, bias):
        drawn = streams.uniform(len(tensor) // len(streams), *tensor.shape[1:]).flatten(0, 1)
        tensor.copy_((2 * drawn - 1) / math.sqrt(weight.shape[1]))


class MishMLP(MLP):
    """R × E perceptrons with Mish and without normalisation."""

    def __init__(
        self, streams: RunStreams, inputs: int, hidden: Sequence[int], outputs: int, *, members: int = 1
    ) -> None:
        super().__init__(streams, inputs, hidden, outputs, members=members)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            initialize_as_torch(streams, weight, bias)

    def activate(self, x: Tensor) -> Tensor:
        """x · tanh(log(1 + e^x))."""
        return F.mish(x)


class MishCritic(Critic):
    """An ensemble of Q_φ(s, a), per run."""

    network = MishMLP


class MishTime(nn.Module):
    """Time embedding: sinusoids through two layers; not an `MLP`, because it sees no observation (`standardize`)."""

    def __init__(self, streams: RunStreams, width: int) -> None:
        super().__init__()
        frequencies = [_LONGEST ** (-i / (width // 2 - 1)) for i in range(width // 2)]
        self.frequencies: Tensor  # not saved: a constant
        self.register_buffer("frequencies", torch.tensor(frequencies, device=streams.device), persistent=False)
        self.inner, self.outer = Dense(streams, width, 2 * width), Dense(streams, 2 * width, width)
        for layer in (self.inner, self.outer):
            initialize_as_torch(streams, layer.weight, layer.bias)

    def forward(self, t: Tensor) -> Tensor:
        """Map times `[R, B, 1]` to `[R, B, width]`."""
        phases = t * self.frequencies
        out: Tensor = self.outer(F.mish(self.inner(torch.cat([phases.sin(), phases.cos()], -1))))
        return out

"""Multi-layer perceptrons with a leading run axis: R (x E) networks trained as one.

Sizes, activation and initialisation are FQL's (utils/networks.py): GELU with the tanh approximation, layer
normalisation after the activation with epsilon 1e-6, Glorot-uniform weights, zero biases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flp.randomness.streams import RunStreams

_GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715 * _GELU_LINEAR
_LAYER_NORM_EPSILON = 1e-6  # Flax's default; PyTorch's is 1e-5.


class MLP(nn.Module):
    """R independent ensembles of E multi-layer perceptrons, one batched matrix product per layer.

    Args:
        streams: the runs' random streams; run r's weights depend on its own stream alone.
        inputs: width of the input.
        hidden: widths of the hidden layers.
        outputs: width of the output.
        members: E, the ensemble's size.
        layer_norm: normalise after each activation.
        zero_head: start the last layer at zero, so that the output is zero.
    """

    def __init__(
        self,
        streams: RunStreams,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        members: int = 1,
        layer_norm: bool = False,
        zero_head: bool = False,
    ) -> None:
        super().__init__()
        self.runs, self.members, self.layer_norm = len(streams), members, layer_norm
        self.shift: Tensor
        self.scale: Tensor
        widths = [inputs, *hidden, outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.scales, self.shifts = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(widths):
            limit = math.sqrt(6 / (fan_in + fan_out))
            weight = (2 * streams.uniform(members, fan_in, fan_out) - 1) * limit
            self.weights.append(nn.Parameter(weight.flatten(0, 1)))
            self.biases.append(nn.Parameter(weight.new_zeros(self.runs * members, 1, fan_out)))
        if zero_head:
            nn.init.zeros_(self.weights[-1])
        # Observations come first in every input; see `standardize`.
        self.register_buffer("shift", torch.zeros(self.runs * members, 1, inputs, device=streams.device))
        self.register_buffer("scale", torch.ones(self.runs * members, 1, inputs, device=streams.device))
        if layer_norm:
            for width in hidden:
                self.scales.append(nn.Parameter(torch.ones(self.runs * members, 1, width, device=streams.device)))
                self.shifts.append(nn.Parameter(torch.zeros(self.runs * members, 1, width, device=streams.device)))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[runs, batch, inputs]` to `[runs, members, batch, outputs]`."""
        batch = x.shape[1]
        x = x.unsqueeze(1).expand(-1, self.members, -1, -1).reshape(self.runs * self.members, batch, -1)
        x = self.shown(x)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i == last:
                x = _head(x, weight, bias)
                break
            x = self.activate(_affine(x, weight, bias))
            if self.layer_norm:
                x = F.layer_norm(x, x.shape[-1:], eps=_LAYER_NORM_EPSILON)
                x = torch.addcmul(self.shifts[i], x, self.scales[i])
        return x.view(self.runs, self.members, batch, -1)

    def shown(self, x: Tensor) -> Tensor:
        """The input as the first layer sees it."""
        return torch.addcmul(self.shift, x, self.scale)

    def activate(self, x: Tensor) -> Tensor:
        """What every hidden layer ends with; x may be overwritten where no gradient needs it."""
        return _gelu(x)


def _head(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The last layer, always in float32: bfloat16 has three digits, too few for values in the hundreds."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return _affine(x, weight, bias)
    with torch.autocast(device, enabled=False):
        return _affine(x.float(), weight, bias)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x · weight + bias for every network; to a single output on a CPU, batched matrix products take five times as
    long as adding up."""
    if weight.shape[-1] == 1 and not x.is_cuda:
        return (x * weight.mT).sum(-1, keepdim=True) + bias
    return torch.baddbmm(bias, x, weight)


def _gelu(x: Tensor) -> Tensor:
    """GELU's tanh approximation; x is overwritten where no gradient needs it.

    ½x(1 + tanh u) = x·sigmoid(2u) with u = √(2/π)(x + 0.044715x³): on a CPU PyTorch's sigmoid takes a fraction
    of its tanh's time, and compiled code fuses it with its neighbours.
    """
    if torch.compiler.is_dynamo_compiling():
        return x * torch.sigmoid(x * (_GELU_LINEAR + _GELU_CUBIC * x.square()))
    if x.is_cuda or torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    gate = x.square().mul_(_GELU_CUBIC).add_(_GELU_LINEAR).mul_(x).sigmoid_()
    return gate.mul_(x)


class Critic(nn.Module):
    """An ensemble of action values Q_φ(s, z), per run; `options` are those of its kind of network."""

    network: type[MLP] = MLP

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
        """Map `[R, B, o]` and `[R, B, a]` to `[R, members, B]`."""
        values: Tensor = self.net(torch.cat([observations, actions], -1))
        return values.squeeze(-1)


class Value(nn.Module):
    """State values V(s), per run; `options` are those of its kind of network."""

    network: type[MLP] = MLP

    def __init__(self, streams: RunStreams, observation_dim: int, hidden: Sequence[int], **options: bool) -> None:
        super().__init__()
        self.net = self.network(streams, observation_dim, hidden, 1, **options)

    def forward(self, observations: Tensor) -> Tensor:
        """Map `[R, B, o]` to `[R, B]`."""
        values: Tensor = self.net(observations)
        return values[:, 0, :, 0]


def standardize(module: nn.Module, mean: Tensor, std: Tensor, scale: float, skip: nn.Module | None = None) -> None:
    """Let all networks in a module, except those in `skip`, see observations as scale · (s − mean) / std.

    A network starts with zero biases and small weights: on raw coordinates all its kinks meet in the origin, and
    on coordinates of unit size it is so smooth that values leak through the walls of a maze. A scale above 1
    lets it tell nearby states apart early. Mean and standard deviation are `[o]`.
    """
    skipped = set(skip.modules()) if skip is not None else set()
    for net in module.modules():
        if isinstance(net, MLP) and net not in skipped:
            net.scale[..., : len(std)] = scale / std
            net.shift[..., : len(std)] = -scale * mean / std


def aggregate(values: Tensor, how: str) -> Tensor:
    """Reduce an ensemble's `[R, members, ...]` to `[R, ...]` by "mean" or "min"."""
    return values.amin(1) if how == "min" else values.mean(1)


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float | Tensor) -> None:
    """Move the target's parameters towards the source's: target ← target + rate · (source − target).

    A rate that changes is a tensor without dimension, so that captured updates know it.
    """
    if isinstance(rate, Tensor):
        for t, s in zip(target.parameters(), source.parameters(), strict=True):
            t.lerp_(s, rate)
    else:
        torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)

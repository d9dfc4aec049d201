"""Multi-layer perceptrons with a leading run axis: R × E networks trained as one.

Activation, normalisation and initialisation are FQL's (utils/networks.py): GELU, layer normalisation after the
activation, Glorot-uniform weights, zero biases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from flp.networks.backprop import perceptrons
from flp.networks.layers import gelu, head, is_plain, layer_norm, linear
from flp.randomness.streams import RunStreams


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

    __call__: Callable[..., Tensor]

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
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.scales, self.shifts = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise([inputs, *hidden, outputs]):
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
        """Map `[R, batch, inputs]` to `[R, E, batch, outputs]`."""
        shape = (self.runs, self.members, x.shape[1], -1)
        if self.members > 1:
            x = x.unsqueeze(1).expand(-1, self.members, -1, -1).flatten(0, 1)
        x = self.standardized(x)
        weights, biases, scales, shifts = map(_tensors, (self.weights, self.biases, self.scales, self.shifts))
        if torch.is_grad_enabled() and type(self).activate is MLP.activate and is_plain(x):
            return perceptrons(x, weights, biases, scales, shifts).view(shape)
        for i, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            x = self.activate(linear(x, weight, bias))
            if scales:
                x = torch.addcmul(shifts[i], layer_norm(x), scales[i])
        return head(x, weights[-1], biases[-1]).view(shape)

    def standardized(self, x: Tensor) -> Tensor:
        """The input of the first layer: x with its observations standardised."""
        return torch.addcmul(self.shift, x, self.scale)

    def activate(self, x: Tensor) -> Tensor:
        """The activation of every hidden layer; x may be overwritten when no gradient is needed."""
        return gelu(x)


def _tensors(parameters: nn.ParameterList) -> list[Tensor]:
    """The list's parameters: its own iteration takes several times as long."""
    return [parameter for parameter in parameters._parameters.values() if parameter is not None]


def standardize(module: nn.Module, mean: Tensor, std: Tensor, scale: float, skip: nn.Module | None = None) -> None:
    """Make all perceptrons in a module, except those in `skip`, see observations as scale · (s − mean) / std.

    A network starts with zero biases and small weights: on raw coordinates all its kinks meet at the origin, and
    on coordinates of unit variance it is so smooth that values leak through the walls of a maze. A scale above 1
    lets it distinguish nearby states early. Mean and standard deviation are `[o]`.
    """
    skipped = set(skip.modules()) if skip is not None else set()
    for net in module.modules():
        if isinstance(net, MLP) and net not in skipped:
            net.scale[..., : len(std)] = scale / std
            net.shift[..., : len(std)] = -scale * mean / std

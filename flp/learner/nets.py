"""Multi-layer perceptrons with a leading run axis: R (x E) networks trained as one.

Sizes, activation and initialisation are FQL's (utils/networks.py): GELU with the tanh approximation, layer
normalisation after the activation with epsilon 1e-6, Glorot-uniform weights, zero biases. That approximation is
x·σ(2u) with 2u = x(a + bx²): from x and σ its slope follows without an exponential.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flp.learner.products import affine, product
from flp.randomness.streams import RunStreams

_GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715 * _GELU_LINEAR
_LAYER_NORM_EPSILON = 1e-6  # Flax's default; PyTorch's is 1e-5.
_LINEAR = torch.tensor(_GELU_LINEAR, dtype=torch.float64)  # of no dimension: it takes the others' type
_NARROW = 16  # columns
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


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
        shape = (self.runs, self.members, x.shape[1], -1)
        if self.members > 1:
            x = x.unsqueeze(1).expand(-1, self.members, -1, -1).flatten(0, 1)
        x = self.shown(x)
        weights, biases, scales, shifts = map(_tensors, (self.weights, self.biases, self.scales, self.shifts))
        if torch.is_grad_enabled() and type(self).activate is MLP.activate and _is_plain(x):
            parameters = (*weights, *biases, *scales, *shifts)
            out: Tensor = _Backpropagation.apply(x, len(weights), *parameters)  # type: ignore[no-untyped-call]
            return out.view(shape)
        for i, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            x = self.activate(_affine(x, weight, bias))
            if scales:
                normal = _normalized(x)[0] if _is_plain(x) else F.layer_norm(x, x.shape[-1:], eps=_LAYER_NORM_EPSILON)
                x = torch.addcmul(shifts[i], normal, scales[i])
        return _head(x, weights[-1], biases[-1]).view(shape)

    def shown(self, x: Tensor) -> Tensor:
        """The input as the first layer sees it."""
        return torch.addcmul(self.shift, x, self.scale)

    def activate(self, x: Tensor) -> Tensor:
        """What every hidden layer ends with; x may be overwritten where no gradient needs it."""
        return _gelu(x)


def _tensors(parameters: nn.ParameterList) -> list[Tensor]:
    """The list's parameters: its own iteration takes several times as long."""
    return [parameter for parameter in parameters._parameters.values() if parameter is not None]


def _is_plain(x: Tensor) -> bool:
    """Whether it pays to choose operations by hand: on a CPU, in one type of numbers, where no compiler does."""
    compiling = torch.compiler.is_dynamo_compiling()
    return not (x.is_cuda or compiling or torch.is_autocast_enabled(x.device.type))


def _head(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The last layer, always in float32: bfloat16 has three digits, too few for values in the hundreds."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return _affine(x, weight, bias)
    with torch.autocast(device, enabled=False):
        return _affine(x.float(), weight, bias)


def _gelu(x: Tensor) -> Tensor:
    """GELU's tanh approximation."""
    if torch.compiler.is_dynamo_compiling():  # which fuses this with its neighbours
        return x * torch.sigmoid(x * (_GELU_LINEAR + _GELU_CUBIC * x.square()))
    if x.is_cuda or torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    return _gate(x).mul_(x)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x · weight + bias for every network.

    On a CPU a batched matrix product with a single column takes five times as long as adding up, and one with a few
    columns up to three times as long as where these lie one after the other.
    """
    if weight.shape[-1] == 1 and not x.is_cuda:
        return (x * weight.mT).sum(-1, keepdim=True) + bias
    if weight.shape[-1] < _NARROW and not x.is_cuda:
        weight = weight.mT.contiguous().mT
    return affine(x, weight, bias)


def _gate(x: Tensor) -> Tensor:
    """σ(2u)."""
    return torch.addcmul(_LINEAR, x, x, value=_GELU_CUBIC).mul_(x).sigmoid_()


def _normalized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layer normalisation without scale and shift; the means and inverse deviations it took."""
    # Scaled by 1 and shifted by 0 it takes two thirds of the time that it takes without, to the same numbers.
    one = x.new_ones(x.shape[-1])
    return torch.native_layer_norm(x, one.shape, one, torch.zeros_like(one), _LAYER_NORM_EPSILON)


class _Backpropagation(torch.autograd.Function):
    """MLPs with GELU side by side: `apply(input, layers, *weights, *biases, *scales, *shifts)`.

    Scales and shifts are of layer normalisation, one each after every hidden layer or none at all.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: int, *parameters: Tensor) -> Tensor:
        """Map `[networks, batch, inputs]` to `[networks, batch, outputs]`."""
        weights, biases = parameters[:layers], parameters[layers : 2 * layers]
        scales, shifts = parameters[2 * layers : 3 * layers - 1], parameters[3 * layers - 1 :]
        kept = []
        for i in range(layers - 1):
            before = _affine(x, weights[i], biases[i])
            kept += [x, before, _gate(before)]
            x = before * kept[-1]
            if scales:
                kept += [x, *_normalized(x)]
                x = torch.addcmul(shifts[i], kept[-3], scales[i])
        ctx.save_for_backward(*weights, *scales, *kept, x)
        ctx.layers, ctx.scaled, ctx.count = layers, len(scales) > 0, len(parameters)
        return _affine(x, weights[-1], biases[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that are asked for: of the input, of the parameters, or of both."""
        layers, hidden = ctx.layers, ctx.layers - 1
        nodes = [node for node, _ in ctx.next_functions]
        of_input, of_parameters = _is_asked_for(nodes[0]), any(map(_is_asked_for, nodes[1:]))
        weights = ctx.saved_tensors[:layers]
        scales = ctx.saved_tensors[layers : layers + hidden * ctx.scaled]
        kept = list(ctx.saved_tensors[layers + len(scales) :])
        found: dict[str, list[Tensor]] = {"weights": [], "biases": [], "scales": [], "shifts": []}
        x = kept.pop()
        for i in reversed(range(layers)):
            if i < hidden:
                out = x
                if ctx.scaled:
                    out, normal, mean, deviation = kept[-4:]
                    del kept[-4:]
                    if of_parameters:
                        found["scales"].append((g * normal).sum(1, keepdim=True))
                        found["shifts"].append(g.sum(1, keepdim=True))
                    g, width, mask = g.mul_(scales[i]), out.shape[-1:], [True, False, False]
                    g, _, _ = _layer_norm_backward(g, out, width, mean, deviation, None, None, mask)
                x, before, open_ = kept[-3:]
                del kept[-3:]
                g = g.mul_(_slope(before, open_, out))
            if of_parameters:
                is_narrow = g.shape[-1] < _NARROW
                found["weights"].append(torch.bmm(g.mT, x).mT.contiguous() if is_narrow else product(x.mT, g))
                found["biases"].append(g.sum(1, keepdim=True))
            if i > 0 or of_input:
                g = g * weights[i].mT if g.shape[-1] == 1 else product(g, weights[i].mT)
        computed: list[Tensor | None] = [tensor for tensors in found.values() for tensor in reversed(tensors)]
        return (g if of_input else None, None, *(computed or [None] * ctx.count))


def _is_asked_for(node: Any) -> bool:
    """Whether a node of the graph that is being walked waits for its gradient."""
    try:
        return node is not None and torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a parameter whose gradient `torch.autograd.grad` collects
        return True


def _slope(x: Tensor, gate: Tensor, out: Tensor) -> Tensor:
    """GELU's slope, σ + x σ (1 − σ) (a + 3bx²), from x, σ and xσ."""
    steep = torch.addcmul(_LINEAR, x, x, value=3 * _GELU_CUBIC)
    bell = torch.addcmul(out, out, gate, value=-1)
    return torch.addcmul(gate, bell, steep, out=bell)


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

"""Backpropagation through GELU perceptrons, written out: faster on a CPU than PyTorch's automatic differentiation.

A hidden layer is u = x W + b, y = u σ(h(u)) (see `operations`) and, with layer normalisation, n = (y − μ) / s and
c n + d, which is the next layer's x. Backwards, with g the gradient of the layer's output:

    c: Σ g n,   d: Σ g,   g ← ∂n/∂y · c g;   g ← ∂y/∂u · g;   W: xᵀ g,   b: Σ g,   g ← g Wᵀ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flp.networks.layers import NARROW, gelu_derivative, gelu_gate, linear, normalize, normalize_backward
from flp.networks.products import product


def perceptrons(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], scales: Sequence[Tensor], shifts: Sequence[Tensor]
) -> Tensor:
    """N GELU perceptrons side by side, `[N, batch, inputs]` to `[N, batch, outputs]`.

    Args:
        x: the input.
        weights: W of every layer, `[N, fan_in, fan_out]`.
        biases: b of every layer, `[N, 1, fan_out]`.
        scales: c of every hidden layer's normalisation, `[N, 1, width]`; empty without normalisation.
        shifts: d, likewise.
    """
    parameters = (*weights, *biases, *scales, *shifts)
    out: Tensor = _Perceptrons.apply(x, len(weights), *parameters)  # type: ignore[no-untyped-call]
    return out


class _Hidden(NamedTuple):
    """What the forward pass of a hidden layer leaves for the backward pass."""

    x: Tensor
    u: Tensor
    gate: Tensor
    y: Tensor
    normal: Tensor | None = None
    mean: Tensor | None = None
    inverse_std: Tensor | None = None


class _Perceptrons(torch.autograd.Function):
    """`apply(x, layers, *weights, *biases, *scales, *shifts)`, see `perceptrons`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: int, *parameters: Tensor) -> Tensor:
        """Map `[N, batch, inputs]` to `[N, batch, outputs]`."""
        weights, biases = parameters[:layers], parameters[layers : 2 * layers]
        scales, shifts = parameters[2 * layers : 3 * layers - 1], parameters[3 * layers - 1 :]
        saved: list[Tensor | None] = []
        for i in range(layers - 1):
            u = linear(x, weights[i], biases[i])
            gate = gelu_gate(u)
            y = u * gate
            if scales:
                hidden = _Hidden(x, u, gate, y, *normalize(y))
                x = torch.addcmul(shifts[i], hidden.normal, scales[i])  # type: ignore[arg-type]
            else:
                hidden = _Hidden(x, u, gate, y)
                x = y
            saved += hidden
        ctx.save_for_backward(x, *weights, *scales, *saved)
        ctx.layers, ctx.scales, ctx.parameters = layers, len(scales), len(parameters)
        return linear(x, weights[-1], biases[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that are asked for: of the input, of the parameters, or of both."""
        nodes = [node for node, _ in ctx.next_functions]
        of_input, of_parameters = _is_asked_for(nodes[0]), any(map(_is_asked_for, nodes[1:]))
        x, weights, scales, hidden = _unpack(ctx)
        d_weights, d_biases, d_scales, d_shifts = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
        for i in reversed(range(len(weights))):
            if i < len(hidden):
                layer = hidden[i]
                if scales:
                    if of_parameters:
                        d_scales.append((g * layer.normal).sum(1, keepdim=True))
                        d_shifts.append(g.sum(1, keepdim=True))
                    g = normalize_backward(g.mul_(scales[i]), layer.y, layer.mean, layer.inverse_std)
                g = g.mul_(gelu_derivative(layer.u, layer.gate, layer.y))
                x = layer.x
            if of_parameters:
                d_weights.append(_weight_gradient(x, g))
                d_biases.append(g.sum(1, keepdim=True))
            if i > 0 or of_input:
                g = _input_gradient(weights[i], g)
        gradients = [gradient for kind in (d_weights, d_biases, d_scales, d_shifts) for gradient in reversed(kind)]
        return (g if of_input else None, None, *(gradients if of_parameters else [None] * ctx.parameters))


def _unpack(ctx: Any) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor], list[Any]]:
    """The head's input, weights, scales, and a `_Hidden` for every hidden layer."""
    x, *saved = ctx.saved_tensors
    start, width = ctx.layers + ctx.scales, len(_Hidden._fields)
    hidden = [_Hidden(*saved[i : i + width]) for i in range(start, len(saved), width)]
    return x, saved[: ctx.layers], saved[ctx.layers : start], hidden


def _weight_gradient(x: Tensor, g: Tensor) -> Tensor:
    """xᵀ g."""
    return torch.bmm(g.mT, x).mT.contiguous() if g.shape[-1] < NARROW else product(x.mT, g)


def _input_gradient(weight: Tensor, g: Tensor) -> Tensor:
    """g Wᵀ."""
    return g * weight.mT if g.shape[-1] == 1 else product(g, weight.mT)


def _is_asked_for(node: Any) -> bool:
    """Whether the backward pass under way needs a node's gradient."""
    try:
        return node is not None and torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a parameter whose gradient `torch.autograd.grad` collects
        return True

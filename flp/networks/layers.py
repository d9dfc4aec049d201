"""The operations of a layer, each by whichever kernel is fastest where it runs.

Activation and normalisation are FQL's (utils/networks.py): GELU in its tanh approximation, and layer normalisation
with epsilon 1e-6. The approximation is x · σ(h(x)) with h(x) = x (a + b x²), a = 2 √(2/π) and b = 0.044715 a.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flp.networks.products import affine

LAYER_NORM_EPSILON = 1e-6  # Flax's default; PyTorch's is 1e-5
NARROW = 16  # output columns below which a CPU multiplies faster by other means

_A = 2 * math.sqrt(2 / math.pi)
_B = 0.044715 * _A
_A_SCALAR = torch.tensor(_A, dtype=torch.float64)  # 0-d, so that it takes the type of the tensor it is added to
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


def is_plain(x: Tensor) -> bool:
    """Whether kernels are worth choosing by hand: on a CPU, in one dtype, without a compiler."""
    compiling = torch.compiler.is_dynamo_compiling()
    return not (x.is_cuda or compiling or torch.is_autocast_enabled(x.device.type))


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W + b of every network: `[N, B, i]`, `[N, i, o]` and `[N, 1, o]` to `[N, B, o]`.

    On a CPU a batched matrix product with a single column takes five times as long as a sum of products, and one with
    a few columns up to three times as long as with columns that are contiguous.
    """
    if weight.shape[-1] == 1 and not x.is_cuda:
        return (x * weight.mT).sum(-1, keepdim=True) + bias
    if weight.shape[-1] < NARROW and not x.is_cuda:
        weight = weight.mT.contiguous().mT
    return affine(x, weight, bias)


def head(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The last layer, always in float32: bfloat16 has three digits, too few for values in the hundreds."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return linear(x, weight, bias)
    with torch.autocast(device, enabled=False):
        return linear(x.float(), weight, bias)


def gelu(x: Tensor) -> Tensor:
    """x · σ(h(x)); x may be overwritten when no gradient is needed."""
    if torch.compiler.is_dynamo_compiling():  # which fuses this with its neighbours
        return x * torch.sigmoid(x * (_A + _B * x.square()))
    if x.is_cuda or torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    return gelu_gate(x).mul_(x)


def gelu_gate(x: Tensor) -> Tensor:
    """σ(h(x))."""
    return torch.addcmul(_A_SCALAR, x, x, value=_B).mul_(x).sigmoid_()


def gelu_derivative(x: Tensor, gate: Tensor, out: Tensor) -> Tensor:
    """g + x g (1 − g) h′(x) with h′(x) = a + 3 b x², from x, the gate g = σ(h(x)) and out = x g: no exponential."""
    h_derivative = torch.addcmul(_A_SCALAR, x, x, value=3 * _B)
    bell = torch.addcmul(out, out, gate, value=-1)  # x g (1 − g)
    return torch.addcmul(gate, bell, h_derivative, out=bell)


def layer_norm(x: Tensor) -> Tensor:
    """Layer normalisation over the last axis, without scale and shift."""
    return normalize(x)[0] if is_plain(x) else F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPSILON)


def normalize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layer normalisation over the last axis, the means, and the inverse standard deviations."""
    # With a scale of 1 and a shift of 0 the kernel takes two thirds of the time it takes without, for equal numbers.
    one = x.new_ones(x.shape[-1])
    return torch.native_layer_norm(x, one.shape, one, torch.zeros_like(one), LAYER_NORM_EPSILON)


def normalize_backward(g: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor) -> Tensor:
    """The gradient of `normalize` in x, given that g of its output."""
    mask = [True, False, False]
    gradient: Tensor = _layer_norm_backward(g, x, x.shape[-1:], mean, inverse_std, None, None, mask)[0]
    return gradient

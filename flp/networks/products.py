"""Matrix products of networks side by side, by the faster of PyTorch's libraries.

In float32 PyTorch's builds call MKL, which does not use AVX-512 on AMD processors. oneDNN, which PyTorch ships for
other dtypes, does, and takes half the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_NARROW, _SMALL = 32, 2_000_000  # rows or columns, and multiplications, below which oneDNN gains nothing


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W + b of every network: `[N, B, i]`, `[N, i, o]` and `[N, 1, o]` to `[N, B, o]`."""
    if not _pays(x, weight):
        return torch.baddbmm(bias, x, weight)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad):
        out: Tensor = _Affine.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return out
    return _each(x, weight, bias)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b of every network, not differentiable: `[N, m, k]` and `[N, k, n]` to `[N, m, n]`."""
    return _each(a, b) if _pays(a, b) else torch.bmm(a, b)


def _pays(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN multiplies: decided by machine and sizes alone, so that equal calls give equal results."""
    if not _PREFERRED or torch.compiler.is_exporting():  # an exported file is for any machine and any batch size
        return False
    rows, inner, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    return (
        min(rows, columns) >= _NARROW
        and rows * inner * columns >= _SMALL
        and a.device.type == "cpu"
        and a.dtype == b.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


def _prefers() -> bool:
    """Whether this processor has AVX-512 that MKL does not use."""
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return False
    has_both = torch.backends.mkl.is_available() and torch._C._has_mkldnn  # type: ignore[no-untyped-call]
    is_unused = "AuthenticAMD" in processor and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return has_both and is_unused and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_PREFERRED = _prefers()


def _each(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    if torch.compiler.is_dynamo_compiling():
        opaque: Tensor = torch.ops.flp.each(a, b, bias)
        return opaque
    return _by_onednn(a, b, bias)


def _by_onednn(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """One network after the other: oneDNN's linear layer, whose weight is `[o, i]`."""
    multiply = torch.ops.mkldnn._linear_pointwise
    biases = [None] * len(a) if bias is None else [each[0] for each in bias]
    products = [multiply(_dense(x), _dense(w).mT, c, "none", [], "") for x, w, c in zip(a, b, biases, strict=True)]
    return products[0].unsqueeze(0) if len(products) == 1 else torch.stack(products)


def _dense(matrix: Tensor) -> Tensor:
    """A contiguous matrix: on a slice of another oneDNN takes 700 times as long."""
    return matrix if matrix.is_contiguous() or matrix.mT.is_contiguous() else matrix.contiguous()


# Opaque to the compiler, whose own rule for this layer requires constant weights. Defined without `custom_op`, whose
# checks take 5 to 10 µs a call.
_LIBRARY = torch.library.Library("flp", "FRAGMENT")  # type: ignore[no-untyped-call]
_SCHEMA = "each(Tensor a, Tensor b, Tensor? bias) -> Tensor"
_LIBRARY.define(_SCHEMA, tags=torch.Tag.pt2_compliant_tag)  # type: ignore[no-untyped-call]
_LIBRARY.impl("each", _by_onednn, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("flp::each", lambda a, b, bias: a.new_empty(*a.shape[:-1], b.shape[-1]), lib=_LIBRARY)


class _Affine(torch.autograd.Function):
    """`affine` by oneDNN, whose layer is not differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x W + b."""
        ctx.save_for_backward(x, weight)
        return _each(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients that are asked for."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(g, weight.mT) if of_x else None,
            product(x.mT, g) if of_weight else None,
            g.sum(1, keepdim=True) if of_bias else None,
        )

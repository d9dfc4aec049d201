"""Products by either library are equal; which one multiplies depends on machine and sizes alone."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flp.networks import products
from flp.networks.products import affine, product

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="this PyTorch has no oneDNN",
)
SIZES = [(1, 256, 128, 64), (2, 256, 33, 256), (3, 64, 500, 70)]


@pytest.fixture(params=[False, pytest.param(True, marks=needs_onednn)], ids=["MKL", "oneDNN"])
def preferred(request, monkeypatch):
    """Either library, wherever this is run."""
    monkeypatch.setattr(products, "_PREFERRED", request.param)
    return request.param


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def given(networks, rows, inputs, outputs):
    return (
        numbers(networks, rows, inputs),
        numbers(networks, inputs, outputs, seed=1),
        numbers(networks, 1, outputs, seed=2),
    )


@pytest.mark.parametrize("size", SIZES)
def test_they_are_the_products(preferred, size):
    x, weight, bias = given(*size)
    exact = x.double() @ weight.double()
    close = {"rtol": 1e-5, "atol": 2e-6 * size[2]}
    assert products._pays(x, weight) == preferred
    torch.testing.assert_close(affine(x, weight, bias).double(), exact + bias, **close)
    torch.testing.assert_close(product(x, weight).double(), exact, **close)
    turned = product(x.mT.contiguous().mT, weight.mT.contiguous().mT)  # however they lie in memory
    torch.testing.assert_close(turned.double(), exact, **close)


@pytest.mark.parametrize("asked", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_gradients_are_those_of_the_formula(preferred, asked):
    parts, slopes = given(2, 128, 96, 192), numbers(2, 128, 192, seed=3)
    mine = [part.clone().requires_grad_(bool(ask)) for part, ask in zip(parts, asked, strict=True)]
    (affine(*mine) * slopes).sum().backward()
    exact = [part.double().requires_grad_() for part in parts]
    ((exact[0] @ exact[1] + exact[2]) * slopes.double()).sum().backward()
    for own, true, ask in zip(mine, exact, asked, strict=True):
        assert (own.grad is not None) == ask
        if ask:
            torch.testing.assert_close(own.grad.double(), true.grad, rtol=1e-5, atol=1e-3)


def test_a_networks_product_knows_no_neighbour(preferred):
    x, weight, bias = given(3, 256, 64, 256)
    together = affine(x, weight, bias)
    for i in range(3):
        alone = affine(x[i : i + 1], weight[i : i + 1], bias[i : i + 1])
        assert torch.equal(alone[0], together[i]) or not preferred
        torch.testing.assert_close(alone[0], together[i])


@needs_onednn
def test_onednn_is_given_matrices_without_gaps_alone(monkeypatch):
    """On others it takes 700 times as long; they occur as gradients that are slices of a joint layer's."""
    monkeypatch.setattr(products, "_PREFERRED", True)
    given_to = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator is torch.ops.mkldnn._linear_pointwise.default:
                given_to.extend(args[:2])
            return operator(*args, **(kwargs or {}))

    wide = numbers(2, 256, 173)
    part, other = wide[:, :, :128], numbers(2, 128, 256)
    for a, b in ((other, part), (part, other), (part.mT, part), (other.mT, part.mT)):
        with Watch():
            found = product(a, b)
        torch.testing.assert_close(found.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-3)
    assert len(given_to) == 4 * 2 * 2
    assert all(matrix.is_contiguous() or matrix.mT.is_contiguous() for matrix in given_to)


@needs_onednn
def test_what_gains_nothing_stays_with_the_other_library(monkeypatch):
    monkeypatch.setattr(products, "_PREFERRED", True)
    large = numbers(1, 256, 256), numbers(1, 256, 256)
    assert products._pays(*large)
    assert not products._pays(numbers(1, 16, 256), large[1])  # few rows, as in an evaluation
    assert not products._pays(large[0], numbers(1, 256, 5))  # few columns, as in a head
    assert not products._pays(numbers(1, 256, 8), numbers(1, 8, 256))
    assert not products._pays(large[0].double(), large[1].double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not products._pays(*large)


@needs_onednn
def test_the_compiler_and_the_exporter_are_served(monkeypatch):
    monkeypatch.setattr(products, "_PREFERRED", True)
    parts = given(2, 256, 64, 256)
    torch.library.opcheck(torch.ops.flp.each.default, parts)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return affine(x, *parts[1:])

    with torch.no_grad():
        batch = {"x": {1: torch.export.Dim("batch")}}
        program = torch.export.export(Layer(), (parts[0],), dynamic_shapes=batch)
        assert not any(word in str(program.graph) for word in ("mkldnn", "flp"))  # it is for any machine
        torch.testing.assert_close(program.module()(parts[0]), affine(*parts))


@pytest.mark.parametrize(
    ("processor", "instructions", "preferred"),
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False)],
)
@needs_onednn
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this PyTorch has no MKL")
def test_the_machine_decides(processor, instructions, preferred, monkeypatch):
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: f"vendor_id\t: {processor}\n")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    assert products._prefers() == preferred

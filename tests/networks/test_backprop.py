"""The hand-written gradient equals the automatic one, whichever part of it is asked for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flp.networks.mlp import MLP
from flp.randomness.streams import RunStreams


def plain(mlp, x):
    """The same function by PyTorch's own layers, one network after the other."""
    out = []
    for network in range(mlp.runs * mlp.members):
        y = x[network // mlp.members]
        for i, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
            y = y @ weight[network] + bias[network]
            if i + 1 < len(mlp.weights):
                y = F.gelu(y, approximate="tanh")
                if mlp.layer_norm:
                    scale, shift = mlp.scales[i][network, 0], mlp.shifts[i][network, 0]
                    y = F.layer_norm(y, y.shape[-1:], scale, shift, 1e-6)
        out.append(y)
    return torch.stack(out).view(mlp.runs, mlp.members, *out[0].shape)


def make(outputs, members, layer_norm, hidden=(20, 6)):
    streams = RunStreams([0, 1])
    mlp = MLP(streams, 5, hidden, outputs, members=members, layer_norm=layer_norm).double()
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return mlp, streams.normal(7, 5).double().requires_grad_()


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize(("outputs", "hidden"), [(1, (20, 6)), (3, (20, 6)), (17, (20, 6)), (3, ())])
def test_values_and_gradients_are_the_automatic_ones(outputs, hidden, members, layer_norm):
    mlp, x = make(outputs, members, layer_norm and len(hidden) > 0, hidden)
    expected, found = plain(mlp, x), mlp(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mlp(x.detach()), expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(expected)
    for asked in ([x], [*mlp.parameters()], [x, *mlp.parameters()], [mlp.biases[0]], [mlp.weights[-1]]):
        of_found = torch.autograd.grad((mlp(x) * weights).sum(), asked)
        of_expected = torch.autograd.grad((plain(mlp, x) * weights).sum(), asked)
        torch.testing.assert_close(of_found, of_expected, rtol=1e-10, atol=1e-12)
    (mlp(x) * weights).sum().backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad((plain(mlp, x) * weights).sum(), x)[0])
    assert all(parameter.grad is not None for parameter in mlp.parameters())


def test_the_frozen_are_left_alone():
    mlp, x = make(3, 2, layer_norm=True)
    mlp.requires_grad_(False)
    mlp(x).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in mlp.parameters())


def test_parameters_that_nobody_asks_about_cost_nothing():
    mlp, x = make(3, 2, layer_norm=True)
    with torch.profiler.profile(acc_events=True) as trace:
        torch.autograd.grad(mlp(x).sum(), x)
    products = sum(event.count for event in trace.key_averages() if event.key == "aten::bmm")
    assert products == len(mlp.weights)


def test_without_a_gradient_the_numbers_are_the_same():
    mlp, x = make(3, 2, layer_norm=True)
    with torch.no_grad():
        alone = mlp(x)
    torch.testing.assert_close(alone, mlp(x).detach(), rtol=0, atol=0)

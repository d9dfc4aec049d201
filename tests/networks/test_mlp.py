"""Batched networks equal single plain networks, run by run."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from reference import Network
from torch import nn

from flp.flow.velocity import VelocityField
from flp.learner.polyak import polyak_update
from flp.networks.mlp import MLP
from flp.networks.values import Critic, Value, aggregate
from flp.randomness.streams import RunStreams


def scrambled(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("members", [1, 3])
def test_an_mlp_is_its_plain_networks(layer_norm, members):
    mlp = scrambled(MLP(RunStreams([1, 2]), 4, [8, 6], 3, members=members, layer_norm=layer_norm))
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    x[:, 4] *= 30
    out, quiet = mlp(x), torch.no_grad()(mlp)(x)
    assert out.shape == (2, members, 5, 3)
    torch.testing.assert_close(quiet, out, rtol=1e-5, atol=1e-5)  # no gradient, same numbers
    for run in range(2):
        for member in range(members):
            network = Network(mlp, run, member)
            for i in range(5):
                torch.testing.assert_close(out[run, member, i], network(x[run, i]), rtol=1e-5, atol=1e-5)


def test_layer_normalisation_uses_flax_epsilon():
    # A hidden layer of nearly equal activations, where 1e-6 and 1e-5 differ visibly.
    mlp = MLP(RunStreams([0]), 1, [2], 1, layer_norm=True)
    with torch.no_grad():
        mlp.weights[0].copy_(torch.tensor([[[0.0, 0.0]]]))
        mlp.biases[0].copy_(torch.tensor([[[1.0, 1.002]]]))
        mlp.weights[1].copy_(torch.tensor([[[-1.0], [1.0]]]))
    h = nn.functional.gelu(torch.tensor([1.0, 1.002], dtype=torch.float64), approximate="tanh")
    centred = h - h.mean()
    expected = (centred / (centred.square().mean() + 1e-6).sqrt()).diff().item()
    assert mlp(torch.zeros(1, 1, 1)).item() == pytest.approx(expected, rel=1e-3)


def test_weights_start_glorot_uniform_and_biases_at_zero():
    mlp = MLP(RunStreams([3, 4]), 60, [100], 20, members=2, layer_norm=True)
    for weight, (fan_in, fan_out) in zip(mlp.weights, [(60, 100), (100, 20)], strict=True):
        limit = math.sqrt(6 / (fan_in + fan_out))
        assert weight.abs().max() <= limit
        assert weight.abs().max() > 0.99 * limit
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.03)
        assert abs(weight.mean().item()) < 0.03 * limit
        # Every run and member has its own.
        assert len({tuple(w.flatten()[:5].tolist()) for w in weight}) == 4
    assert all((b == 0).all() for b in [*mlp.biases, *mlp.shifts])
    assert all((s == 1).all() for s in mlp.scales)


def test_initial_weights_of_a_run_depend_on_its_seed_alone():
    alone = MLP(RunStreams([7]), 4, [8], 3, members=2)
    beside = MLP(RunStreams([1, 7, 2]), 4, [8], 3, members=2)
    for a, b in zip(alone.weights, beside.weights, strict=True):
        assert torch.equal(a, b[2:4])


def test_a_zero_head_gives_zero_but_learns():
    mlp = MLP(RunStreams([0]), 4, [8], 3, zero_head=True)
    x = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    out = mlp(x)
    assert (out == 0).all()
    (gradient,) = torch.autograd.grad((out - 1).square().sum(), mlp.weights[-1])
    assert gradient.abs().min() > 0


def test_under_autocast_the_last_layer_keeps_its_digits():
    """A value of 300 has a resolution of 2 in bfloat16, more than a step's reward."""
    net = MLP(RunStreams([1]), 3, [8], 1)
    with torch.no_grad():
        net.biases[-1].fill_(300.0)
    x = RunStreams([2]).normal(50, 3)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(x)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, net(x), rtol=0, atol=0.05)
    assert not torch.equal(rounded, net(x))


def test_runs_and_batches_do_not_mix():
    critic = scrambled(Critic(RunStreams([1, 2, 3]), 2, 2, [8], members=2, layer_norm=True))
    generator = torch.Generator().manual_seed(0)
    s, z = torch.randn(3, 4, 2, generator=generator), torch.randn(3, 4, 2, generator=generator)
    before = critic(s, z)
    s[1, 2] += 1
    changed = critic(s, z) != before
    assert changed[1, :, 2].all()
    changed[1, :, 2] = False
    assert not changed.any()


def test_inputs_are_concatenated_in_order():
    streams = RunStreams([1, 2])
    generator = torch.Generator().manual_seed(0)
    s, x = torch.randn(2, 5, 3, generator=generator), torch.randn(2, 5, 2, generator=generator)
    t = torch.rand(2, 5, 1, generator=generator)
    field, critic = VelocityField(streams, 3, 2, [8]), Critic(streams, 3, 2, [8], members=2, layer_norm=True)
    value = Value(streams, 3, [8], layer_norm=True)
    v, q, u = field(s, x, t), critic(s, x), value(s)
    assert (v.shape, q.shape, u.shape) == ((2, 5, 2), (2, 2, 5), (2, 5))
    for run in range(2):
        for i in range(5):
            one = [s[run, i], x[run, i], t[run, i]]
            torch.testing.assert_close(v[run, i], Network(field.net, run)(torch.cat(one)), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(u[run, i], Network(value.net, run)(one[0])[0], rtol=1e-5, atol=1e-6)
            for member in range(2):
                expected = Network(critic.net, run, member)(torch.cat(one[:2]))[0]
                torch.testing.assert_close(q[run, member, i], expected, rtol=1e-5, atol=1e-6)


def test_aggregate_reduces_the_ensemble():
    values = torch.tensor([[[1.0, 5.0], [3.0, -1.0]], [[0.0, 0.0], [-2.0, 8.0]]])  # [R, members, B]
    assert aggregate(values, "mean").tolist() == [[2.0, 2.0], [-1.0, 4.0]]
    assert aggregate(values, "min").tolist() == [[1.0, -1.0], [-2.0, 0.0]]
    bounds = [[statistics.mean(q) - statistics.pstdev(q) for q in zip(*run, strict=True)] for run in values.tolist()]
    torch.testing.assert_close(aggregate(values, "lower_bound"), torch.tensor(bounds), atol=2e-6, rtol=0)
    agreeing = torch.ones(1, 2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(aggregate(agreeing, "lower_bound").sum(), [agreeing])
    assert torch.equal(slope, torch.full((1, 2, 3), 0.5))


def test_the_target_follows_at_its_rate():
    source, target = nn.Linear(2, 1), nn.Linear(2, 1)
    with torch.no_grad():
        for s, t in zip(source.parameters(), target.parameters(), strict=True):
            s.fill_(10.0)
            t.fill_(2.0)
    polyak_update(target, source, 0.25)
    assert all(torch.equal(p, torch.full_like(p, 4.0)) for p in target.parameters())
    assert all(torch.equal(p, torch.full_like(p, 10.0)) for p in source.parameters())

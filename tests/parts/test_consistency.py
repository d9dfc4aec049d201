"""Known properties of the consistency function and its schedule."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from flp.networks.mish import MishMLP
from flp.networks.mlp import standardize
from flp.parts.consistency import SIGMA_MAX, SIGMA_MIN, Consistency, discretization_steps, noise_level
from flp.randomness.streams import RunStreams

PERIOD = 50_000
RUNS = [1, 2]


def count_of(k, period=PERIOD):
    """N as in the authors' code."""
    return math.ceil(math.sqrt(k * (150**2 - 2**2) / period + 2**2) - 1) + 1


def made(size=7):
    """A consistency function with states, actions and noise."""
    streams = RunStreams(RUNS)
    return Consistency(streams, 3, 2, [16, 8]), *(streams.normal(size, width) for width in (3, 2, 2))


def test_levels_grow_with_the_root_of_time_and_begin_anew():
    known = {0: 2, 1: 3, 100: 7, 1000: 22, 10000: 68, 25000: 107, 49999: 150, 50000: 2, 51000: 22}
    for k, expected in known.items():
        assert discretization_steps(torch.tensor(k), PERIOD).item() == expected
    found = discretization_steps(torch.arange(PERIOD), PERIOD)
    assert found.tolist() == [count_of(k) for k in range(PERIOD)]


@pytest.mark.parametrize("count", [2, 3, 150])
def test_levels_are_even_in_their_seventh_roots(count):
    n = torch.tensor(float(count), dtype=torch.float64)
    levels = noise_level(torch.arange(count).double(), n)
    assert (levels[0].item(), levels[-1].item()) == pytest.approx((0.002, 80.0), rel=1e-12)
    roots = levels ** (1 / 7)
    torch.testing.assert_close(roots.diff(), (roots[-1] - roots[0]).expand(count - 1) / (count - 1))


@pytest.mark.parametrize("autocast", [False, True])
def test_at_the_least_noise_it_is_the_action_itself(autocast):
    f, s, x, _ = made()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(f(s, x, torch.full((2, 7, 1), SIGMA_MIN)), x)


def test_one_level_of_all_is_every_ones():
    f, s, x, _ = made()
    torch.testing.assert_close(f(s, x, torch.full((2, 1, 1), 3.0)), f(s, x, torch.full((2, 7, 1), 3.0)))


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
def test_with_two_levels_it_is_taught_the_data(u):
    """L = 100/79.998 · mean (f(a + 80 z, 80) − a − 0.002 z)², whatever the teacher."""
    f, s, a, z = made()
    teacher = Consistency(RunStreams([8, 9]), 3, 2, [4])
    batch = {"observations": s, "actions": a}
    loss = f.loss(batch, teacher, z, torch.full((2, 7, 1), u), torch.tensor(2.0, dtype=torch.float64))
    error = f(s, a + SIGMA_MAX * z, torch.full((2, 1, 1), SIGMA_MAX)) - a - SIGMA_MIN * z
    torch.testing.assert_close(loss, 100 / (SIGMA_MAX - SIGMA_MIN) * error.square().mean((1, 2)))


def test_every_pair_of_neighbours_is_drawn_alike(monkeypatch):
    f, seen = made()[0], []
    monkeypatch.setattr(Consistency, "forward", lambda self, s, x, t: seen.append(t) or x)
    n, count, size = torch.tensor(5.0, dtype=torch.float64), 5, 20_000
    streams = RunStreams(RUNS)
    batch = {"observations": streams.normal(size, 3), "actions": streams.normal(size, 2)}
    u = streams.uniform(size, 1)
    u[:, -1] = 1 - 2**-24  # the largest there is
    f.loss(batch, f, streams.normal(size, 2), u, n)
    near, far = seen
    levels = noise_level(torch.arange(count).double(), n).float()
    for i in range(count - 1):
        drawn = near == levels[i]
        assert drawn.float().mean().item() == pytest.approx(1 / (count - 1), abs=0.01)
        assert (far[drawn] == levels[i + 1]).all()
    assert near.max() == levels[-2]


def test_a_loss_in_bfloat16_is_nearly_the_one_in_float32():
    """Neighbours among 150 levels differ by as little as 0.0004, which three digits cannot represent."""
    f, s, a, z = made(200)
    teacher = copy.deepcopy(f)
    n, u = torch.tensor(150.0, dtype=torch.float64), RunStreams(RUNS).uniform(200, 1)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(f.loss({"observations": s, "actions": a}, teacher, z, u, n))
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)


def test_draws_of_a_perfect_function_are_its_data():
    """Data is one action μ: f(s, x, t) = μ for t above the least, whatever x; draws stay within ±1."""
    f = made()[0]
    mu = torch.tensor([0.3, -1.7])
    f.forward = lambda s, x, t: mu.expand(x.shape)
    drawn = f.sample(torch.zeros(2, 50, 3), RunStreams(RUNS).normal(50, 2, 2))
    assert torch.equal(drawn, mu.clamp(-1, 1).expand(2, 50, 2))


def test_networks_start_as_pytorch_s():
    net = MishMLP(RunStreams(RUNS), 400, [300], 200, members=2)
    theirs = torch.nn.Linear(400, 300)
    for ours, expected in ((net.weights[0], theirs.weight), (net.biases[0], theirs.bias)):
        for member in ours:
            assert member.abs().max().item() == pytest.approx(1 / 20, rel=0.02)
            assert member.std().item() == pytest.approx(expected.std().item(), rel=0.15)
    assert len({tuple(bias.flatten()[:5].tolist()) for bias in net.biases[0]}) == 4
    time = Consistency(RunStreams(RUNS), 3, 2, [8]).time
    assert time.inner.bias.abs().max().item() == pytest.approx(1 / 4, rel=0.1)


def test_observations_are_standardized_and_times_are_not():
    f, s, x, _ = made()
    other = copy.deepcopy(f)
    mean, std = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([0.5, 2.0, 4.0])
    standardize(f, mean, std, 6.0)
    t = torch.full((2, 7, 1), 3.0)
    torch.testing.assert_close(f(s, x, t), other(6 * (s - mean) / std, x, t), rtol=1e-4, atol=1e-5)

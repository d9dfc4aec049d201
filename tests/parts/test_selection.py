"""Choosing among draws, against known distributions."""

from __future__ import annotations

import math

import pytest
import torch

from flp.parts.selection import best_of_n, log_weights, resample, weighted_mean
from flp.randomness.streams import RunStreams

MEAN, STD = 0.6, 0.8  # of the policy that proposes
N, STATES = 256, 4000


def proposals(q, alpha, n=N):
    """Candidates `[1, states, n, 1]` of a policy in one dimension, their values and weights `[1, states, n]`."""
    noise = RunStreams([3]).normal(STATES, n, 1)
    z = MEAN + STD * noise
    values = q(z[..., 0])
    return z, values, log_weights(values, torch.tensor([alpha]), z, noise)


def optimum(q, alpha):
    """Probabilities ∝ p(z) exp(Q(z) / α) on a fine grid."""
    z = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    return z, (q(z) / alpha - z.square() / 2).softmax(0)


def test_best_of_n_picks_the_argmax():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 5, 4, generator=generator)
    candidates = torch.randn(2, 5, 4, 3, generator=generator)
    best = best_of_n(values, candidates)
    assert best.shape == (2, 5, 3)
    picked = set()
    for run in range(2):
        for i in range(5):
            n = max(range(4), key=lambda n: values[run, i, n].item())
            picked.add(n)
            assert torch.equal(best[run, i], candidates[run, i, n])
    assert len(picked) > 2


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_for_a_quadratic_q_the_optimum_is_the_product_of_two_gaussians(alpha):
    # Q = -k (z - m)² / 2 has p(z) exp(Q / α) ∝ N(k m / (α + k), α / (α + k)).
    k, m = 3.0, 1.5
    mean, variance = k * m / (alpha + k), alpha / (alpha + k)
    z, values, weights = proposals(lambda z: -0.5 * k * (z - m) ** 2, alpha)
    taken = resample(weights, z, RunStreams([5]).uniform(STATES, 1))[0, :, 0]
    error = 4 * math.sqrt(variance / STATES) + 2 / N  # of the draws, and N's bias
    assert taken.mean().item() == pytest.approx(mean, abs=error)
    assert taken.var().item() == pytest.approx(variance, abs=0.1 * variance + 2 / N)
    expected = -0.5 * k * (variance + (mean - m) ** 2)
    assert weighted_mean(weights, values).mean().item() == pytest.approx(expected, abs=0.03)


def test_the_bias_falls_with_the_number_of_candidates():
    k, m, alpha = 3.0, 1.5, 0.5
    mean, variance = k * m / (alpha + k), alpha / (alpha + k)
    expected = -0.5 * k * (variance + (mean - m) ** 2)
    errors = []
    for n in (4, 16, 64):
        _, values, weights = proposals(lambda z: -0.5 * k * (z - m) ** 2, alpha, n)
        errors.append(abs(weighted_mean(weights, values).mean().item() - expected))
    assert errors[0] > 3 * errors[1] > 0 and errors[1] > 2 * errors[2]


def two_humps(right):
    """Q with which p(z) exp(Q) is a mixture of two narrow Gaussians, of mass `right` and the rest."""

    def q(z):
        humps = [
            math.log(mass) - 0.5 * ((z - centre) / 0.3) ** 2 + 0.5 * z**2
            for mass, centre in ((1 - right, -1.0), (right, 1.5))
        ]
        return torch.logaddexp(*humps)

    return q


@pytest.mark.parametrize("right", [0.2, 0.7])
def test_the_mass_of_each_hump_is_right_up_to_an_error_that_falls_as_one_over_n(right):
    errors = {}
    for n in (4, 16, 64, 256):
        z, _, weights = proposals(two_humps(right), 1.0, n)
        mass = (weights.softmax(-1) * (z[..., 0] > 0.25)).sum(-1).mean().item()
        errors[n] = abs(mass - right)
        assert errors[n] < 4 / n
    assert errors[4] > errors[16] > 2 * errors[64] > 4 * errors[256]


@pytest.mark.parametrize("right", [0.2, 0.7])
def test_both_humps_of_q_have_their_mass(right):
    z, _, weights = proposals(two_humps(right), 1.0)
    taken = resample(weights, z, RunStreams([5]).uniform(STATES, 1))[0, :, 0]
    assert (taken > 0.25).float().mean().item() == pytest.approx(right, abs=0.05)
    assert taken[taken > 0.25].mean().item() == pytest.approx(1.5, abs=0.05)
    assert taken[taken < 0.25].std().item() == pytest.approx(0.3, abs=0.05)


def test_without_q_the_prior_comes_back():
    z, _, weights = proposals(torch.zeros_like, 1.0)
    taken = resample(weights, z, RunStreams([5]).uniform(STATES, 1))[0, :, 0]
    assert taken.mean().item() == pytest.approx(0, abs=0.08) and taken.std().item() == pytest.approx(1, abs=0.06)


def test_each_run_has_its_own_temperature_and_a_low_one_is_greed():
    noise = RunStreams([1, 2]).normal(50, 8, 2)
    values = RunStreams([3, 4]).normal(50, 8)
    weights = log_weights(values, torch.tensor([1e-6, 1e6]), noise, noise)
    uniform = RunStreams([5, 6]).uniform(50, 1)
    taken = resample(weights, noise, uniform)
    assert torch.equal(taken[0], best_of_n(values, noise)[0])
    index = (8 * uniform[1, :, 0]).long()  # nearly equal weights: the uniform number says which
    assert torch.equal(taken[1], noise[1, torch.arange(50), index])
    assert torch.equal(weighted_mean(weights, values)[0], values[0].amax(-1))


def test_what_has_no_weight_is_never_taken():
    z = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 3, 4, 1)
    weights = torch.tensor([-torch.inf, 0.0, 0.0, -torch.inf]).expand(1, 3, 4)
    uniform = torch.tensor([1e-7, 0.5, 1 - 2**-24]).view(1, 3, 1)
    assert resample(weights, z, uniform).flatten().tolist() == [1, 1, 2]
    values = torch.tensor([-torch.inf, 1.0, 3.0, torch.inf]).expand(1, 3, 4)
    assert weighted_mean(weights, values).tolist() == [[2.0] * 3]


def test_the_optimum_s_value_is_the_integral_s():
    def q(z):
        return torch.sin(3 * z)

    z, mass = optimum(q, 0.4)
    _, values, weights = proposals(q, 0.4)
    assert weighted_mean(weights, values).mean().item() == pytest.approx((mass * q(z)).sum().item(), abs=0.01)

"""The latent policy: its KL, its samples, its start at the prior."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from flp.parts.gaussian import LatentPolicy, kl_to_prior, sample
from flp.randomness.streams import RunStreams


def gaussians(seed=0, dim=3):
    generator = torch.Generator().manual_seed(seed)
    mean = 1.5 * torch.randn(2, 4, dim, generator=generator, dtype=torch.float64)
    return mean, 0.7 * torch.randn(2, 4, dim, generator=generator, dtype=torch.float64)


def test_kl_agrees_with_torch_distributions():
    mean, log_std = gaussians()
    policy = Independent(Normal(mean, log_std.exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    torch.testing.assert_close(kl_to_prior(mean, log_std), kl_divergence(policy, prior))


def test_kl_agrees_with_monte_carlo():
    mean, log_std = gaussians(1)
    z = sample(mean, log_std, torch.randn(100_000, 2, 4, 3, generator=torch.Generator().manual_seed(0)).double())
    std = log_std.exp()
    log_policy = (-0.5 * ((z - mean) / std) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
    log_prior = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    ratio = log_policy - log_prior
    error = 5 * ratio.std(0) / math.sqrt(len(ratio))
    assert (error < 0.1).all()
    assert ((ratio.mean(0) - kl_to_prior(mean, log_std)).abs() < error).all()


def test_kl_is_zero_at_the_prior_alone():
    zero = torch.zeros(1, 1, 3)
    assert kl_to_prior(zero, zero).item() == 0
    for change in (0.1, -0.1):
        one = torch.tensor([[[0.0, change, 0.0]]])
        assert kl_to_prior(one, zero).item() == pytest.approx(0.005, rel=1e-4)
        assert kl_to_prior(zero, one).item() == pytest.approx(0.5 * (math.exp(2 * change) - 1 - 2 * change), rel=1e-3)


def test_samples_have_the_mean_and_the_deviation():
    mean, log_std = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[math.log(0.5), math.log(3.0)]]])
    z = sample(mean.unsqueeze(2), log_std.unsqueeze(2), RunStreams([0]).normal(1, 50_000, 2))
    assert z.shape == (1, 1, 50_000, 2)
    torch.testing.assert_close(z.mean(2)[0, 0], mean[0, 0], rtol=0, atol=0.06)
    torch.testing.assert_close(z.std(2)[0, 0], torch.tensor([0.5, 3.0]), rtol=0.02, atol=0)


def test_the_policy_starts_at_the_prior():
    policy = LatentPolicy(RunStreams([1, 2]), 5, 3, [16, 16])
    observations = 10 * RunStreams([3, 4]).normal(20, 5)
    mean, log_std = policy(observations)
    assert mean.shape == log_std.shape == (2, 20, 3)
    assert (kl_to_prior(mean, log_std) == 0).all()
    noise = RunStreams([5, 6]).normal(20, 3)
    assert torch.equal(sample(mean, log_std, noise), noise)


def test_the_policy_leaves_the_prior_by_gradient():
    policy = LatentPolicy(RunStreams([1]), 2, 1, [8])
    mean, log_std = policy(torch.ones(1, 4, 2))
    gradients = torch.autograd.grad(mean.sum() + log_std.sum(), list(policy.parameters())[:2])
    assert all(g.isfinite().all() for g in gradients)
    head = torch.autograd.grad(policy(torch.ones(1, 4, 2))[1].sum(), policy.net.weights[-1])[0]
    assert (head[..., 0] == 0).all()  # the mean's column
    assert (head[..., 1] != 0).any()  # the deviation's


def test_the_deviation_is_clamped():
    policy = LatentPolicy(RunStreams([1]), 2, 2, [8], (-1.5, 0.5))
    with torch.no_grad():
        policy.net.biases[-1].copy_(torch.tensor([[[7.0, -7.0, 7.0, -7.0]]]))
    mean, log_std = policy(torch.zeros(1, 1, 2))
    assert mean.flatten().tolist() == [7.0, -7.0]
    assert log_std.flatten().tolist() == [0.5, -1.5]

"""Soft actor-critics against a second, obvious implementation and against known answers."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from reference import ACTIONS, SETTINGS, Adam, make_batch
from test_agents_common import make
from test_agents_reference import Reference, call, check_updates, follow, mean, samples
from torch.distributions import AffineTransform, Independent, Normal, TanhTransform, TransformedDistribution

from flp.parts.tanh_gaussian import TanhGaussian, squashed
from flp.randomness.streams import RunStreams


class ReferenceRLPD(Reference):
    """FQL's soft actor-critic, by torch.distributions."""

    def __init__(self, agent, run, own):
        super().__init__(agent, run, own)
        self.log_alpha, self.all_alphas = agent.log_alpha.data[run].clone().requires_grad_(), agent.log_alpha
        self.adam["log_alpha"] = Adam([self.log_alpha], SETTINGS["learning_rate"])

    def assert_same(self):
        super().assert_same()
        torch.testing.assert_close(self.all_alphas[self.run], self.log_alpha, rtol=1e-7, atol=1e-9)

    def draw(self, s, z):
        """An action and its log density."""
        mu, log_std = self.nets["actor"][0](s).chunk(2)
        normal = Normal(mu, log_std.clamp(-5, 2).exp())
        policy = Independent(TransformedDistribution(normal, [TanhTransform(cache_size=1)]), 1)
        a = torch.tanh(mu + normal.scale * z)
        return a, policy.log_prob(a.clamp(-1 + 1e-12, 1 - 1e-12))

    def update(self, batch, noise):
        errors, actor_losses, entropies = [], [], []
        alpha = self.log_alpha.exp()
        for i, row in enumerate(samples(batch)):
            a, _ = self.draw(row["next_observations"], noise["next_z"][i])
            values = [q.item() for q in call(self.nets["target_critic"], row["next_observations"], a)]
            q = min(values)
            y = row["rewards"] + SETTINGS["discount"] * row["masks"] * q
            errors += [(q - y) ** 2 for q in call(self.nets["critic"], row["observations"], row["actions"])]
            a, log_prob = self.draw(row["observations"], noise["z"][i])
            actor_losses.append(alpha.item() * log_prob - mean(call(self.nets["critic"], row["observations"], a)))
            entropies.append(-log_prob.item())
        target = self.own.get("target_entropy", -0.5) * ACTIONS
        losses = {"critic": mean(errors), "actor": mean(actor_losses), "log_alpha": alpha * (mean(entropies) - target)}
        old = deepcopy(self.nets["critic"])
        self.step(losses)
        follow(self.nets["target_critic"], old)
        return {"critic_loss": losses["critic"], "entropy": torch.tensor(mean(entropies), dtype=torch.float64)}

    def step(self, losses):
        critic = {"critic": losses["critic"]}
        actor = torch.autograd.grad(losses["actor"], self.adam["actor"].parameters, retain_graph=True)
        self.adam["log_alpha"].step(losses["log_alpha"])
        super().step(critic)
        self.adam["actor"].step(sum((g * w).sum() for g, w in zip(actor, self.adam["actor"].parameters, strict=True)))


@pytest.mark.parametrize(("own", "changes"), [({}, {}), ({"target_entropy": 1.0}, {"critics": 3})])
def test_rlpd_s_updates_are_the_reference_s(own, changes):
    check_updates(ReferenceRLPD, "rlpd", own, changes, rtol=1e-7)


def test_the_squashed_density_is_pytorch_s_and_integrates_to_one():
    mu, log_std = torch.tensor([0.3, -0.8]).double(), torch.tensor([-1.0, 0.4]).double()
    noise = RunStreams([0]).normal(100, 2)[0].double()
    a, log_prob = squashed(mu, log_std, noise)
    transforms = [AffineTransform(mu, log_std.exp()), TanhTransform()]
    base = Normal(torch.zeros(2).double(), torch.ones(2).double())
    torch.testing.assert_close(log_prob, Independent(TransformedDistribution(base, transforms), 1).log_prob(a))
    a = torch.linspace(-1 + 1e-6, 1 - 1e-6, 200_001).double()[:, None]
    noise = (torch.atanh(a) - mu[:1]) / log_std[:1].exp()
    density = squashed(mu[:1], log_std[:1], noise)[1].exp()
    assert torch.trapezoid(density, a[:, 0]).item() == pytest.approx(1, abs=1e-4)


def test_far_out_the_density_stays_finite():
    a, log_prob = squashed(torch.tensor([40.0]), torch.tensor([2.0]), torch.tensor([1.0]))
    # 1 - tanh² x = 4 e^(-2x) out there
    x = 40 + math.exp(2)
    assert a.item() == 1 and log_prob.item() == pytest.approx(-0.5 - 0.919 - 2 - (math.log(4) - 2 * x), abs=1e-2)


@pytest.mark.parametrize(("wanted", "sign"), [(5.0, 1), (-50.0, -1)])
def test_too_little_entropy_raises_the_temperature(wanted, sign):
    agent = make("rlpd", [4, 5], {"target_entropy": wanted})
    noise = {name: value[0] for name, value in agent.draw(RunStreams([1, 2]), 1, 7).items()}
    agent.update(make_batch([4, 5]), noise)
    assert (sign * agent.log_alpha > 0).all()


def test_the_policy_starts_as_two_heads_of_fql_would():
    net = TanhGaussian(RunStreams([0]), 3, 50, [400]).net
    limit = (6 / 450) ** 0.5 / 10  # Glorot's of 400 inputs and 50 outputs
    assert 0.99 * limit < net.weights[-1].abs().max() <= limit * (1 + 1e-6)


def test_it_explores_by_draws_and_acts_without():
    agent, observations = make("rlpd", [4, 5]), torch.zeros(2, 4000, 3)
    still = agent.act(observations, RunStreams([1, 2]))
    moved, stored = agent.explore(observations, RunStreams([1, 2]))
    assert torch.equal(moved, stored) and torch.equal(still[:, 0], still[:, 1])
    mean, _ = agent.actor(observations[:, :1])
    torch.testing.assert_close(still[:, :1], mean.tanh())
    # Here the policy is near N(0, 1) squashed: E tanh² of it is 0.394.
    assert moved.square().mean().item() == pytest.approx(0.394, abs=0.03)

"""Cal-QL against a second, obvious implementation and known answers.

One run, loops over samples and over drawn actions, densities by PyTorch's distributions; all losses from the parameters
before the update, the target critic after it.
"""

from __future__ import annotations

import math

import pytest
import torch
from reference import SETTINGS, Adam, make_batch
from test_agents_common import make, make_transitions
from test_agents_reference import check_updates, mean, samples
from test_agents_reference_diffusion import own_tensors, perceptron
from torch.distributions import Normal, TransformedDistribution, Uniform
from torch.distributions.transforms import TanhTransform

from flp.networks.relu import orthogonal
from flp.randomness.streams import RunStreams

DISCOUNT, RATE = SETTINGS["discount"], SETTINGS["target_rate"]


class ReferenceCalQL:
    """One run of Cal-QL, initialised from run `run` of a batched agent of two."""

    def __init__(self, agent, run, own):
        self.agent, self.run, self.own = agent, run, own
        self.p = own_tensors(agent, run, 2)
        self.critic, self.target = self.group("critic"), self.group("target_critic")
        self.members = len(self.critic["net.biases.0"])
        self.scale, self.gap = own.get("reward_scale", 10.0), own.get("lagrange_gap")
        moved = [*self.group("policy").values(), self.p["log_alpha"]]
        valued = [*self.critic.values(), *([self.p["pressure.log_factor"]] if self.gap is not None else [])]
        self.adams = [Adam(moved, own.get("policy_learning_rate", 1e-4)), Adam(valued, SETTINGS["learning_rate"])]

    def group(self, name):
        return {key.removeprefix(f"{name}."): t for key, t in self.p.items() if key.startswith(f"{name}.")}

    def policy(self, s):
        """μ and log σ."""
        mu, out = perceptron(self.p, "policy.net", 0, s).chunk(2)
        return mu, (self.p["policy.multiplier"] * out + self.p["policy.offset"]).clamp(-20, 2)

    def draw(self, s, noise):
        """An action and its log density."""
        mu, log_std = self.policy(s)
        squashed = TransformedDistribution(Normal(mu, log_std.exp()), [TanhTransform(cache_size=1)])
        u = mu + log_std.exp() * noise
        return torch.tanh(u), squashed.log_prob(squashed.transforms[0](u)).sum()

    def qs(self, p, s, a):
        return [perceptron(p, "net", member, torch.cat([s, a]))[0] for member in range(self.members)]

    def update(self, batch, noise):
        rows = list(enumerate(samples(batch)))
        policy_losses, log_probs, actor_qs = [], [], []
        alpha = self.p["log_alpha"].exp().item()
        for i, row in rows:
            a, log_prob = self.draw(row["observations"], noise["policy"][i, 0])
            actor_qs.append(min(self.qs(self.critic, row["observations"], a)))
            policy_losses.append(alpha * log_prob - actor_qs[-1])
            log_probs.append(log_prob)
        temperature_loss = -self.p["log_alpha"] * (mean(log_probs).item() - len(batch["actions"][0]))
        critic_loss, gaps = 0.0, []
        for member in range(self.members):
            errors, worths = zip(*(self.value(member, row, noise, i) for i, row in rows), strict=True)
            gaps.append(mean(worths))
            critic_loss = critic_loss + mean(errors) + self.weight() * (gaps[-1] - (self.gap or 0.0))
        dual = 0.0
        if self.gap is not None:
            strength = self.p["pressure.log_factor"].exp()
            dual = -mean(strength * self.own["weight"] * (gap.item() - self.gap) for gap in gaps)
        self.adams[0].step(mean(policy_losses) + temperature_loss)
        self.adams[1].step(critic_loss + dual)
        with torch.no_grad():
            for name, t in self.target.items():
                t.copy_((1 - RATE) * t + RATE * self.critic[name])
        return {
            "actor_loss": mean(policy_losses),
            "actor_q": mean(actor_qs) / self.scale,
            "entropy": -mean(log_probs),
            "critic_loss": critic_loss,
            "penalty": mean(gaps),
        }

    def weight(self):
        return self.own["weight"] * (self.p["pressure.log_factor"].exp().item() if self.gap is not None else 1.0)

    def value(self, member, row, noise, i):
        """The squared error of one critic at one sample, and the penalty on other actions' values."""
        s, after = row["observations"], row["next_observations"]
        best = max(
            min(q.item() for q in self.qs(self.target, after, self.draw(after, z)[0])) for z in noise["target"][i]
        )
        y = self.scale * row["rewards"] + DISCOUNT * row["masks"] * best
        q = self.qs(self.critic, s, row["actions"])[member]
        terms = []
        for uniform, now, following in zip(noise["random"][i], noise["now"][i], noise["next"][i], strict=True):
            a = 2 * uniform - 1
            density = Uniform(-torch.ones_like(a), torch.ones_like(a)).log_prob(a).sum()
            terms.append(torch.exp(self.qs(self.critic, s, a)[member] - density))
            for place, z in ((s, now), (after, following)):
                a, log_prob = (t.detach() for t in self.draw(place, z))
                worth = self.qs(self.critic, s, a)[member]
                least = self.scale * row["returns"]
                terms.append(torch.exp((worth if worth > least else least) - log_prob))
        return (q - y) ** 2, torch.log(sum(terms)) - q

    def assert_same(self):
        for name, tensor in own_tensors(self.agent, self.run, 2).items():
            torch.testing.assert_close(tensor, self.p[name], rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("own", "changes"),
    [
        ({"draws": 3, "weight": 5.0, "reward_scale": 1.0}, {}),
        ({"draws": 2, "weight": 0.7, "reward_scale": 2.0, "policy_learning_rate": 3e-3}, {"critics": 3}),
        ({"draws": 2, "weight": 5.0, "reward_scale": 1.0, "lagrange_gap": 0.8}, {}),
        ({"draws": 1, "weight": 0.0}, {}),
    ],
)
def test_updates_are_the_reference_s(own, changes):
    check_updates(ReferenceCalQL, "calql", own, changes)


def constant_policy(agent, log_prob):
    """Give every draw this log density."""
    sample = agent.sample
    agent.sample = lambda *inputs: (sample(*inputs)[0], torch.full_like(sample(*inputs)[1], log_prob))


def penalty_of(agent, batch, values=None):
    """The penalty `[R, members]` of critics that are zero, or give `values`; and what it is a function of."""
    noise = {name: value[0] for name, value in agent.draw(RunStreams([1]), 1, 7).items()}
    kept = {}

    def critic(observations, actions):
        q = torch.full((1, 2, actions.shape[1]), 0.0) if values is None else values.flatten(2)
        kept["q"] = q.requires_grad_()
        return q

    agent.critic.forward = critic
    _, penalty, raised = agent.penalty(batch, noise)
    return penalty, raised, kept["q"]


@pytest.mark.parametrize(
    ("earned", "expected"),
    [(-math.inf, 2 * math.log(2) + math.log(30)), (1.0, 2 * math.log(2) + math.log(10 + 20 * math.e))],
)
def test_the_penalty_of_a_critic_that_knows_nothing(earned, expected):
    assert expected == pytest.approx(4.78749 if earned < 0 else 5.55087, abs=5e-6)
    agent = make("calql", [4], {"reward_scale": 1.0})
    constant_policy(agent, -2 * math.log(2))
    penalty, raised, _ = penalty_of(agent, make_batch([4]) | {"returns": torch.full((1, 7), earned)})
    torch.testing.assert_close(penalty, torch.full((1, 2), expected), rtol=0, atol=1e-5)
    assert raised.tolist() == [0.0 if earned < 0 else 1.0]


def test_only_the_policy_s_actions_below_the_return_are_left_alone():
    agent = make("calql", [4], {"reward_scale": 10.0, "draws": 3})
    values = torch.linspace(-9, 9, 2 * 7 * 10)[torch.randperm(140)].view(1, 2, 7, 10)
    earned = torch.tensor([[-0.5, 0.0, 0.3, -math.inf, 0.5, -1.0, 1.0]])
    penalty, raised, q = penalty_of(agent, make_batch([4]) | {"returns": earned}, values)
    (slope,) = torch.autograd.grad(penalty.sum(), q)
    slope = slope.view(1, 2, 7, 10)
    assert (slope[..., :3] > 0).all()  # uniform actions, which are never raised
    assert (slope[..., 9] < 0).all()  # the data's own
    below = values[..., 3:9] < 10 * earned[:, None, :, None]
    assert 0.2 < below.float().mean() < 0.8
    assert (slope[..., 3:9] == 0).equal(below)
    assert (slope[..., 3:9] >= 0).all()
    assert raised.item() == pytest.approx(below.float().mean().item())


def test_without_a_weight_it_is_soft_actor_critic():
    """Whatever the returns and the penalty's own draws; with a weight they matter."""

    def trained(weight, changed):
        agent = make("calql", [4], {"weight": weight, "draws": 3})
        noise = {name: value[0] for name, value in agent.draw(RunStreams([1]), 1, 7).items()}
        batch = make_transitions([4])
        if changed:
            batch["returns"] = batch["returns"] + 100
            noise |= {name: noise[name].flip(1) for name in ("random", "now", "next")}
        agent.update(batch, noise)
        return torch.cat([tensor.flatten() for tensor in agent.state_dict().values()])

    assert torch.equal(trained(0.0, False), trained(0.0, True))
    assert not torch.equal(trained(5.0, False), trained(5.0, True))


@pytest.mark.parametrize(("gap", "way"), [(0.0, 1), (1000.0, -1)])
def test_the_learnt_factor_rises_while_the_penalty_is_above_its_gap(gap, way):
    agent = make("calql", [4, 5], {"lagrange_gap": gap})
    before = agent.pressure.log_factor.detach().clone()
    assert before.tolist() == [1.0, 1.0]
    noise = {name: value[0] for name, value in agent.draw(RunStreams([1, 2]), 1, 7).items()}
    agent.update(make_transitions([4, 5]), noise)
    assert (way * (agent.pressure.log_factor - before) > 0).all()


@pytest.mark.parametrize(("log_prob", "way"), [(2.5, 1), (1.5, -1)])
def test_the_temperature_rises_where_entropy_is_too_low(log_prob, way):
    agent = make("calql", [4])  # two dimensions, so that the entropy asked for is -2
    constant_policy(agent, log_prob)
    loss, _ = agent.actor_loss(make_batch([4]), torch.zeros(1, 7, 1, 2))
    (slope,) = torch.autograd.grad(loss.sum(), agent.log_alpha)
    assert slope.item() == pytest.approx(-way * 0.5)


def test_the_policy_s_density_is_one():
    agent = make("calql", [4], actions=1).double()
    agent.policy.net.biases[-1].data += 0.4
    s, a = torch.zeros(1, 1, 3).double(), torch.linspace(-1, 1, 20_001, dtype=torch.float64)[1:-1]
    mu, log_std = agent.policy(s)
    actions, log_prob = agent.sample(s, ((torch.atanh(a) - mu) / log_std.exp()).view(1, 1, -1, 1))
    torch.testing.assert_close(actions.flatten(), a)
    assert torch.trapezoid(log_prob.flatten().exp(), a).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (3, 5), (4, 4), (6, 1)])
def test_weights_start_orthogonal(rows, columns):
    matrices = orthogonal(RunStreams([1, 2]), 3, rows, columns)
    assert matrices.shape == (6, rows, columns)
    small = matrices if rows >= columns else matrices.mT
    eye = torch.eye(min(rows, columns)).expand(6, -1, -1)
    torch.testing.assert_close(small.mT @ small, eye, rtol=0, atol=1e-5)
    assert len({matrix.sum().item() for matrix in matrices}) == 6
    assert torch.equal(orthogonal(RunStreams([2]), 3, rows, columns), matrices[3:])


def test_all_rotations_are_as_likely():
    first = orthogonal(RunStreams([1]), 400, 3, 3)  # a factorisation alone would give every first entry the same sign
    assert (first > 0).float().mean(0).flatten().tolist() == pytest.approx([0.5] * 9, abs=0.1)


def test_it_starts_as_its_authors_networks_do():
    agent = make("calql", [4], hidden=[16, 16])
    first, second, head = agent.critic.net.weights
    torch.testing.assert_close(first @ first.mT, 2 * torch.eye(5).expand(2, -1, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(second @ second.mT, 2 * torch.eye(16).expand(2, -1, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(head.norm(dim=1), torch.full((2, 1), 0.01))
    _, log_std = agent.policy(torch.randn(1, 50, 3))
    assert (log_std + 1).abs().max() < 0.1
    assert agent.log_alpha.tolist() == [0.0]


def test_values_and_logs_are_of_the_rewards_as_they_are():
    """Critics that give 20 of rewards scaled by ten report 2."""
    agent = make("calql", [4], {"draws": 2})
    agent.critic.net.biases[-1].data += 20
    batch, noise = make_transitions([4]), {k: v[0] for k, v in agent.draw(RunStreams([1]), 1, 7).items()}
    logs = agent.update(batch, noise)
    for name in ("q", "q_max", "actor_q"):
        assert logs[name].item() == pytest.approx(2, abs=0.05)
    again = make("calql", [4], {"draws": 2})
    again.critic.net.biases[-1].data += 20
    assert again.value(batch["observations"], batch["actions"]).mean().item() == pytest.approx(2, abs=0.05)

"""Consistency-AC against a second, obvious implementation: one run, loops over samples, every formula by hand."""

from __future__ import annotations

import math

import pytest
import torch
from reference import SETTINGS, Adam
from test_agents_common import make, make_transitions
from test_agents_reference import check_updates, doubled, mean, samples
from test_agents_reference_diffusion import own_tensors

from flp.randomness.streams import RunStreams

# Four updates: the schedule restarts before the last, the average moves after the third.
SMALL = {"eta": 0.7, "hidden": [6, 4], "max_backup": 3, "candidates": 5, "restart": 3}
SMALL |= {"ema_rate": 0.3, "ema_every": 2, "ema_start": 2, "clip_norm": 1.0}


def mish(x):
    return x * torch.tanh(torch.log(1 + torch.exp(x)))


def perceptron(p, prefix, member, x):
    layers = sum(name.startswith(f"{prefix}.weights") for name in p)
    for i in range(layers):
        x = x @ p[f"{prefix}.weights.{i}"][member] + p[f"{prefix}.biases.{i}"][member, 0]
        x = x if i == layers - 1 else mish(x)
    return x


def consistency(p, s, x, t):
    """f on one sample, t a number."""
    phases = [t * torch.tensor(math.exp(-math.log(10000) / 7 * i)).item() for i in range(8)]  # in float32
    time = torch.tensor([*map(math.sin, phases), *map(math.cos, phases)], dtype=x.dtype)
    time = mish(time @ p["time.inner.weight"][0] + p["time.inner.bias"][0, 0])
    time = time @ p["time.outer.weight"][0] + p["time.outer.bias"][0, 0]
    raw = perceptron(p, "net", 0, torch.cat([s, x, time]))
    skip, out = 0.25 / ((t - 0.002) ** 2 + 0.25), 0.5 * (t - 0.002) / math.sqrt(t**2 + 0.25)
    return skip * x + out * raw


def sample(p, s, noise):
    x = consistency(p, s, 80 * noise[0], 80)
    return consistency(p, s, x + math.sqrt(4 - 0.002**2) * noise[1], 2).clamp(-1, 1)


def levels(k, period):
    n = math.ceil(math.sqrt((k % period) * (150**2 - 4) / period + 4) - 1) + 1
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    return [(low + i / (n - 1) * (high - low)) ** 7 for i in range(n)]


class Clipped(Adam):
    def __init__(self, parameters, clip_norm):
        super().__init__(parameters, SETTINGS["learning_rate"])
        self.clip_norm, self.was_clipped = clip_norm, []

    def step(self, loss):
        gradients = torch.autograd.grad(loss, self.parameters)
        norm = math.sqrt(sum((g**2).sum().item() for g in gradients))
        factor = 1 if self.clip_norm is None else min(1, self.clip_norm / (norm + 1e-6))
        self.was_clipped.append(factor < 1)
        super().step(sum((factor * g * p).sum() for g, p in zip(gradients, self.parameters, strict=True)))


class ReferenceCAC:
    """One run, initialised from run `run` of a batched agent of two."""

    def __init__(self, agent, run, own):
        self.agent, self.run, self.own, self.k = agent, run, own, 0
        self.p = own_tensors(agent, run, 2)
        self.actor, self.average = self.group("actor"), self.group("average")
        self.critic, self.target = self.group("critic"), self.group("target_critic")
        self.members = len(self.critic["net.biases.0"])
        self.adams = [Clipped(group.values(), own["clip_norm"]) for group in (self.actor, self.critic)]

    def group(self, name):
        return {key.removeprefix(f"{name}."): t for key, t in self.p.items() if key.startswith(f"{name}.")}

    def qs(self, p, s, a):
        return [perceptron(p, "net", member, torch.cat([s, a]))[0] for member in range(self.members)]

    def critic_loss(self, batch, noise):
        targets, losses = [], []
        for i, row in enumerate(samples(batch)):
            s = row["next_observations"]
            drawn = [self.qs(self.target, s, sample(self.average, s, one)) for one in noise["next"][i]]
            q = min(max(values[member].item() for values in drawn) for member in range(self.members))
            targets.append(row["rewards"].item() + SETTINGS["discount"] * row["masks"].item() * q)
        if self.own.get("normalize_target"):
            middle = mean(targets)
            spread = math.sqrt(sum((y - middle) ** 2 for y in targets) / (len(targets) - 1))
            targets = [y / (spread + 1e-6) for y in targets]
        for y, row in zip(targets, samples(batch), strict=True):
            losses.append(sum((q - y) ** 2 for q in self.qs(self.critic, row["observations"], row["actions"])))
        return mean(losses)

    def actor_loss(self, batch, noise):
        b, distances, values = levels(self.k, self.own["restart"]), [], []
        for i, row in enumerate(samples(batch)):
            s, a, z = row["observations"], row["actions"], noise["z"][i]
            j = int(noise["u"][i].item() * (len(b) - 1))
            taught = consistency(self.average, s, a + b[j] * z, b[j]).detach()
            error = consistency(self.actor, s, a + b[j + 1] * z, b[j + 1]) - taught
            distances.append(100 / (b[j + 1] - b[j]) * mean(error**2))
            values.append(self.qs(self.critic, s, sample(self.actor, s, noise["policy"][i])))
        one = int(noise["coin"][0].item() * self.members)
        other = (one + 1) % self.members
        gain = mean(q[one] for q in values) / mean(abs(q[other].item()) for q in values)
        return mean(distances), mean(mean(q) for q in values), mean(distances) - self.own["eta"] * gain

    def update(self, batch, noise):
        critic_loss = self.critic_loss(batch, noise)
        self.adams[1].step(critic_loss)
        distance, q, actor_loss = self.actor_loss(batch, noise)
        self.adams[0].step(actor_loss)
        if self.k % self.own["ema_every"] == 0 and self.k >= self.own["ema_start"]:
            self.follow(self.average, self.actor, self.own["ema_rate"])
        self.follow(self.target, self.critic, SETTINGS["target_rate"])
        self.k += 1
        return {"critic_loss": critic_loss, "consistency_loss": distance, "actor_q": q}

    def follow(self, target, source, rate):
        with torch.no_grad():
            for name, t in target.items():
                t.copy_((1 - rate) * t + rate * source[name])

    def act(self, s, noise, u):
        drawn = [sample(self.actor, s, one) for one in noise]
        keys = [
            min(q.item() for q in self.qs(self.target, s, a)) - math.log(-math.log(x.item()))
            for a, x in zip(drawn, u, strict=True)
        ]
        return drawn[keys.index(max(keys))]

    def assert_same(self):
        for name, tensor in own_tensors(self.agent, self.run, 2).items():
            torch.testing.assert_close(tensor, self.p[name], rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("own", "changes"),
    [
        (SMALL, {}),
        (SMALL | {"ema_start": 0, "ema_every": 1, "clip_norm": None}, {"critics": 3}),
        (SMALL | {"normalize_target": True, "restart": 50_000, "clip_norm": 30.0}, {"critics": 1}),
    ],
)
def test_updates_are_the_reference_s(own, changes):
    check_updates(ReferenceCAC, "cac", own, changes)


def test_what_the_updates_cross():
    """The case above is useless unless gradients are clipped and coins fall on both sides."""
    agent = doubled("cac", SMALL, {})
    noise = agent.draw(RunStreams([8, 9]), 4, 7)
    assert {int(2 * c) for c in noise["coin"][:, :, 0].flatten()} == {0, 1}
    one = ReferenceCAC(agent, 0, SMALL)
    counts = []
    for i in range(4):
        batch = {k: v[0].double() for k, v in make_transitions([10 * i, 10 * i + 1]).items()}
        counts.append(len(levels(one.k, SMALL["restart"])))
        one.update(batch, {k: v[i, 0].double() for k, v in noise.items()})
    assert counts == [2, 87, 123, 2]
    assert all(any(adam.was_clipped) for adam in one.adams)


def test_it_acts_by_its_draws_and_their_values():
    agent = doubled("cac", SMALL, {})
    plain = [ReferenceCAC(agent, run, SMALL) for run in range(2)]
    observations, streams = RunStreams([1, 2]).normal(6, 3), RunStreams([3, 4])
    noise, u = streams.normal(6, 5, 2, 2).double(), streams.uniform(6, 5).double()
    actions = agent.float().act(observations, RunStreams([3, 4]))
    for run, one in enumerate(plain):
        for i in range(6):
            expected = one.act(observations[run, i].double(), noise[run, i], u[run, i])
            torch.testing.assert_close(actions[run, i].double(), expected, rtol=0, atol=1e-4)


def test_a_draw_is_taken_with_the_softmax_of_its_value():
    """Four draws of known values, min over two critics: probabilities e^q / Σ e^q, at temperature 1."""
    agent = make("cac", [4], SMALL | {"candidates": 4})
    size, q = 20_000, torch.tensor([0.0, 1.0, -1.0, 2.0])
    drawn = torch.linspace(-1, 1, 4).view(1, 1, 4, 1).expand(1, size, 4, 2)
    both = torch.stack([q, q + torch.tensor([0.0, 5.0, 5.0, 5.0])]).view(1, 2, 1, 4).expand(1, 2, size, 4)
    agent.sample = lambda policy, observations, noise: (drawn, both)
    actions = agent.act(torch.zeros(1, size, 3), RunStreams([1]))
    found = torch.stack([(actions[0, :, 0] == a).float().mean() for a in drawn[0, 0, :, 0]])
    torch.testing.assert_close(found, q.softmax(0), rtol=0, atol=0.01)

"""Diffusion models and what is learnt with them, against a second, obvious implementation and known answers.

One run, loops over samples, every formula by hand; one network is updated after the other.
"""

from __future__ import annotations

import math

import pytest
import torch
from reference import SETTINGS
from test_agents_common import make
from test_agents_reference import check_updates, doubled, mean, samples

from flp.parts.diffusion import vp_alphas
from flp.randomness.streams import RunStreams

STEPS = 10  # of the cosine
ALPHAS = [math.exp(-0.1 / 5 - 0.5 * (10 - 0.1) * (2 * t - 1) / 25) for t in range(1, 6)]
SMALL = {"width": 8, "blocks": 2, "weight_decay": 0.1, "cosine_steps": STEPS, "expectile": 0.8}


def alpha_bar(k):
    return math.prod(ALPHAS[: k + 1])


def silu(x):
    return x / (1 + torch.exp(-x))


def own_tensors(module, run, runs):
    """A module's parameters of one run, by name."""
    return {
        name: tensor.detach().unflatten(0, (runs, -1))[run].clone().requires_grad_()
        for name, tensor in module.named_parameters()
    }


def denoise(p, s, x, k, mask=None):
    """The residual network on one sample."""
    phases = 2 * math.pi * k * p["model.frequencies"][0, 0]
    t = torch.cat([torch.cos(phases), torch.sin(phases)])
    t = silu(t @ p["model.time.0.weight"][0] + p["model.time.0.bias"][0, 0])
    t = t @ p["model.time.1.weight"][0] + p["model.time.1.bias"][0, 0]
    h = torch.cat([s, x, t]) @ p["model.entry.weights.0"][0] + p["model.entry.biases.0"][0, 0]
    for i in range(SMALL["blocks"]):
        block = {name.split(".", 3)[3]: v[0] for name, v in p.items() if name.startswith(f"model.blocks.{i}.")}
        y = h if mask is None else h * mask[i]
        y = (y - y.mean()) / torch.sqrt(y.var(correction=0) + 1e-6)
        y = silu((y * block["scale"][0] + block["shift"][0]) @ block["inner.weight"] + block["inner.bias"][0])
        h = h + y @ block["outer.weight"] + block["outer.bias"][0]
    return silu(h) @ p["model.exit.weight"][0] + p["model.exit.bias"][0, 0]


def perceptron(p, prefix, member, x, normalize=False):
    """ReLU layers on one sample."""
    if normalize:
        x = (x - x.mean()) / torch.sqrt(x.var(correction=0) + 1e-6)
    layers = sum(name.startswith(f"{prefix}.weights") for name in p)
    for i in range(layers):
        x = x @ p[f"{prefix}.weights.{i}"][member] + p[f"{prefix}.biases.{i}"][member, 0]
        x = x if i == layers - 1 else x.clamp(min=0)
    return x


class AdamW:
    """Adam with decoupled weight decay and a cosine rate, by the formulas."""

    def __init__(self, parameters, cosine=True, decay=0.0):
        self.parameters, self.cosine, self.decay, self.t = list(parameters), cosine, decay, 0
        self.rested = 0  # updates of the learner that moved nothing here, in which the rate falls too
        self.m, self.v = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))

    def step(self, loss):
        rate = SETTINGS["learning_rate"]
        if self.cosine:
            rate *= 0.5 * (1 + math.cos(math.pi * min(self.t + self.rested, STEPS) / STEPS))
        self.t += 1
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            for p, g, m, v in zip(self.parameters, gradients, self.m, self.v, strict=True):
                m.copy_(0.9 * m + 0.1 * g)
                v.copy_(0.999 * v + 0.001 * g * g)
                adam = (m / (1 - 0.9**self.t)) / ((v / (1 - 0.999**self.t)).sqrt() + 1e-8)
                p -= rate * (adam + self.decay * p)


class ReferenceDiffusion:
    """One run of an agent with a diffusion model, initialised from run `run` of a batched agent of two."""

    def __init__(self, agent, run, own):
        self.agent, self.run, self.own = agent, run, own
        self.p = own_tensors(agent, run, 2)
        self.diffusion = self.group("diffusion")
        self.value, self.critic = self.group("values.value"), self.group("values.critic")
        self.target = self.group("values.target_critic")
        self.members = len(self.critic["net.biases.0"])
        self.adams = [
            AdamW(self.diffusion.values(), decay=own["weight_decay"]),
            AdamW(self.value.values(), cosine=False),
            AdamW(self.critic.values(), cosine=False),
        ]

    def group(self, name):
        return {key.removeprefix(f"{name}."): t for key, t in self.p.items() if key.startswith(f"{name}.")}

    def v(self, s):
        return perceptron(self.value, "net", 0, s, self.own.get("value_layer_norm", False))[0]

    def qs(self, p, s, a):
        return [perceptron(p, "net", member, torch.cat([s, a]))[0] for member in range(self.members)]

    def diffusion_loss(self, batch, noise):
        losses = []
        for i, row in enumerate(samples(batch)):
            k, e = int(5 * noise["u"][i].item()), noise["epsilon"][i]
            x = math.sqrt(alpha_bar(k)) * row["actions"] + math.sqrt(1 - alpha_bar(k)) * e
            mask = noise["masks"][i] if "masks" in noise else None
            losses.append(((denoise(self.diffusion, row["observations"], x, k, mask) - e) ** 2).sum())
        return mean(losses)

    def update_values(self, batch):
        value_losses, critic_losses = [], []
        for row in samples(batch):
            s, a = row["observations"], row["actions"]
            u = min(q.item() for q in self.qs(self.target, s, a)) - self.v(s)
            value_losses.append(abs(self.own["expectile"] - (1 if u < 0 else 0)) * u**2)
        value_loss = mean(value_losses)
        self.adams[1].step(value_loss)
        for row in samples(batch):
            y = row["rewards"] + SETTINGS["discount"] * row["masks"] * self.v(row["next_observations"]).item()
            critic_losses += [(q - y) ** 2 for q in self.qs(self.critic, row["observations"], row["actions"])]
        critic_loss = mean(critic_losses)
        self.adams[2].step(critic_loss)
        self.follow(self.target, self.critic, SETTINGS["target_rate"])
        return {"value_loss": value_loss, "critic_loss": critic_loss}

    def follow(self, target, source, rate):
        with torch.no_grad():
            for name, t in target.items():
                t.copy_((1 - rate) * t + rate * source[name])

    def sample(self, p, s, noise):
        x = noise[0]
        for k in (4, 3, 2, 1, 0):
            e = denoise(p, s, x, k)
            x = (x - (1 - ALPHAS[k]) / math.sqrt(1 - alpha_bar(k)) * e) / math.sqrt(ALPHAS[k])
            x = (x + math.sqrt(1 - ALPHAS[k]) * noise[k] if k > 0 else x).clamp(-1, 1)
        return x

    def assert_same(self):
        for name, tensor in own_tensors(self.agent, self.run, 2).items():
            torch.testing.assert_close(tensor, self.p[name], rtol=1e-6, atol=1e-7, msg=name)


class ReferenceIDQL(ReferenceDiffusion):
    def __init__(self, agent, run, own):
        super().__init__(agent, run, own)
        self.average, self.count = self.group("average"), 0

    def update(self, batch, noise):
        loss = self.diffusion_loss(batch, noise)
        self.adams[0].step(loss)
        self.follow(self.average, self.diffusion, self.own["ema_rate"])
        self.count += 1
        if self.count % self.own.get("value_every", 1) == 0:
            return {"diffusion_loss": loss} | self.update_values(batch)
        return {"diffusion_loss": loss}

    def act(self, s, noise):
        candidates = [self.sample(self.average, s, one) for one in noise]
        values = [min(q.item() for q in self.qs(self.target, s, a)) for a in candidates]
        return candidates[values.index(max(values))]


class ReferenceSRPO(ReferenceDiffusion):
    def __init__(self, agent, run, own):
        super().__init__(agent, run, own)
        self.adams.append(AdamW(self.group("actor").values()))
        self.count = 0

    def update(self, batch, noise):
        loss = self.diffusion_loss(batch, noise)
        self.adams[0].step(loss)
        logs = {"diffusion_loss": loss} | self.update_values(batch)
        losses, values = [], []
        for i, row in enumerate(samples(batch)):
            s, z, k = row["observations"], noise["policy_z"][i], int(5 * noise["policy_u"][i].item())
            a = torch.tanh(perceptron(self.p, "actor", 0, s))
            x = math.sqrt(alpha_bar(k)) * a + math.sqrt(1 - alpha_bar(k)) * z
            score = (denoise(self.diffusion, s, x, k) - z).detach()
            still = a.detach().requires_grad_()
            values.append(mean(self.qs(self.target, s, still)))
            (slope,) = torch.autograd.grad(values[-1], still)
            if self.own.get("normalize_gradient"):
                slope = slope / torch.sqrt(mean(slope**2))
            losses.append((1 - alpha_bar(k)) * (score * a).sum() - self.own["beta"] * (slope * a).sum())
        self.count += 1
        if self.count > self.own.get("actor_start", 0):
            self.adams[3].step(mean(losses))
        else:
            self.adams[3].rested += 1
        return logs | {"actor_loss": mean(losses), "actor_q": mean(values)}


@pytest.mark.parametrize(
    ("reference", "name", "own", "changes"),
    [
        (ReferenceSRPO, "srpo", SMALL | {"beta": 0.7}, {}),
        (ReferenceSRPO, "srpo", SMALL | {"beta": 0.7, "normalize_gradient": True, "actor_start": 2}, {"critics": 3}),
        (ReferenceIDQL, "idql", SMALL | {"ema_rate": 0.3, "dropout": 0.2}, {}),
        (ReferenceIDQL, "idql", SMALL | {"ema_rate": 0.3, "value_layer_norm": True}, {"critics": 3}),
        (ReferenceIDQL, "idql", SMALL | {"ema_rate": 0.3, "value_every": 2}, {}),
    ],
)
def test_updates_are_the_reference_s(reference, name, own, changes):
    check_updates(reference, name, own, changes, rtol=1e-5, atol=1e-6)  # its tables and rates are float32


def test_idql_takes_the_best_of_its_draws():
    own = SMALL | {"candidates": 5}
    agent = doubled("idql", own, {})
    plain = [ReferenceIDQL(agent, run, own) for run in range(2)]
    observations = RunStreams([1, 2]).normal(6, 3)
    noise = RunStreams([3, 4]).normal(6, 5, 5, 2).double()
    actions = agent.float().act(observations, RunStreams([3, 4]))
    for run, one in enumerate(plain):
        for i in range(6):
            expected = one.act(observations[run, i].double(), noise[run, i])
            torch.testing.assert_close(actions[run, i].double(), expected, rtol=0, atol=1e-4)


def test_the_schedule_of_five_steps():
    alphas = torch.tensor(vp_alphas(5), dtype=torch.float64)
    expected = torch.tensor([0.195875, 0.458818, 0.635781, 0.754878, 0.835031], dtype=torch.float64)
    torch.testing.assert_close(1 - alphas, expected, rtol=0, atol=1e-6)
    expected = torch.tensor([0.804125, 0.435178, 0.158500, 0.038852, 0.006409], dtype=torch.float64)
    torch.testing.assert_close(alphas.cumprod(0), expected, rtol=0, atol=1e-6)


def test_draws_of_a_known_denoiser_are_its_data():
    diffusion = make("idql", [4], SMALL).diffusion
    mu = torch.tensor([0.3, -0.7])
    bars = torch.tensor([alpha_bar(k) for k in range(5)])

    def oracle(observations, x, k):
        bar = bars[k.long()]
        return (x - bar.sqrt() * mu) / (1 - bar).sqrt()

    diffusion.model.forward = oracle
    drawn = diffusion.sample(torch.zeros(1, 50, 3), RunStreams([1]).normal(50, 5, 2))
    torch.testing.assert_close(drawn, mu.expand(1, 50, 2), rtol=0, atol=1e-6)


def test_every_level_is_drawn_alike():
    diffusion = make("idql", [4], SMALL).diffusion
    k = diffusion.timestep(RunStreams([1]).uniform(20000))
    assert torch.bincount(k[0]).tolist() == pytest.approx([4000] * 5, rel=0.06)
    assert diffusion.timestep(torch.tensor([0.0, 1 - 2**-24])).tolist() == [0, 4]


@pytest.mark.parametrize(("beta", "offset"), [(0.0, 0.5), (0.0, -0.5), (0.4, 0.5), (0.4, -0.5)])
def test_srpo_is_pulled_to_the_data_and_by_q(beta, offset):
    """Data N(μ, s²) with its own denoiser, and Q = g · a: E ∂L/∂a = c (a − μ) − β g."""
    agent = make("srpo", [4], SMALL | {"beta": beta})
    mu, s, g = torch.tensor([0.1, -0.2]), 0.1, torch.tensor([1.0, -2.0])
    bars = torch.tensor([alpha_bar(k) for k in range(5)])

    def oracle(observations, x, k):
        bar = bars[k.long()]
        return (1 - bar).sqrt() * (x - bar.sqrt() * mu) / (bar * s**2 + 1 - bar)

    agent.diffusion.model.forward = oracle
    agent.values.target_critic.forward = lambda observations, actions: (actions @ g).unsqueeze(1)
    actions = (mu + offset).expand(1, 20000, 2).clone().requires_grad_()
    agent.policy = lambda observations: actions
    noise = {name: value[0] for name, value in agent.draw(RunStreams([1]), 1, 20000).items()}
    loss, _ = agent.actor_loss({"observations": torch.zeros(1, 20000, 3)}, noise)
    (gradient,) = torch.autograd.grad(20000 * loss.sum(), actions)
    expected = 0.30214 * offset - beta * g
    torch.testing.assert_close(gradient[0].mean(0), expected, rtol=0, atol=0.005)
    if beta == 0:
        assert (gradient[0].mean(0) * offset > 0).all()  # going down leads back to μ

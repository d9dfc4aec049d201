"""FLP written a second time, the obvious way: one run, plain layers, loops over samples, Adam by its formulas.

The numerical reference of the batched code. It shares nothing with `flp` but the layout of what it copies its
initial weights from.
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import nn

from flp.agents.flp import FLP
from flp.flow.behavior import Flow
from flp.flow.velocity import VelocityField
from flp.params.sections import OfflineSettings
from flp.parts.base import Spec
from flp.randomness.streams import RunStreams

SETTINGS = {
    "agents": ["flp"],
    "tasks": [1],
    "steps": 100,
    "alpha": 0.5,
    "candidates": 3,
    "hidden": [6, 5],
    "critic_layer_norm": True,
    "critics": 2,
    "aggregation": "mean",
    "batch_size": 7,
    "learning_rate": 1e-2,
    "discount": 0.9,
    "target_rate": 0.05,
    "log_std_min": -5.0,
    "log_std_max": 2.0,
    "success_timing": "pre",
    "precision": "float32",
}
OBSERVATIONS, ACTIONS = 3, 2


def make_flow(seeds, observations=OBSERVATIONS, actions=ACTIONS, hidden=(4,), solver="midpoint", steps=4):
    """Random flows, one per seed."""
    return Flow(VelocityField(RunStreams(list(seeds)), observations, actions, list(hidden)), solver, steps)


def make_agent(seeds, *, alphas=None, counts=None, observations=OBSERVATIONS, actions=ACTIONS, flow=None, **changes):
    """A small agent with one run per seed."""
    seeds = list(seeds)
    settings = OfflineSettings(**(SETTINGS | changes))
    return FLP(
        Spec(
            streams=RunStreams(seeds),
            observation_dim=observations,
            action_dim=actions,
            offline=settings,
            alpha=torch.tensor(alphas or [settings.alpha] * len(seeds)),
            candidates=tuple(counts or [settings.candidates] * len(seeds)),
            flow=flow or make_flow(seeds, observations, actions),
        )
    )


def make_batch(seeds, size=7, observations=OBSERVATIONS, actions=ACTIONS):
    """A random batch `[R, size, ...]`; run r's part depends on its seed alone."""
    streams = RunStreams([1000 + seed for seed in seeds])
    return {
        "observations": streams.normal(size, observations),
        "actions": streams.normal(size, actions),
        "next_observations": streams.normal(size, observations),
        "rewards": streams.normal(size),
        "masks": (streams.uniform(size) < 0.7).float(),
    }


def randomize(agent, seed=0):
    """Move every parameter of policy, critic and target away from its special start; return the agent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for network in (agent.policy, agent.critic, agent.target_critic):
            for parameter in network.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return agent


def double(agent):
    """The agent in float64."""
    agent.double()
    agent.alpha = agent.alpha.double()
    agent.optimizers = [type(o)(o.parameters, o.learning_rate) for o in agent.optimizers]
    return agent


class Network(nn.Module):
    """A plain multi-layer perceptron: linear, GELU (tanh), layer normalisation, …, linear."""

    def __init__(self, mlp, run, member=0):
        super().__init__()
        layers, index = [], run * mlp.members + member
        for i, weight in enumerate(mlp.weights):
            linear = nn.Linear(weight.shape[1], weight.shape[2], dtype=weight.dtype)
            linear.weight.data = weight.data[index].T.clone(memory_format=torch.contiguous_format)
            linear.bias.data = mlp.biases[i].data[index, 0].clone()
            layers.append(linear)
            if i < len(mlp.weights) - 1:
                layers.append(nn.GELU(approximate="tanh"))
                if mlp.layer_norm:
                    norm = nn.LayerNorm(weight.shape[2], eps=1e-6, dtype=weight.dtype)
                    norm.weight.data = mlp.scales[i].data[index, 0].clone()
                    norm.bias.data = mlp.shifts[i].data[index, 0].clone()
                    layers.append(norm)
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)

    def tensors(self):
        """Parameters by layer, weights laid out `[inputs, outputs]` as the batched code has them."""
        found = {"weights": [], "biases": [], "scales": [], "shifts": []}
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                found["weights"].append(layer.weight.data.T)
                found["biases"].append(layer.bias.data[None])
            elif isinstance(layer, nn.LayerNorm):
                found["scales"].append(layer.weight.data[None])
                found["shifts"].append(layer.bias.data[None])
        return found


def assert_same_network(mlp, run, member, network, **tolerance):
    """Check one member of one run of a batched MLP against a plain network."""
    index = run * mlp.members + member
    for kind, expected in network.tensors().items():
        actual = [parameter.data[index] for parameter in getattr(mlp, kind)]
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, **tolerance)


class Adam:
    """Adam (Kingma and Ba, 2015, Algorithm 1)."""

    def __init__(self, parameters, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
        self.parameters = list(parameters)
        self.rate, self.beta1, self.beta2, self.epsilon = learning_rate, beta1, beta2, epsilon
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = 0

    def step(self, loss):
        self.t += 1
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            for p, g, m, v in zip(self.parameters, gradients, self.m, self.v, strict=True):
                m.copy_(self.beta1 * m + (1 - self.beta1) * g)
                v.copy_(self.beta2 * v + (1 - self.beta2) * g * g)
                m_hat, v_hat = m / (1 - self.beta1**self.t), v / (1 - self.beta2**self.t)
                p -= self.rate * m_hat / (v_hat.sqrt() + self.epsilon)


class ReferenceFLP:
    """One run of FLP, initialised from run `run` of a batched agent."""

    def __init__(self, agent, run, *, learning_rate=None, candidates=None):
        members = range(agent.critic.net.members)
        self.policy = Network(agent.policy.net, run)
        self.critics = [Network(agent.critic.net, run, member) for member in members]
        self.targets = deepcopy([Network(agent.target_critic.net, run, member) for member in members])
        self.clamp = agent.policy.log_std_range
        self.alpha, self.discount = float(agent.alpha[run]), agent.discount
        self.rate, self.aggregation = agent.target_rate, agent.aggregation
        self.candidates = candidates or agent.target_candidates[run]
        self.resamples, self.temperature = agent.resamples, agent.temperature
        rate = learning_rate or SETTINGS["learning_rate"]
        self.policy_adam = Adam(self.policy.parameters(), rate)
        self.critic_adam = Adam([p for critic in self.critics for p in critic.parameters()], rate)

    def gaussian(self, s):
        out = self.policy(s)
        d = len(out) // 2
        return out[:d], out[d:].clamp(*self.clamp).exp()

    def actor_loss(self, batch, noise):
        total = 0.0
        for s, e in zip(batch["observations"], noise, strict=True):
            mean, std = self.gaussian(s)
            z = mean + std * e
            q = sum(critic(torch.cat([s, z])) for critic in self.critics) / len(self.critics)
            kl = sum(0.5 * (std[i] ** 2 + mean[i] ** 2 - 1 - torch.log(std[i] ** 2)) for i in range(len(mean)))
            total = total + (-q.squeeze() + self.alpha * kl)
        return total / len(noise)

    def target(self, s, r, mask, noise):
        mean, std = self.gaussian(s)
        best, weights, weighted = -math.inf, 0.0, 0.0
        for e in noise[: self.candidates]:
            z = mean + std * e
            values = [target(torch.cat([s, z])).item() for target in self.targets]
            value = min(values) if self.aggregation == "min" else sum(values) / len(values)
            if self.aggregation == "lower_bound":
                value -= (sum((other - value) ** 2 for other in values) / len(values)) ** 0.5
            best = max(best, value)
            policy, prior = (torch.distributions.Normal(m, d).log_prob(z).sum() for m, d in ((mean, std), (0.0, 1.0)))
            weight = math.exp(value / (self.temperature * self.alpha) + (prior - policy).item())
            weights, weighted = weights + weight, weighted + weight * value
        return r + self.discount * mask * (weighted / weights if self.resamples else best)

    def critic_loss(self, batch, noise):
        total, count = 0.0, 0
        for i, e in enumerate(noise):
            with torch.no_grad():
                y = self.target(batch["next_observations"][i], batch["rewards"][i], batch["masks"][i], e)
            for critic in self.critics:
                q = critic(torch.cat([batch["observations"][i], batch["actions"][i]])).squeeze()
                total, count = total + (q - y) ** 2, count + 1
        return total / count

    def update(self, batch, noise):
        """One update on a batch `[B, ...]` with noise `policy` `[B, d]` and `candidates` `[B, N, d]`."""
        actor_loss = self.actor_loss(batch, noise["policy"])
        self.policy_adam.step(actor_loss)
        critic_loss = self.critic_loss(batch, noise["candidates"])
        self.critic_adam.step(critic_loss)
        with torch.no_grad():
            for critic, target in zip(self.critics, self.targets, strict=True):
                for p, q in zip(critic.parameters(), target.parameters(), strict=True):
                    q.copy_((1 - self.rate) * q + self.rate * p)
        return actor_loss.item(), critic_loss.item()

"""Every baseline's losses and updates against a second, obvious implementation.

One run, plain layers, loops over samples, Adam by its formulas; every loss from the parameters before the update.
"""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from reference import SETTINGS, Adam, Network, assert_same_network
from test_agents_common import make, make_transitions
from torch.distributions import Independent, Normal

from flp.parts.gaussian import log_prob
from flp.randomness.streams import RunStreams

DISCOUNT, RATE = SETTINGS["discount"], SETTINGS["target_rate"]


def networks(mlp, run):
    return [Network(mlp, run, member) for member in range(mlp.members)]


def parameters(*groups):
    return [p for group in groups for network in group for p in network.parameters()]


def call(group, *inputs):
    """The outputs of a group of networks on one sample."""
    return [network(torch.cat(inputs)).squeeze(-1) for network in group]


def samples(batch):
    """The batch's transitions one by one."""
    return [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def follow(targets, old):
    with torch.no_grad():
        for target, source in zip(parameters(targets), parameters(old), strict=True):
            target.copy_(RATE * source + (1 - RATE) * target)


class Reference:
    """One run of a baseline, initialised from run `run` of a batched agent."""

    def __init__(self, agent, run, own):
        self.own = own
        self.mlps = {
            path.removesuffix(".net"): module
            for path, module in agent.named_modules()
            if type(module).__name__ == "MLP" and not path.startswith("flow.")
        }
        self.run, self.nets = run, {path: networks(mlp, run) for path, mlp in self.mlps.items()}
        trained = [path for path in self.nets if "target" not in path]
        self.adam = {path: Adam(parameters(self.nets[path]), SETTINGS["learning_rate"]) for path in trained}
        self.field = networks(agent.flow.field.net, run) if hasattr(agent, "flow") else self.nets.get("own_flow.field")
        self.count = 0

    def assert_same(self):
        for path, mlp in self.mlps.items():
            for member, network in enumerate(self.nets[path]):
                assert_same_network(mlp, self.run, member, network, rtol=1e-7, atol=1e-9)

    def step(self, losses):
        """Descend each network's own loss, all of them computed before."""
        paths = list(losses)
        gradients = {p: torch.autograd.grad(losses[p], self.adam[p].parameters, retain_graph=True) for p in paths}
        for path in paths:
            fixed = sum((g * w).sum() for g, w in zip(gradients[path], self.adam[path].parameters, strict=True))
            self.adam[path].step(fixed)

    def decode(self, s, z):
        """Euler for an own flow; for the shared one the midpoint rule of the tests."""

        def velocity(x, t):
            return self.field[0](torch.cat([s, x, x.new_tensor([t])]))

        with torch.no_grad():
            if self.own["flow"] == "joint":
                for i in range(self.own["flow_steps"]):
                    z = z + velocity(z, i / self.own["flow_steps"]) / self.own["flow_steps"]
            else:
                for i in range(4):
                    z = z + velocity(z + velocity(z, i / 4) / 8, i / 4 + 1 / 8) / 4
        return z.clamp(-1, 1)

    def flow_loss(self, batch, noise):
        losses = []
        for i, row in enumerate(samples(batch)):
            x_0, t, x_1 = noise["x_0"][i], noise["t"][i], row["actions"]
            v = self.field[0](torch.cat([row["observations"], (1 - t) * x_0 + t * x_1, t]))
            losses.append(mean((v - (x_1 - x_0)) ** 2))
        return mean(losses)

    def in_sample(self, batch):
        """Value loss, critic loss and advantages of implicit Q-learning."""
        value, critic = self.nets["values.value"], self.nets["values.critic"]
        targets = self.nets["values.target_critic"]
        value_losses, critic_losses, advantages = [], [], []
        for row in samples(batch):
            s, a = row["observations"], row["actions"]
            (v,) = call(value, s)
            u = min(q.item() for q in call(targets, s, a)) - v
            value_losses.append((self.own["expectile"] if u >= 0 else 1 - self.own["expectile"]) * u**2)
            (next_v,) = call(value, row["next_observations"])
            y = row["rewards"] + DISCOUNT * row["masks"] * next_v.item()
            qs = call(critic, s, a)
            critic_losses.append(sum((q - y) ** 2 for q in qs))
            advantages.append(min(q.item() for q in qs) - v.item())
        return mean(value_losses), mean(critic_losses), advantages


class ReferenceBC(Reference):
    def update(self, batch, noise):
        loss = -mean(self.log_prob(row) for row in samples(batch))
        self.step({"actor": loss})
        return {"actor_loss": loss}

    def log_prob(self, row):
        mu = self.nets["actor"][0](row["observations"])
        return Independent(Normal(mu, torch.ones_like(mu)), 1).log_prob(row["actions"])


class ReferenceFBC(Reference):
    def update(self, batch, noise):
        loss = self.flow_loss(batch, noise)
        self.step({"own_flow.field": loss})
        return {"flow_loss": loss}


class ReferenceIQL(ReferenceBC):
    def update(self, batch, noise):
        value_loss, critic_loss, advantages = self.in_sample(batch)
        weights = [min(math.exp(min(self.own["alpha"] * u, 700)), 100) for u in advantages]
        actor_loss = -mean(w * self.log_prob(row) for w, row in zip(weights, samples(batch), strict=True))
        old = deepcopy(self.nets["values.critic"])
        self.step({"values.value": value_loss, "values.critic": critic_loss, "actor": actor_loss})
        follow(self.nets["values.target_critic"], old)
        return {"value_loss": value_loss, "critic_loss": critic_loss, "actor_loss": actor_loss}


class ReferenceIFQL(Reference):
    def update(self, batch, noise):
        value_loss, critic_loss, _ = self.in_sample(batch)
        losses = {"values.value": value_loss, "values.critic": critic_loss}
        logs = {"value_loss": value_loss, "critic_loss": critic_loss}
        if self.own["flow"] == "joint":
            losses["own_flow.field"] = logs["flow_loss"] = self.flow_loss(batch, noise)
        old = deepcopy(self.nets["values.critic"])
        self.step(losses)
        follow(self.nets["values.target_critic"], old)
        return logs

    def act(self, s, z):
        candidates = [self.decode(s, one) for one in z]
        values = [min(q.item() for q in call(self.nets["values.critic"], s, a)) for a in candidates]
        return candidates[values.index(max(values))]


class ReferenceFQL(Reference):
    def update(self, batch, noise):
        actor, critic, targets = self.nets["actor"], self.nets["critic"], self.nets["target_critic"]
        distillations, gains, critic_losses = [], [], []
        for i, row in enumerate(samples(batch)):
            s, z = row["observations"], noise["z"][i]
            a = actor[0](torch.cat([s, z]))
            distillations.append(mean((a - self.decode(s, z)) ** 2))
            gains.append(mean(call(critic, s, a.clamp(-1, 1))))
            s = row["next_observations"]
            a = actor[0](torch.cat([s, noise["next_z"][i]])).clamp(-1, 1)
            values = [q.item() for q in call(targets, s, a)]
            q = min(values) if self.own["aggregation"] == "min" else mean(values)
            y = row["rewards"] + DISCOUNT * row["masks"] * q
            critic_losses += [(q - y) ** 2 for q in call(critic, row["observations"], row["actions"])]
        scale = 1 / mean(abs(g.item()) for g in gains) if self.own.get("normalize_q") else 1
        losses = {
            "actor": self.own["alpha"] * mean(distillations) - scale * mean(gains),
            "critic": mean(critic_losses),
        }
        logs = {"distillation": mean(distillations), "actor_q": mean(gains), "critic_loss": mean(critic_losses)}
        if self.own["flow"] == "joint":
            losses["own_flow.field"] = logs["flow_loss"] = self.flow_loss(batch, noise)
        old = deepcopy(critic)
        self.step(losses)
        follow(targets, old)
        return logs


class ReferenceReBRAC(Reference):
    def update(self, batch, noise):
        actor, target_actor, critic = self.nets["actor"], self.nets["target_actor"], self.nets["critic"]
        gains, errors, critic_losses = [], [], []
        for i, row in enumerate(samples(batch)):
            s = row["observations"]
            a = torch.tanh(actor[0](s))
            gains.append(min(call(critic, s, a)))
            errors.append(((a - row["actions"]) ** 2).sum())
            s = row["next_observations"]
            a = (torch.tanh(target_actor[0](s)) + (0.2 * noise["target"][i]).clamp(-0.5, 0.5)).clamp(-1, 1)
            q = min(q.item() for q in call(self.nets["target_critic"], s, a))
            if row["has_next_action"]:
                q = q - self.own["alpha_critic"] * ((a - row["next_actions"]) ** 2).sum().item()
            y = row["rewards"] + DISCOUNT * row["masks"] * q
            critic_losses += [(q - y) ** 2 for q in call(critic, row["observations"], row["actions"])]
        scale = 1 / mean(abs(g.item()) for g in gains)
        actor_loss = -scale * mean(gains) + self.own["alpha_actor"] * mean(errors)
        self.count += 1
        moves = self.count % 2 == 0
        old = deepcopy(critic), deepcopy(actor)
        # The official code's single Adam sees a zero gradient when the actor rests: its momentum still moves it.
        self.step({"actor": actor_loss if moves else 0 * actor_loss, "critic": mean(critic_losses)})
        if moves:
            follow(self.nets["target_critic"], old[0])
            follow(target_actor, old[1])
        return {"actor_loss": actor_loss, "critic_loss": mean(critic_losses)}


JOINT, SHARED = {"flow": "joint", "flow_steps": 3}, {"flow": "pretrained"}
CASES = [
    (ReferenceBC, "bc", {}, {}),
    (ReferenceFBC, "fbc", {}, {}),
    (ReferenceIQL, "iql", {"expectile": 0.8, "alpha": 2.0}, {}),
    (ReferenceIQL, "iql", {"expectile": 0.8, "alpha": 1000.0}, {}),  # the largest weight is met
    (ReferenceReBRAC, "rebrac", {"alpha_actor": 0.3, "alpha_critic": 0.2}, {}),
    (ReferenceIFQL, "ifql", {"expectile": 0.8} | JOINT, {"critics": 3}),
    (ReferenceIFQL, "ifql", {"expectile": 0.8} | SHARED, {}),
    (ReferenceFQL, "fql", {"alpha": 2.0} | JOINT, {}),
    (ReferenceFQL, "fql", {"alpha": 2.0} | SHARED, {"aggregation": "min"}),
    (ReferenceFQL, "fql", {"alpha": 2.0, "normalize_q": True} | JOINT, {"critics": 3, "critic_layer_norm": False}),
]


def doubled(name, own, changes):
    """A baseline of two runs in float64, every parameter moved away from its special start."""
    agent = make(name, [4, 5], own, **changes).double()
    for optimizer in agent.optimizers:
        optimizer.mean, optimizer.variance = ([m.double() for m in ms] for ms in (optimizer.mean, optimizer.variance))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).double()
    return agent


def check_updates(reference, name, own, changes, rtol=1e-9, atol=1e-11):
    """Hold the losses and networks of two runs against the reference, over some updates."""
    agent = doubled(name, own, changes)
    plain = [reference(agent, run, own | {"aggregation": changes.get("aggregation", "mean")}) for run in range(2)]
    batches = [{k: v.double() for k, v in make_transitions([10 * i, 10 * i + 1]).items()} for i in range(4)]
    noise = {k: v.double() for k, v in agent.draw(RunStreams([8, 9]), len(batches), 7).items()}
    for i, batch in enumerate(batches):
        logs = agent.update(batch, {k: v[i] for k, v in noise.items()})
        for run, one in enumerate(plain):
            expected = one.update({k: v[run] for k, v in batch.items()}, {k: v[i, run] for k, v in noise.items()})
            for key, loss in expected.items():
                torch.testing.assert_close(logs[key][run], loss.detach(), rtol=rtol, atol=atol)
            one.assert_same()


@pytest.mark.parametrize(("reference", "name", "own", "changes"), CASES)
def test_updates_are_the_reference_s(reference, name, own, changes):
    check_updates(reference, name, own, changes)


@pytest.mark.parametrize("flow", [JOINT, SHARED])
def test_ifql_takes_the_best_of_its_draws(flow):
    own = {"candidates": 5, "expectile": 0.8} | flow
    agent = doubled("ifql", own, {})
    plain = [ReferenceIFQL(agent, run, own) for run in range(2)]
    observations = RunStreams([1, 2]).normal(6, 3)
    z = RunStreams([3, 4]).normal(6, 5, 2).double()
    agent.float()
    actions = agent.act(observations, RunStreams([3, 4]))
    for run, one in enumerate(plain):
        for i in range(6):
            expected = one.act(observations[run, i].double(), z[run, i])
            torch.testing.assert_close(actions[run, i].double(), expected, rtol=0, atol=1e-4)


def test_fql_and_fbc_act_by_their_draws():
    observations = RunStreams([1, 2]).normal(6, 3)
    z = RunStreams([3, 4]).normal(6, 2)
    fql = make("fql", [4, 5])
    actions = fql.act(observations, RunStreams([3, 4]))
    torch.testing.assert_close(actions, fql.policy(observations, z).clamp(-1, 1))
    fbc = make("fbc", [4, 5])
    actions = fbc.act(observations, RunStreams([3, 4]))
    torch.testing.assert_close(actions, fbc.own_flow.decode(observations, z))
    assert (fbc.own_flow.solver, fbc.own_flow.steps) == ("euler", 10)


def test_gaussian_log_density():
    mu, a = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double().unbind()
    expected = Independent(Normal(mu, torch.ones_like(mu)), 1).log_prob(a)
    torch.testing.assert_close(log_prob(mu, a), expected)


def test_gaussian_actors_start_small():
    # FQL scales the head's variance by 0.01, so its weights are a tenth of Glorot's.
    actor = make("bc", [0], hidden=[400], actions=400).actor
    limit = (6 / 800) ** 0.5 / 10
    assert 0.99 * limit < actor.net.weights[-1].abs().max() <= limit * (1 + 1e-6)
    assert actor.net.weights[0].abs().max() > limit

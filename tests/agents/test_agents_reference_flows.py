"""Flows that are policies, against a second, obvious implementation and against known answers."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from reference import SETTINGS, make_batch
from test_agents_common import make
from test_agents_reference import Reference, call, check_updates, follow, mean, samples

from flp.randomness.streams import RunStreams


class ReferenceFlowPolicy(Reference):
    """FQL's critic of a flow's own actions."""

    def decode(self, s, z):
        """Euler's method, with gradients."""
        n = self.own["flow_steps"]
        for i in range(n):
            z = z + self.field[0](torch.cat([s, z, z.new_tensor([i / n])])) / n
        return z.clamp(-1, 1)

    def critic_loss(self, batch, noise):
        errors = []
        for i, row in enumerate(samples(batch)):
            s = row["next_observations"]
            a = self.decode(s, noise["next_z"][i]).detach()
            values = [q.item() for q in call(self.nets["target_critic"], s, a)]
            q = min(values) if self.own["aggregation"] == "min" else mean(values)
            y = row["rewards"] + SETTINGS["discount"] * row["masks"] * q
            errors += [(q - y) ** 2 for q in call(self.nets["critic"], row["observations"], row["actions"])]
        return mean(errors)

    def finish(self, losses):
        old = deepcopy(self.nets["critic"])
        self.step(losses)
        follow(self.nets["target_critic"], old)


class ReferenceFBRAC(ReferenceFlowPolicy):
    def update(self, batch, noise):
        states = [row["observations"] for row in samples(batch)]
        q = mean(mean(call(self.nets["critic"], s, self.decode(s, noise["z"][i]))) for i, s in enumerate(states))
        flow_loss, critic_loss = self.flow_loss(batch, noise), self.critic_loss(batch, noise)
        self.finish({"own_flow.field": self.own["alpha"] * flow_loss - q, "critic": critic_loss})
        return {"flow_loss": flow_loss, "actor_q": q, "critic_loss": critic_loss}


class ReferenceFAWAC(ReferenceFlowPolicy):
    def update(self, batch, noise):
        flow_losses, value_losses, advantages = [], [], []
        for i, row in enumerate(samples(batch)):
            s, a = row["observations"], row["actions"]
            (v,) = call(self.nets["baseline"], s)
            value_losses.append(mean((v - q.item()) ** 2 for q in call(self.nets["target_critic"], s, a)))
            advantages.append(mean(call(self.nets["critic"], s, a)).item() - v.item())
            weight = min(math.exp(min(self.own["alpha"] * advantages[-1], 700)), self.own.get("max_weight", 100))
            one = {name: value[i : i + 1] for name, value in batch.items()}
            flow_losses.append(weight * self.flow_loss(one, {name: value[i : i + 1] for name, value in noise.items()}))
        flow_loss, value_loss, critic_loss = mean(flow_losses), mean(value_losses), self.critic_loss(batch, noise)
        self.finish({"own_flow.field": flow_loss, "baseline": value_loss, "critic": critic_loss})
        advantage = torch.tensor(mean(advantages), dtype=torch.float64)
        return {"flow_loss": flow_loss, "value_loss": value_loss, "critic_loss": critic_loss, "advantage": advantage}


@pytest.mark.parametrize(
    ("reference", "name", "own", "changes"),
    [
        (ReferenceFAWAC, "fawac", {"alpha": 2.0, "flow_steps": 3}, {}),
        (ReferenceFAWAC, "fawac", {"alpha": 50.0, "flow_steps": 3}, {}),  # the largest weight is met
        (ReferenceFAWAC, "fawac", {"alpha": 0.5, "flow_steps": 2}, {"aggregation": "min", "critics": 3}),
        (ReferenceFBRAC, "fbrac", {"alpha": 2.0, "flow_steps": 3}, {}),
        (ReferenceFBRAC, "fbrac", {"alpha": 0.5, "flow_steps": 2}, {"aggregation": "min", "critics": 3}),
    ],
)
def test_updates_are_the_reference_s(reference, name, own, changes):
    check_updates(reference, name, own, changes)


def test_without_weights_fawac_clones_update_for_update():
    weighted, cloned = make("fawac", [4, 5], {"alpha": 0.0}), make("fbc", [4, 5])
    cloned.own_flow.load_state_dict(weighted.own_flow.state_dict())
    noise = {name: value[0] for name, value in weighted.draw(RunStreams([1, 2]), 1, 7).items()}
    for i in range(3):
        batch = make_batch([10 + i, 20 + i])
        torch.testing.assert_close(weighted.update(batch, noise)["flow_loss"], cloned.update(batch, noise)["flow_loss"])
    for key, value in cloned.own_flow.state_dict().items():
        torch.testing.assert_close(weighted.own_flow.state_dict()[key], value)


def still_flow(own=None):
    """An FBRAC agent of two runs whose velocity is 0.1 everywhere, so that nothing is clipped."""
    agent = make("fbrac", [4, 5], own)
    field = agent.own_flow.field.net
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
        field.biases[-1].fill_(0.1)
    z = 0.2 * RunStreams([1, 2]).normal(7, 2)
    return agent, field.biases[-1], make_batch([4, 5]), {"z": z, "x_0": z, "t": torch.zeros(2, 7, 1)}


def test_q_s_gradient_passes_through_all_of_the_flow_s_steps():
    agent, bias, batch, noise = still_flow({"alpha": 0.0})
    (gradient,) = torch.autograd.grad(agent.actor_loss(batch, noise)[0].sum(), bias)
    actions = (noise["z"] + 0.1).requires_grad_()
    (slope,) = torch.autograd.grad(agent.critic(batch["observations"], actions).mean((1, 2)).sum(), actions)
    # Ten steps of a tenth each: a = z + c, so that dQ/dc = dQ/da.
    torch.testing.assert_close(gradient[:, 0], -slope.sum(1))


def test_with_a_large_alpha_fbrac_clones():
    agent, _, batch, noise = still_flow({"alpha": 1e6})
    both, parameters = agent.actor_loss(batch, noise)[0], agent.optimizers[0].parameters
    flow = 1e6 * agent.behavior.loss(batch, noise)
    expected = torch.autograd.grad(flow.sum(), parameters)
    for gradient, one in zip(torch.autograd.grad(both.sum(), parameters), expected, strict=True):
        torch.testing.assert_close(gradient, one, rtol=1e-4, atol=1.0)


def test_with_a_small_alpha_fbrac_finds_the_best_action():
    agent = make("fbrac", [4], {"alpha": 1e-3, "flow_steps": 3}, hidden=[16])
    agent.critic.forward = lambda observations, actions: -(actions - 0.5).square().sum(-1).unsqueeze(1)
    streams, states = RunStreams([1]), torch.zeros(1, 64, 3)
    batch = {"observations": states, "actions": torch.zeros(1, 64, 2), "rewards": torch.zeros(1, 64)}
    for _ in range(200):
        noise = {name: value[0] for name, value in agent.draw(streams, 1, 64).items()}
        loss, _ = agent.actor_loss(batch, noise)
        agent.optimizers[0].step(torch.autograd.grad(loss.sum(), agent.optimizers[0].parameters))
    actions = agent.act(states, RunStreams([2]))
    assert actions.mean().item() == pytest.approx(0.5, abs=0.03)
    assert actions.std() < 0.1

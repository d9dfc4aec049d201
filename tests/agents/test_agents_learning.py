"""Every baseline learns the known solutions of small problems."""

from __future__ import annotations

import math

import pytest
import torch
from test_agents_common import make

from flp.randomness.streams import RunStreams

SMALL = {"hidden": [32, 32], "learning_rate": 3e-3, "target_rate": 0.05, "discount": 0.9}
OWN = {
    "iql": {"alpha": 10.0},
    "rebrac": {"alpha_actor": 0.01, "alpha_critic": 0.01},
    "ifql": {"candidates": 16},
    "fql": {"alpha": 0.1},
    "idql": {"candidates": 16, "width": 32, "blocks": 2, "ema_rate": 0.02},
    "srpo": {"beta": 1.0, "width": 32, "blocks": 2},
    "cac": {"eta": 100.0, "ema_rate": 0.02, "ema_every": 1, "ema_start": 0, "restart": 600},
    "fbrac": {"alpha": 0.1, "flow_steps": 5},
    "rlpd": {"initial_temperature": 0.1},
    "fawac": {"alpha": 12.0, "max_weight": 1000.0, "flow_steps": 5},
    "calql": {"weight": 0.1, "draws": 4, "policy_learning_rate": 3e-3},
}


def learn(name, data, *, steps, batch=64, **own):
    """Train one run on a dataset of a few thousand transitions."""
    observations, actions = data["observations"].shape[-1], data["actions"].shape[-1]
    agent = make(name, [0], own or OWN.get(name), observations=observations, actions=actions, steps=steps, **SMALL)
    streams = RunStreams([1])
    indices = streams.integers(len(data["rewards"]), steps, batch)[0]
    noise = agent.draw(streams, steps, batch)
    for k in range(steps):
        for optimizer in agent.optimizers:  # in the second half the rate falls, for values come to rest
            optimizer.learning_rate = SMALL["learning_rate"] * min(1, 2 * (1 - k / steps))
        rows = {key: value[indices[k]][None] for key, value in data.items()}
        agent.update(rows, {key: value[k] for key, value in noise.items()})
    return agent


def actions_at(agent, observation, draws=400):
    observations = torch.tensor(observation).expand(1, draws, len(observation))
    return agent.act(observations, RunStreams([2]))[0]


def bandit(size=4000):
    """Two modes, a = ±0.6, twice as often the left one; the right one alone is rewarded. Episodes are of one step."""
    generator = torch.Generator().manual_seed(0)
    side = torch.where(torch.rand(size, generator=generator) < 1 / 3, 1.0, -1.0)
    actions = (0.6 * side + 0.05 * torch.randn(size, generator=generator))[:, None]
    ones = torch.ones(size, 1)
    return {
        "observations": ones,
        "actions": actions,
        "next_observations": ones,
        "rewards": (side + 1) / 2,
        "masks": torch.zeros(size),
        "next_actions": torch.zeros(size, 1),
        "has_next_action": torch.zeros(size),
        "returns": (side + 1) / 2,
    }


def test_gaussian_cloning_falls_between_the_modes():
    actions = actions_at(learn("bc", bandit(), steps=200), [1.0])
    assert actions.mean().item() == pytest.approx(-0.2, abs=0.08)
    assert actions.std() < 1e-6


def test_flow_cloning_keeps_both_modes_and_ignores_reward():
    actions = actions_at(learn("fbc", bandit(), steps=800), [1.0])
    near = ((actions.abs() - 0.6).abs() < 0.25).float().mean().item()
    assert near > 0.8
    assert (actions > 0).float().mean().item() == pytest.approx(1 / 3, abs=0.12)


def test_diffusion_keeps_both_modes_and_ignores_reward():
    # Five steps leave a fifth of the draws between the modes, of the best model too.
    own = {"candidates": 1, "width": 32, "blocks": 2, "ema_rate": 0.02, "diffusion_steps": 20}
    agent = learn("idql", bandit(), steps=800, **own)
    actions = actions_at(agent, [1.0])
    near = ((actions.abs() - 0.6).abs() < 0.25).float().mean().item()
    assert near > 0.8
    assert (actions > 0).float().mean().item() == pytest.approx(1 / 3, abs=0.12)


@pytest.mark.parametrize("name", OWN)
def test_the_rewarded_mode_is_taken(name):
    actions = actions_at(learn(name, bandit(), steps=300), [1.0])
    assert (actions > 0).float().mean() > 0.9


@pytest.mark.parametrize(("beta", "expected"), [(0.0, -0.2), (0.3, 0.55)])
def test_srpo_is_held_by_the_data(beta, expected):
    # Most of five levels' weight lies where noise blurs the modes: without Q it rests at the data's mean, and a slope
    # of some 0.8 moves it by 0.3 · 0.8 / c with c = 0.3 (see the known answer in test_agents_reference_diffusion.py).
    actions = actions_at(learn("srpo", bandit(), steps=300, beta=beta, width=32, blocks=2), [1.0])
    assert actions.mean().item() == pytest.approx(expected, abs=0.15)
    assert actions.std() < 1e-6


@pytest.mark.parametrize(
    ("candidates", "steps", "expected"), [(1, 800, 1 / 3), (50, 1500, math.e / (math.e + 2))], ids=["clones", "takes"]
)
def test_cac_without_q_clones_and_then_takes_by_value(candidates, steps, expected):
    # A third of the data is right and worth 1, the rest 0: softmax over many draws takes the right with e / (e + 2).
    own = OWN["cac"] | {"eta": 0.0, "candidates": candidates}
    actions = actions_at(learn("cac", bandit(), steps=steps, **own), [1.0], draws=4000)
    assert (actions > 0).float().mean().item() == pytest.approx(expected, abs=0.1)
    assert ((actions.abs() - 0.6).abs() < 0.3).float().mean() > 0.5


@pytest.mark.parametrize("alpha", [0.3, 1.0, 3.0])
def test_fawac_tilts_the_data_by_its_weights(alpha):
    # A third of the data is right and worth 1, the rest 0: P(right) = e^α / (e^α + 2), whatever V is.
    actions = actions_at(learn("fawac", bandit(), steps=400, alpha=alpha, flow_steps=5), [1.0], draws=4000)
    weight = math.exp(alpha)
    assert (actions > 0).float().mean().item() == pytest.approx(weight / (weight + 2), abs=0.08)


def chain(size=4000):
    """From the start one goes right (a > 0) or left; at the right a gives (1 + a) / 2, at the left anything gives 0.3.

    Only the second step is rewarded, so at the start the values are γ · V(right) and γ · 0.3.
    """
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(3, (size,), generator=generator)  # start, right, left
    actions = 2 * torch.rand(size, 1, generator=generator) - 1
    positive = actions[:, 0] > 0
    here, after = torch.eye(3)[place], torch.eye(3)[torch.where(positive, 1, 2)]
    rewards = torch.where(place == 1, (1 + actions[:, 0]) / 2, 0.3)
    later = torch.rand(size, generator=torch.Generator().manual_seed(1))  # what the right gave after a start
    return {
        "observations": here,
        "actions": actions,
        "next_observations": after,
        "rewards": torch.where(place == 0, 0.0, rewards),
        "masks": (place == 0).float(),
        "next_actions": 2 * torch.rand(size, 1, generator=generator) - 1,
        "has_next_action": (place == 0).float(),
        "returns": torch.where(place == 0, 0.9 * torch.where(positive, later, 0.3), rewards),
    }


# The best action's value is 1, less under ReBRAC's noise; the 0.9-expectile m of uniform rewards solves
# 0.9 (1 - m)² = 0.1 m². Where a has density e^(12 r), r is 1 - 1/12 on average. Cal-QL takes the best of four draws,
# and the penalty its part of it.
RIGHT = {"fql": 1.0, "cac": 1.0, "rlpd": 1.0, "fbrac": 1.0, "fawac": 0.92, "rebrac": 0.93}
RIGHT |= dict.fromkeys(("iql", "ifql", "idql", "srpo"), 0.75)
RIGHT |= {"calql": 0.94}


@pytest.mark.parametrize("name", OWN)
def test_value_is_carried_back_along_a_chain(name):
    agent = learn(name, chain(), steps=900)
    assert (actions_at(agent, [1.0, 0.0, 0.0]) > 0).float().mean() > 0.9
    assert (actions_at(agent, [0.0, 1.0, 0.0]) > 0.5).float().mean() > 0.9
    critic = agent.critic if hasattr(agent, "critic") else agent.values.critic
    start = torch.tensor([[[1.0, 0.0, 0.0]]])
    scale = agent.value_scale
    right, left = (critic(start, torch.tensor([[[a]]])).mean().item() / scale for a in (0.6, -0.6))
    assert right == pytest.approx(0.9 * RIGHT[name], abs=0.05)
    assert left == pytest.approx(0.9 * 0.3, abs=0.05)


@pytest.mark.slow(10)
def test_what_was_earned_holds_the_policy_s_values_up():
    """A penalty as large as it can be here holds the values of what the policy does below what that is worth, but for
    the returns."""
    own, data = {"weight": 5.0, "draws": 4, "policy_learning_rate": 3e-3}, chain()
    start = torch.tensor([[[1.0, 0.0, 0.0]]]).expand(1, 400, 3)

    def worth(data):
        agent = learn("calql", data, steps=900, **own)
        return agent.value(start, agent.explore(start, RunStreams([2]))[0]).mean().item()

    held, fallen = worth(data), worth(data | {"returns": torch.full_like(data["returns"], -math.inf)})
    assert fallen < 0.5 and held > fallen + 0.07

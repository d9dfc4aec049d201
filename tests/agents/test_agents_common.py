"""Invariants of every baseline: its runs are independent, its tensors split into runs, and it can be restored."""

from __future__ import annotations

import math
import re
from typing import get_args

import pytest
import torch
from random_transitions import make_replay
from reference import SETTINGS, make_batch, make_flow

from flp.agents import make_agent as build
from flp.params.sections import IN_LATENTS, AgentName, OfflineSettings, starts_from_flow
from flp.parts.base import Spec
from flp.randomness.streams import RunStreams
from flp.runs.run_folder import parameters_of, restore_parameters
from flp.supervision.health import Health

CASES = [
    ("bc", {}),
    ("fbc", {}),
    ("iql", {"alpha": 3.0}),
    ("rebrac", {"alpha_actor": 0.3, "alpha_critic": 0.2}),
    ("ifql", {"flow": "joint", "candidates": 5, "flow_steps": 3}),
    ("ifql", {"flow": "pretrained", "candidates": 5}),
    ("fql", {"flow": "joint", "flow_steps": 3}),
    ("fql", {"flow": "pretrained", "normalize_q": True}),
    ("idql", {"candidates": 5, "width": 8, "blocks": 2, "dropout": 0.1, "value_every": 2}),
    ("srpo", {"width": 8, "blocks": 2, "normalize_gradient": True, "actor_start": 1}),
    ("cac", {"hidden": [8, 6], "max_backup": 3, "candidates": 5, "ema_start": 1, "ema_every": 1, "restart": 2}),
    ("fawac", {"flow_steps": 3}),
    ("fbrac", {"flow_steps": 3}),
    ("rlpd", {}),
    ("calql", {"draws": 3}),
    ("calql", {"draws": 3, "lagrange_gap": 0.5}),
]
OFFLINE = OfflineSettings(**SETTINGS)
every_case = pytest.mark.parametrize(("name", "own"), CASES, ids=[f"{n}-{o.get('flow', '')}" for n, o in CASES])


def make(name, seeds, own=None, *, flow=None, observations=3, actions=2, growing=None, **changes):
    """A small baseline with one run per seed; `own` are its own hyperparameters."""
    seeds = list(seeds)
    settings = OfflineSettings(**(SETTINGS | changes | {"baselines": {name: own} if own else {}}))
    if flow is None and starts_from_flow(name, settings):
        flow = make_flow(seeds, observations, actions)
    return build(
        name,
        Spec(
            streams=RunStreams(seeds),
            observation_dim=observations,
            action_dim=actions,
            offline=settings,
            alpha=torch.ones(len(seeds)),
            candidates=(1,) * len(seeds),
            flow=flow,
            growing_discount=growing,
        ),
    )


@pytest.mark.parametrize("name", get_args(AgentName))
def test_what_holds_an_agent_is_a_parameter_of_its_own(name):
    agent = make(name, [0])
    named = re.findall(r"[\w.]*\w", agent.restraint.partition(" ")[2])
    assert len(named) == (name not in {"bc", "fbc", "rlpd"})
    for path in named:
        section, _, field = path.rpartition(".")
        assert section == ("offline" if name == "flp" else f"offline.baselines.{name}")
        own = OFFLINE if name == "flp" else getattr(OFFLINE.baselines, name)
        assert isinstance(getattr(own, field), float)


def test_what_alpha_follows_holds_flp():
    assert make("flp", [0]).restraint == "raise offline.alpha"
    assert make("flp", [0], kl_budget=0.5).restraint == "lower offline.kl_budget"


@pytest.mark.parametrize("name", [name for name in get_args(AgentName) if name != "flp"])
def test_a_remedy_names_what_the_algorithm_reads(name):
    """Other algorithms have no alpha of FLP's, and most use the ensemble's minimum anyway."""
    agent = make(name, [1, 2])
    health = Health(name, ["a", "b"], OFFLINE, make_replay(), agent, rate="online.learning_rate")
    health.look(10, {"q": torch.tensor([-50.0, -9e9])})
    health.guard(torch.tensor([[math.nan], [0.0]]))
    told = [failure["remedy"] for failure in health.failed.values()]
    assert len(told) == 2
    for remedy in told:
        assert remedy.startswith("lower online.learning_rate") and remedy.endswith(agent.restraint)
        assert "offline.alpha" not in remedy
    assert ("take offline.aggregation: min" in told[0]) == (name in {"fql", "fawac", "fbrac"})


def test_latents_come_with_a_flow():
    """If keys leave out flow and latents, nothing may read them."""
    assert {name for name in get_args(AgentName) if make(name, [0]).uses_latents} == {*IN_LATENTS}


def make_transitions(seeds, size=7):
    """A random batch with next actions."""
    streams = RunStreams([2000 + seed for seed in seeds])
    more = {"next_actions": streams.normal(size, 2), "has_next_action": (streams.uniform(size) < 0.7).float()}
    more["returns"] = streams.normal(size)
    return make_batch(seeds, size) | more


def train(agent, seeds, updates=3, size=7):
    """Some updates whose numbers depend on each run's seed alone; return the last logs."""
    streams = RunStreams([3000 + seed for seed in seeds])
    noise = agent.draw(streams, updates, size)
    batch = make_transitions(seeds, size)
    for k in range(updates):
        logs = agent.update(batch, {name: value[k] for name, value in noise.items()})
    return logs


def of_run(agent, run, runs):
    return {name: tensor.clone() for name, tensor in parameters_of(agent, run, runs).items()}


@every_case
def test_the_smallest_sizes_can_be_trained(name, own):
    agent = make(name, [5], own, hidden=[1], critics=1, batch_size=1)
    logs = train(agent, [5], size=1)
    assert all(tensor.isfinite().all() for tensor in [*agent.state_dict().values(), *logs.values()])


def test_every_algorithm_of_the_parameters_can_be_built():
    for name in get_args(AgentName):
        assert type(make(name, [0])).__name__.lower() == name


@every_case
def test_batched_runs_are_single_runs(name, own):
    seeds = [4, 5, 6]
    together = make(name, seeds, own)
    logs = train(together, seeds)
    actions = together.act(make_batch(seeds)["observations"], RunStreams(seeds))
    assert actions.shape == (3, 7, 2)
    assert actions.abs().max() <= 1
    for i, seed in enumerate(seeds):
        alone = make(name, [seed], own)
        for key, value in train(alone, [seed]).items():
            assert logs[key].shape == (3,)
            torch.testing.assert_close(logs[key][i], value[0], rtol=1e-4, atol=1e-5)
        expected = of_run(alone, 0, 1)
        for key, value in of_run(together, i, 3).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=2e-4)
        acted = alone.act(make_batch([seed])["observations"], RunStreams([seed]))
        torch.testing.assert_close(actions[i], acted[0], rtol=1e-2, atol=2e-3)


@every_case
def test_a_broken_run_leaves_its_neighbours_alone(name, own):
    seeds = [4, 5, 6]
    whole, broken = make(name, seeds, own), make(name, seeds, own)
    with torch.no_grad():
        for key, tensor in broken.named_parameters():
            if not broken.is_shared(key):
                tensor.unflatten(0, (3, -1))[1].fill_(torch.nan)
    train(whole, seeds)
    train(broken, seeds)
    for i in (0, 2):
        expected = of_run(whole, i, 3)
        for key, value in of_run(broken, i, 3).items():
            assert torch.equal(value, expected[key]), key
    assert any(value.isnan().any() for value in of_run(broken, 1, 3).values() if value.is_floating_point())


@every_case
def test_every_tensor_can_be_cut_into_runs(name, own):
    seeds = [4, 5, 6, 7, 8]  # a number that divides nothing by chance
    agent = make(name, seeds, own)
    train(agent, seeds)
    own_tensors = {k: v for k, v in agent.state_dict().items() if not agent.is_shared(k)} | agent.optimizer_state()
    assert own_tensors
    for key, tensor in own_tensors.items():
        assert tensor.dim() == 0 or len(tensor) % 5 == 0, key
    assert any(map(agent.is_shared, agent.state_dict())) == (own.get("flow") == "pretrained")


@every_case
def test_runs_are_saved_and_come_back(name, own):
    seeds = [4, 5, 6]
    agent = make(name, seeds, own)
    train(agent, seeds)
    saved = [of_run(agent, i, 3) for i in range(3)]
    # In another order, with each other's streams.
    order = [2, 0, 1]
    other = make(name, [seeds[i] for i in order], own)
    restore_parameters(other, [saved[i] for i in order])
    for place, i in enumerate(order):
        for key, value in of_run(other, place, 3).items():
            assert torch.equal(value, saved[i][key]), key
    train(agent, seeds, 2)
    train(other, [seeds[i] for i in order], 2)
    for place, i in enumerate(order):
        expected = of_run(agent, i, 3)
        for key, value in of_run(other, place, 3).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)


@every_case
def test_what_is_saved_is_all_it_goes_on_from(name, own):
    seeds = [4, 5]
    agent, other = make(name, seeds, own), make(name, seeds, own)
    train(agent, seeds)
    other.load_state_dict(agent.state_dict())
    other.load_optimizer_state(agent.optimizer_state())
    for one in (agent, other):
        train(one, seeds)
    for key, value in (agent.state_dict() | agent.optimizer_state()).items():
        assert torch.equal((other.state_dict() | other.optimizer_state())[key], value), key


@every_case
def test_the_pretrained_flow_is_never_trained(name, own):
    flow = make_flow([4, 5])
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    train(make(name, [4, 5], own, flow=flow), [4, 5])
    assert all(torch.equal(value, before[key]) for key, value in flow.state_dict().items())


@every_case
def test_draws_have_the_trainer_s_shape(name, own):
    agent = make(name, [4, 5], own)
    for value in agent.draw(RunStreams([1, 2]), 3, 7).values():
        assert value.shape[:3] == (3, 2, 7)


@every_case
def test_an_episode_s_action_does_not_depend_on_the_others(name, own):
    agent, observations = make(name, [4, 5], own), make_batch([4, 5], 6)["observations"]
    others = observations.clone()
    others[:, [0, 1, 4, 5]] = 3.0
    whole = agent.act(observations, RunStreams([1, 2]))
    beside = agent.act(others, RunStreams([1, 2]))
    torch.testing.assert_close(beside[:, 2:4], whole[:, 2:4])


@pytest.mark.parametrize("name", ["iql", "rebrac"])
def test_exploration_is_the_policy_with_noise(name):
    agent = make(name, [4, 5])
    observations = torch.zeros(2, 4000, 3)
    still = agent.act(observations, RunStreams([1, 2]))
    moved, stored = agent.explore(observations, RunStreams([1, 2]))
    assert torch.equal(moved, stored)
    difference = moved - still  # the head is small: the mean is far from ±1
    if name == "rebrac":
        assert 0.49 < difference.abs().max() <= 0.5 + 1e-6
        inner = difference[difference.abs() < 0.3]
        assert inner.std().item() == pytest.approx(0.148, abs=0.01)  # of N(0, 0.2²) cut at ±0.3
    else:
        assert (moved.abs() == 1).float().mean().item() == pytest.approx(0.317, abs=0.02)  # |N(0, 1)| > 1


@every_case
def test_a_discount_that_grows_is_what_its_critics_are_trained_by(name, own):
    """A tensor that held another number when the agent was made, as the parameters do."""
    discount = torch.tensor(0.9)
    fixed, growing = make(name, [0, 1], own, discount=0.5), make(name, [0, 1], own, discount=0.9, growing=discount)
    discount.fill_(0.5)
    for agent in (fixed, growing):
        train(agent, [0, 1])
    for (entry, one), (_, other) in zip(fixed.state_dict().items(), growing.state_dict().items(), strict=True):
        assert torch.equal(one, other), entry

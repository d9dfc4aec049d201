"""The values of critics before training."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from random_transitions import make_replay
from reference import SETTINGS, make_batch, make_flow

from flp.agents import make_agent
from flp.networks.values import Critic, Value
from flp.params.loading import load_params
from flp.params.run import Run
from flp.params.sections import AgentName, OfflineSettings
from flp.parts.base import Spec
from flp.parts.critics import initialize_values
from flp.randomness.streams import RunStreams
from flp.runs.run_batch import RunBatch

SEEDS = [1, 2]
START = torch.tensor([-40.0, -90.0])


def make(name):
    return make_agent(
        name,
        Spec(
            streams=RunStreams(SEEDS),
            observation_dim=3,
            action_dim=2,
            offline=OfflineSettings(**SETTINGS),
            alpha=torch.ones(2),
            candidates=(3, 3),
            flow=make_flow(SEEDS, 3, 2),
        ),
    )


@pytest.mark.parametrize("name", sorted(set(get_args(AgentName)) - {"bc", "fbc"}))
def test_every_critic_and_value_starts_there(name):
    agent = make(name)
    before = deepcopy(agent)
    initialize_values(agent, START)
    batch = make_batch(SEEDS, observations=3, actions=2)
    s, a = batch["observations"], batch["actions"]
    found = 0
    for old, new in zip(before.modules(), agent.modules(), strict=True):
        if isinstance(new, Critic):
            rise = new(s, a) - old(s, a)
            assert torch.allclose(rise, START[:, None, None].expand_as(rise), atol=1e-4)
            found += 1
        elif isinstance(new, Value):
            rise = new(s) - old(s)
            assert torch.allclose(rise, START[:, None].expand_as(rise), atol=1e-4)
    assert found >= 2  # the critic and its target


def test_no_other_network_moves():
    agent = make("flp")
    before = deepcopy(agent)
    initialize_values(agent, START)
    s = make_batch(SEEDS, observations=3, actions=2)["observations"]
    assert all(torch.equal(old, new) for old, new in zip(before.policy(s), agent.policy(s), strict=True))
    z = RunStreams(SEEDS).normal(7, 2)
    assert torch.equal(before.flow.decode(s, z), agent.flow.decode(s, z))


def test_the_average_reward_is_that_of_a_runs_task():
    replay = make_replay()
    expected = [float(replay.rewards[task].mean()) for task in replay.task_of_run[:, 0]]
    assert replay.average_reward().tolist() == pytest.approx(expected) and expected[0] != expected[1]


@pytest.mark.parametrize(("name", "factor"), [("flp", 1), ("rebrac", 1), ("calql", 10)])
def test_a_run_starts_from_what_the_average_reward_is_worth_for_ever(here, name, factor):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"] |= {"agents": [name], "discount": 0.9}
    said = {}
    for start in ("zero", "average"):
        values["offline"]["critic_start"] = start
        Path("params.yaml").write_text(yaml.safe_dump(values))
        params = load_params("params.yaml")
        runs = [Run(task=task, seed=0, alpha=1.0, candidates=1) for task in (2, 1)]
        agent, replay = RunBatch(params.datasets[0], name, runs, params, torch.device("cpu")).load()
        batch = replay.batch(torch.arange(20).expand(2, 20))
        said[start] = agent.critic(batch["observations"], batch["actions"]).detach()
    worth = replay.average_reward() / (1 - 0.9)
    assert (worth < -9).all()
    rise = said["average"] - said["zero"]
    assert torch.allclose(rise, factor * worth[:, None, None].expand_as(rise), rtol=1e-3)

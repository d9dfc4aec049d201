"""Schedules of a training phase: learning rates and the discount."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from prepared_maze import DATASET, train

from flp.learner.optimizers import Adam
from flp.params.loading import load_params, merge, parse
from flp.params.run import Run
from flp.runs.run_batch import RunBatch
from flp.stages import online_finetune


def rates(monkeypatch):
    """Each optimizer's learning rate at every step."""
    taken, step = {}, Adam.step

    def recorded(self, gradients):
        taken.setdefault(id(self), []).append(float(self.rate()))
        step(self, gradients)

    monkeypatch.setattr(Adam, "step", recorded)
    return taken


@pytest.mark.parametrize(("schedule", "online"), [("constant", None), ("cosine", 0.002)])
def test_the_rate_follows_its_schedule(here, monkeypatch, schedule, online):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"] |= {"schedule": schedule, "learning_rate": 0.01}
    values["online"] |= {"learning_rate": online}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    taken, steps = rates(monkeypatch), values["offline"]["steps"]
    assert train() == 0
    falling = [0.005 * (1 + math.cos(math.pi * t / steps)) for t in range(steps)]
    expected = falling if schedule == "cosine" else [0.01] * steps
    assert len(taken) >= 2
    for rate in taken.values():
        assert rate == pytest.approx(expected, abs=1e-8)
    taken.clear()
    assert train(online_finetune) == 0
    assert all(rate == pytest.approx([online or 0.01] * 20) for rate in taken.values()) and len(taken) >= 2


def optimizers(params, agent, phase):
    """The optimizers of an agent about to be trained in a phase."""
    work = RunBatch(DATASET, agent, [Run(1, 0, params.offline.alpha, 1)], params, torch.device("cpu"))
    made, replay = work.load()
    work.trainer(made, replay, phase, 20)
    return made.optimizers


@pytest.mark.parametrize(("agent", "factor"), [("flp", 0.1), ("calql", 0.1), ("rlpd", 1)])
def test_fine_tuning_slows_every_rate_alike_and_not_what_begins_there(here, agent, factor):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"] |= {"learning_rate": 0.01}
    values["online"] |= {"learning_rate": 0.001}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    params = load_params()
    before = [optimizer.learning_rate for optimizer in optimizers(params, agent, "offline")]
    after = [optimizer.learning_rate for optimizer in optimizers(params, agent, "online")]
    assert after == pytest.approx([rate * factor for rate in before])
    assert agent != "calql" or len(set(before)) == 2


def test_targets_sum_as_many_rewards_as_is_said_at_the_experiments_discount(here):
    values = yaml.safe_load(Path("params.yaml").read_text())
    batches = {}
    for n in (1, 3):
        values["offline"] |= {"n_step": n, "discount": 0.9}
        Path("params.yaml").write_text(yaml.safe_dump(values))
        params = load_params()
        work = RunBatch(DATASET, "flp", [Run(1, 0, 1.0, 1)], params, torch.device("cpu"))
        batches[n] = work.load()[1].batch(torch.arange(12)[None])
    one, three = batches[1], batches[3]
    masks, rewards = one["masks"][0], one["rewards"][0]
    for i in range(10):
        total = rewards[i] + 0.9 * masks[i] * (rewards[i + 1] + 0.9 * masks[i + 1] * rewards[i + 2])
        assert three["rewards"][0, i].item() == pytest.approx(total.item())
    assert torch.equal(three["next_observations"][0, :10], one["next_observations"][0, 2:])


def test_the_discount_grows_over_the_first_half_of_offline_training(here):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"] |= {"discount_start": 0.9, "discount": 0.99, "n_step": 2, "critic_start": "average"}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    work = RunBatch(DATASET, "flp", [Run(1, 0, 1.0, 1)], load_params(), torch.device("cpu"))
    agent, replay = work.load()
    assert agent.discount is replay.discount
    observations = replay.observations[None, :50]
    first = agent.critic(observations, torch.zeros(1, 50, 2)).mean().item()
    assert first == pytest.approx(replay.average_reward().item() / (1 - 0.9), abs=5)  # it says a little by itself
    trainer, found = work.trainer(agent, replay, "offline", 80), []
    for _ in range(8):
        trainer.run_chunk()
        found.append(1 - agent.discount.item())
    tenth = 10**0.25  # four chunks until 1 - discount has fallen to a tenth
    assert found == pytest.approx([0.1, 0.1 / tenth, 0.1 / tenth**2, 0.1 / tenth**3, 0.01, 0.01, 0.01, 0.01], rel=1e-4)
    trainer.step = 20  # as a session that goes on from there
    trainer.run_chunk()
    now = agent.discount.item()
    assert 1 - now == pytest.approx(0.1 / tenth**2, rel=1e-4)
    batch = replay.batch(torch.arange(2)[None])
    masks, rewards = replay.masks[0], replay.rewards[0]
    assert batch["rewards"][0, 0].item() == pytest.approx((rewards[0] + now * masks[0] * rewards[1]).item())
    work.trainer(agent, replay, "online", 80).run_chunk()
    assert agent.discount.item() == pytest.approx(0.99)


def test_who_learns_online_alone_starts_where_the_discount_has_grown_to(here):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"] |= {"discount_start": 0.5, "discount": 0.99, "critic_start": "average"}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    agent, replay = RunBatch(DATASET, "rlpd", [Run(1, 0, 1.0, 1)], load_params(), torch.device("cpu")).load()
    first = agent.critic(replay.observations[None, :50], torch.zeros(1, 50, 2)).mean().item()
    assert first == pytest.approx(replay.average_reward().item() / (1 - 0.99), abs=5)


def test_runs_are_refused_a_datasets_parameters():
    """Their keys have the algorithm's own values."""
    params = parse(merge(load_params().model_dump(), {"agents": {"flp": {"offline": {"steps": 5}}}}))
    with pytest.raises(ValueError, match="take for_agent"):
        RunBatch(DATASET, "flp", [Run(1, 0, 1.0, 1)], params, torch.device("cpu"))
    assert RunBatch(DATASET, "flp", [], params.for_agent("flp"), torch.device("cpu")).params.offline.steps == 5
    assert not params.for_agent("bc").agents

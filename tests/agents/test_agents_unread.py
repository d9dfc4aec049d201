"""An algorithm's runs do not depend on what is said not to be read, and do depend on the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from small_experiment import MAZE

from flp.params.loading import merge, parse
from flp.params.run import Run
from flp.params.sections import AgentName
from flp.params.unread import unread
from flp.randomness.streams import RunStreams
from flp.runs.run_batch import RunBatch

OTHERS = {
    "alpha": 3.0,
    "candidates": 2,
    "target_candidates": 3,
    "selection": "argmax",
    "temperature": 0.5,
    "acting_noise": 0.3,
    "kl_budget": 0.2,
    "hidden": [8],
    "observation_scale": 3.0,
    "observation_noise": 0.3,
    "critic_layer_norm": False,
    "critic_start": "zero",
    "critics": 3,
    "aggregation": "min",
    "batch_size": 8,
    "learning_rate": 0.01,
    "schedule": "constant",
    "discount": 0.9,
    "discount_start": 0.5,
    "n_step": 3,
    "target_rate": 0.5,
    "log_std_min": -1e-6,
    "log_std_max": 1e-6,
}
every_agent = pytest.mark.parametrize("agent", get_args(AgentName))


@pytest.fixture
def outcome(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What an algorithm learns in four updates with other shared hyperparameters, and how it acts then."""
    monkeypatch.chdir(experiment)
    start = {"selection": "resample", "target_candidates": 2}
    params = merge(yaml.safe_load(Path("params.yaml").read_text()), {"offline": start})

    def learnt(agent: str, **changes: Any) -> dict[str, torch.Tensor]:
        own = parse(merge(params, {"offline": {"agents": [agent]} | changes})).for_agent(agent)
        run = Run(2, 0, own.offline.alpha, own.offline.candidates)
        batch = RunBatch(MAZE, agent, [run], own, torch.device("cpu"))
        learner, replay = batch.load()
        trainer = batch.trainer(learner, replay, "offline", 4)
        logs = [trainer.run_chunk(2), trainer.run_chunk(2)][-1]
        states = replay.observations[None, :9]
        tensors = {f"parameter {name}": tensor for name, tensor in learner.state_dict().items()} | logs
        with torch.no_grad():
            tensors["act"] = learner.act(states, RunStreams([5]))
            if agent == "flp":  # whose barely trained flow gives ±1 for most
                tensors["latents"] = learner.latents(states, RunStreams([5]))
            tensors["explore"], tensors["stored"] = learner.explore(states, RunStreams([6]))
            if (value := learner.value(states, tensors["act"])) is not None:
                tensors["value"] = value
        return tensors

    return learnt


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@every_agent
def test_what_is_unread_makes_no_difference_and_all_else_does(agent: str, outcome: Any) -> None:
    tried = OTHERS.keys() - ({"discount_start"} if agent == "calql" else set())  # Cal-QL refuses it
    before, ignored = outcome(agent), {name: OTHERS[name] for name in tried & unread(agent)}
    assert equal(before, outcome(agent, **ignored))
    assert not [name for name in sorted(tried - unread(agent)) if equal(before, outcome(agent, **{name: OTHERS[name]}))]

"""One small experiment with every agent, each run trained alone, so that its evaluations can be had again exactly."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest
import yaml
from made_once import once
from small_experiment import MAZE, tiny, train

from flp.params.sections import AgentName


@pytest.fixture(scope="session")
def experiment(place, pytestconfig):
    """A folder with one finished run of each agent, on a maze."""
    agents = list(get_args(AgentName))
    params = yaml.safe_load((pytestconfig.rootpath / "params.yaml").read_text())
    few = {"flow_steps": 3, "diffusion_steps": 3}  # each step is a part of an exported policy
    sections = params["offline"]["baselines"].items()
    baselines = {name: own | {key: few[key] for key in own.keys() & few} for name, own in sections}
    offline = {"agents": agents, "tasks": [2], "hidden": [16, 12], "baselines": baselines}
    params = tiny(params, MAZE, offline=offline, evaluation={"episodes": 3, "seed": 7})
    return once(place / "experiment", lambda folder: train(folder, params, agents))


@pytest.fixture
def run_of(experiment, tmp_path, monkeypatch):
    """Copies one agent's run, and nothing else, to another place, and goes there."""
    monkeypatch.chdir(tmp_path)

    def copied(agent: str) -> Path:
        target = tmp_path / f"brought {agent}"
        shutil.copytree(experiment / f"results/{MAZE}/offline/{agent}/seed0/task2_seed0", target)
        return target

    return copied

"""A maze with its flow and latents, ready for training stages that take seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from made_once import once
from repository import REPO
from small_experiment import MAZE, run_stages

from flp.runs import shards
from flp.stages import offline_train

DATASET = MAZE


@pytest.fixture(scope="session")
def prepared(place):
    """A dataset of random actions with its flow and latents, and parameters for seconds."""
    return once(place / "prepared", prepare)


def prepare(root):
    values = yaml.safe_load((REPO / "params.yaml").read_text())
    values["download"] |= {"policy": "random", "episodes": 4, "steps_per_episode": 101}
    values["flow"] |= {"steps": 20, "hidden": [16], "batch_size": 32, "validate_every": 10, "solver_steps": 1}
    values["invert"] |= {"max_roundtrip_error": 100.0, "likelihood_samples": 0}
    values["offline"] |= {"tasks": [1, 2], "steps": 60, "hidden": [16], "batch_size": 16, "discount": 0.99}
    values["online"] |= {"steps": 20}
    values["evaluation"] |= {"every": 60, "episodes": 1}
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run_stages(DATASET, agents=())


@pytest.fixture
def here(prepared, tmp_path, monkeypatch):
    """A copy to work in, where all runs train in one batch in this process."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shards, "deal", lambda runs, threads: [list(runs)] if runs else [])
    return Path(f"results/{DATASET}/offline/flp/seed0")


def train(stage=offline_train):
    return stage.main(["--dataset", DATASET, "--threads", "1", "--device", "cpu"])

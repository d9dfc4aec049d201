"""Two finished experiments on a user's tasks, with and without a simulator; tests only read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_once import once
from own_tasks import experiment, logged
from small_experiment import run_stages


def finish(root: Path, name: str, task: dict[str, Any], *, online: bool = False, **changes: Any) -> None:
    """Train and report a task on the pendulum's log."""
    np.savez(root / "mine.npz", **logged())
    task = {"data": {"path": "mine.npz"}} | task
    (root / "params.yaml").write_text(yaml.safe_dump(experiment({name: task}, **changes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run_stages(name, changes.get("offline", {}).get("agents", ["flp"]), online=online, page=True)


@pytest.fixture(scope="session")
def trained_pendulum(place):
    task = {"environment": "Pendulum-v1", "kwargs": {"max_episode_steps": 50}, "success": "return >= -300"}
    task |= {"discount": 0.95, "reference": {"random": -500, "expert": -100}}
    return once(place / "pendulum", lambda root: finish(root, "pendulum", task, online=True))


@pytest.fixture(scope="session")
def trained_plant(place):
    task = {"environment": None, "actions": {"low": -2, "high": [2]}}
    return once(place / "plant", lambda root: finish(root, "plant", task, offline={"agents": ["flp", "bc"]}))


@pytest.fixture
def pendulum(trained_pendulum, monkeypatch):
    """The folder of a finished experiment on a pendulum, which is the working directory."""
    monkeypatch.chdir(trained_pendulum)
    return trained_pendulum


@pytest.fixture
def plant(trained_plant, monkeypatch):
    """The same for a task without a simulator."""
    monkeypatch.chdir(trained_plant)
    return trained_plant

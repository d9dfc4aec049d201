"""A policy trained on logs of a simple controller does better than the controller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from own_tasks import experiment, logged
from small_experiment import run_stages


@pytest.mark.slow(15)
def test_a_policy_is_better_than_the_controller_it_was_logged_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = logged(episodes=60, steps=200)
    np.savez("mine.npz", **rows)
    task = {"data": {"path": "mine.npz"}, "environment": "Pendulum-v1"}
    wide = {"hidden": [64, 64], "batch_size": 256}
    values = experiment(
        {"pendulum": task},
        flow=wide | {"steps": 1000, "validate_every": 500},
        offline=wide | {"steps": 1000},
        evaluation={"every": 1000, "episodes": 20},
    )
    Path("params.yaml").write_text(yaml.safe_dump(values))
    run_stages("pendulum")
    table = pd.read_csv("results/pendulum/offline/flp/seed0/task1_seed0/evaluations.csv").set_index("phase")["return"]
    earned = rows["rewards"].reshape(60, 200).sum(1).mean()
    assert abs(table["behavior"] - earned) < 250  # the flow does what the controller did
    assert table["offline"] > max(earned, table["behavior"]) + 300

"""Tools on the policies of a user's task: rollouts, recordings, exports, comparisons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import flp
from flp.library.exporting import opened
from flp.tools import compare, export, rollout, watch

RUN = Path("results/pendulum/offline/flp/seed0/task1_seed0")
PLANT = "results/plant/offline/flp/seed0/task1_seed0"


@pytest.mark.slow(4)
def test_a_policy_is_recorded_in_the_environment_s_units(pendulum, tmp_path, capsys):
    assert rollout.main([str(RUN), "--episodes", "2", "--record", str(tmp_path), "--json", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    with np.load(tmp_path / "episodes.npz") as file:
        assert 1 < np.abs(file["actions"]).max() <= 2
        assert file["rewards"].sum() / 2 == pytest.approx(found["return"]["mean"], rel=1e-4)


@pytest.mark.slow(4)
def test_an_exported_policy_acts_in_the_environment_s_units(pendulum, tmp_path):
    assert export.main([str(RUN), "--format", "torch", "--output", str(tmp_path / "policy.pt2")]) == 0
    policy, states = flp.load_policy(RUN), np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(5, policy.candidates, 1)).astype(np.float32)
    actions = opened((tmp_path / "policy.pt2").read_bytes(), "torch")([states, noise])
    assert 1 < np.abs(actions).max() <= 2


@pytest.mark.slow(4)
def test_without_a_simulator_it_is_checked_on_held_out_data(plant, tmp_path, monkeypatch, capsys):
    assert export.main([PLANT, "--format", "torch", "--output", str(tmp_path / "policy.pt2")]) == 0
    shutil.copytree(PLANT, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert export.main(["run", "--format", "torch", "--output", str(tmp_path / "other.pt2")]) == 2
    assert "has no simulator" in capsys.readouterr().err


@pytest.mark.slow(4)
def test_what_has_no_success_rate_is_watched_and_is_not_compared(plant, monkeypatch, capsys):
    assert watch.main(["--once"]) == 0
    assert "plant" in capsys.readouterr().out
    assert compare.main([".", "."]) == 2
    assert "no success rate" in capsys.readouterr().err

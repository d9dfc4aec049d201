"""Tools on the policies of a user's task: rollouts, recordings, exports, comparisons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
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
def test_what_has_no_success_rate_is_watched_and_compared_by_its_measure(plant, tmp_path, capsys):
    assert watch.main(["--once"]) == 0
    assert "plant" in capsys.readouterr().out
    shutil.copytree("results/report", tmp_path / "other")
    table = pd.read_csv(tmp_path / "other/summary.csv")
    table.assign(score=table["score"] + 1).to_csv(tmp_path / "other/summary.csv", index=False)
    assert compare.main([".", str(tmp_path / "other")]) == 0
    said = capsys.readouterr().out
    (row,) = (line for line in said.splitlines() if line.split()[:3] == ["plant", "1", "FLP"])
    last = pd.read_csv(Path(PLANT) / "evaluations.csv").iloc[-1]
    error = (last["fqe_high"] - last["fqe"]) * np.sqrt(2)
    numbers = [f"{last['fqe']:.1f}", f"{last['fqe'] + 1:.1f}", "+1.0", f"[{1 - error:+.1f},", f"{1 + error:+.1f}]"]
    assert row.split()[3:8] == numbers
    assert row.endswith("Value, estimated (no episode was played)")
    table.drop(columns=["measure", "score", "standard_error"]).to_csv(tmp_path / "other/summary.csv", index=False)
    assert compare.main([".", str(tmp_path / "other")]) == 2
    assert "no score to compare; make the report again" in capsys.readouterr().err


@pytest.mark.slow(3)
def test_success_that_no_rule_defines_is_not_measured(pendulum, tmp_path, capsys):
    shutil.copytree(RUN, tmp_path / "run")
    manifest = json.loads((tmp_path / "run/policy.json").read_text())
    manifest["model"]["environment"]["success"] = "none"
    (tmp_path / "run/policy.json").write_text(json.dumps(manifest))
    trial = flp.evaluate(flp.load_policy(tmp_path / "run"), episodes=2)
    assert trial.success is None and trial.success_interval is None
    assert str(trial) == f"return {trial.returns.mean():.1f} over 2 episodes"
    options = [str(tmp_path / "run"), "--episodes", "2", "--threads", "1"]
    assert rollout.main(options) == 0
    assert "success" not in capsys.readouterr().out
    assert rollout.main([*options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["success"] is None

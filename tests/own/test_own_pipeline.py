"""A user's task through all stages, from a file in D4RL's layout to a policy that plays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pandas as pd
import pytest
import yaml
from own_tasks import logged

import flp
from flp.tools import check

RUN = Path("results/pendulum/offline/flp/seed0/task1_seed0")


@pytest.mark.slow(2)
def test_its_data_keep_rewards_and_scale_actions(pendulum):
    data, log = flp.load_dataset("pendulum"), logged()
    kept = 5 * 50  # a sixth of six episodes is held out
    assert len(data) == kept and data.masks[data.transitions].all()
    np.testing.assert_array_equal(data.rewards[data.transitions], log["rewards"][:kept].astype(np.float32))
    np.testing.assert_allclose(data.actions[data.transitions], np.clip(log["actions"][:kept] / 2, -0.99999, 0.99999))
    np.testing.assert_array_equal(data.observations[data.transitions + 1], log["next_observations"][:kept])
    assert (
        "scaled from the environment's own range, [-2.0] to [2.0]"
        in Path("results/pendulum/flow/model/seed0/flow.md").read_text()
    )


@pytest.mark.slow(2)
def test_its_policy_plays_from_its_folder_alone_as_the_pipeline_says(pendulum, tmp_path, monkeypatch):
    policy = flp.load_policy(RUN)
    table = pd.read_csv(RUN / "evaluations.csv")
    last = table[table["phase"] == "offline"].iloc[-1]
    monkeypatch.chdir(tmp_path)
    trial = flp.evaluate(policy, episodes=2, seed=0)
    assert trial.returns.mean() == pytest.approx(last["return"], abs=1e-3)
    assert (trial.returns >= -300).mean() == last["success"]
    assert trial.lengths.tolist() == [50, 50]
    assert policy.manifest["model"]["offline"]["discount"] == 0.95


@pytest.mark.slow(2)
def test_actions_go_back_into_the_environments_units(pendulum):
    env = flp.make_environment(flp.load_policy(RUN).spec, 1)
    other = gymnasium.make("Pendulum-v1")
    env.reset(seed=3)
    other.reset(seed=3)
    for action in ([-1.0], [0.25], [1.0]):
        one, two = env.step(np.array(action)), other.step(np.array(action, np.float32) * 2)
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1] == two[1]


@pytest.mark.slow(2)
def test_it_is_fine_tuned_in_its_environment_and_reported(pendulum):
    summary = pd.read_csv("results/report/summary.csv")
    columns = ["dataset", "agent", "task", "seed", "phase", "step", "success", "episodes"]
    assert list(summary)[:8] == columns and set(summary["task"]) == {1}
    assert set(summary["phase"]) == {"behavior", "offline", "online"}
    table = pd.read_csv(RUN / "evaluations.csv")
    score = 100 * (table[table["phase"] == "offline"].iloc[-1]["return"] + 500) / 400
    page = Path("results/report/index.html").read_text()
    assert "<th>normalised score</th>" in page and f"<td>{score:.2f}</td>" in page  # beside success


@pytest.mark.slow(2)
def test_check_opens_the_environment_and_compares(pendulum, capsys):
    assert check.main([]) == 0
    assert "300 transitions, observations of 3 numbers, 1 actions scaled from [-2.0]" in capsys.readouterr().out
    values = yaml.safe_load(Path("params.yaml").read_text())
    for task, said in (
        ({"environment": "MountainCarContinuous-v0", "kwargs": {}}, "observations of 2 numbers, the data have 3"),
        ({"environment": "CartPole-v1", "kwargs": {}}, "actions are discrete"),
        ({"environment": "Nowhere-v1"}, "cannot be made"),
        ({"kwargs": {"g": [], "no": 1}}, "look at its kwargs"),
        ({"success": "info.reached"}, "which its info does not contain"),
    ):
        changed = values | {"tasks": {"pendulum": values["tasks"]["pendulum"] | task}}
        Path("other.yaml").write_text(yaml.safe_dump(changed))
        assert check.main(["--params", "other.yaml"]) == 2
        assert said in capsys.readouterr().err, task


@pytest.mark.slow(2)
def test_the_manifest_says_what_was_found_out(pendulum):
    manifest = json.loads(Path("data/pendulum.json").read_text())
    assert manifest["task"]["environment"] == "Pendulum-v1" and manifest["task"]["horizon"] == 50
    assert manifest["content"][0].startswith(".npz:")
    assert manifest["reference"] is None  # the data's own; the user's is params.yaml's alone


@pytest.mark.slow(2)
def test_what_success_is_now_counts_wherever_it_is_asked(pendulum, tmp_path, monkeypatch):
    shutil.copytree(pendulum, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    policy = flp.load_policy(RUN)
    as_trained = flp.evaluate(policy, episodes=2).success.tolist()
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["tasks"]["pendulum"]["success"] = "return >= 0"
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert flp.evaluate(policy, episodes=2, dataset="pendulum").success.tolist() == as_trained
    params["tasks"]["pendulum"]["success"] = "return >= -9999"
    Path("params.yaml").write_text(yaml.safe_dump(params))

    def still(observations):
        return np.zeros((len(observations), 1))

    assert flp.evaluate(still, 1, episodes=2, dataset="pendulum").success.tolist() == [1, 1]
    params["tasks"]["pendulum"]["success"] = "return >= 0"
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert flp.evaluate(still, 1, episodes=2, dataset="pendulum").success.tolist() == [0, 0]
    with pytest.raises(flp.FLPError, match=r"of \(3, 1\) numbers, pointmaze-medium-navigate of \("):
        flp.evaluate(policy, dataset="pointmaze-medium-navigate")

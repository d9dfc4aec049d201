"""A task without a simulator: everything runs except rollouts, which estimates replace."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import flp
from flp.agents.flp import FLP
from flp.data.load import Dataset
from flp.experiment.keys import Keys
from flp.params.loading import load_params
from flp.params.run import Run
from flp.parts.fitted_q import MEMBERS, Logged, fitted_q
from flp.runs import estimates, job
from flp.runs.run_batch import RunBatch
from flp.runs.turns import Permits, SharedNumbers, Turns
from flp.stages import offline_train, online_finetune
from flp.supervision.boards import Boards
from flp.system.stopping import STOP
from flp.tools import watch

RUN = Path("results/plant/offline/flp/seed0/task1_seed0")


@pytest.mark.slow(2)
def test_its_evaluations_are_estimates_and_say_that_no_episode_was_played(plant):
    table = pd.read_csv(RUN / "evaluations.csv")
    assert table["success"].isna().all() and (table["episodes"] == 0).all() and table["return"].isna().all()
    last = table[table["phase"] == "offline"].iloc[-1]
    assert np.isfinite(last[["value", "likelihood", "fqe", "fqe_low", "fqe_high", "data_value"]].astype(float)).all()
    assert last["fqe_low"] < last["fqe"] < last["fqe_high"]
    behavior = table[table["phase"] == "behavior"].iloc[0]
    assert np.isnan(behavior["value"]) and np.isfinite(behavior["likelihood"])


@pytest.mark.slow(2)
def test_likelihoods_are_of_as_many_actions_as_asked_for(plant):
    params = load_params().for_dataset("plant").for_agent("flp")
    estimator = estimates.Estimator(RunBatch("plant", "flp", [Run(1, 0, 1.0, 1)], params, torch.device("cpu")))
    assert estimator.states.shape[1] == params.invert.likelihood_samples < len(estimator.held_out)


@pytest.mark.slow(2)
def test_what_the_data_earned_is_their_discounted_return(plant):
    data = flp.load_dataset("plant")
    episodes = np.split(data.rewards[data.transitions].astype(np.float64), 5)
    weights = load_params().offline.discount ** np.arange(50)
    gamma = load_params().offline.discount
    tail = gamma**50 / (1 - gamma)  # cut off by time: the last reward persists
    expected = np.mean([(episode * weights).sum() + tail * episode[-1] for episode in episodes])
    assert pd.read_csv(RUN / "evaluations.csv").iloc[-1]["data_value"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rewards", "masks", "ends", "expected"),
    [
        ([1, 1, 1, 9], [1, 1, 0, 1], [0, 0, 0, 1], 1.75),
        ([1, 1, 1, 9], [1, 1, 1, 1], [0, 0, 0, 1], 2.0),
        ([1, 1, 1, 9, 100, 1, 1, 9], [1, 1, 0, 1, 1, 1, 0, 1], [0, 0, 0, 1, 1, 0, 0, 1], 1.625),
    ],
    ids=["ended by itself", "cut off: its last reward persists", "an episode of one row earns nothing"],
)
def test_what_an_episode_earned_ends_as_its_values_do(rewards, masks, ends, expected):
    rewards, masks = np.array(rewards, np.float32), np.array(masks, np.float32)
    empty, ends = np.zeros((len(rewards), 1), np.float32), np.array(ends, bool)
    rows = np.flatnonzero(~ends)
    data = Dataset(empty, empty, ends, rows, None, None, None, rewards, masks, 0.0, "")
    assert estimates._discounted(data, 0.5) == pytest.approx(expected)


@pytest.mark.slow(2)
def test_the_page_marks_them_as_estimates(plant):
    page = Path("results/report/index.html").read_text()
    assert "Value, estimated (no episode was played)" in page and "Estimates from models, not measurements" in page
    summary = pd.read_csv("results/report/summary.csv")
    assert summary["success"].isna().all() and (summary["episodes"] == 0).all()
    table = pd.read_csv("results/report/success.csv")
    assert set(table["measure"]) == {"Value, estimated (no episode was played)"}
    last = pd.read_csv(RUN / "evaluations.csv").iloc[-1]
    assert table[(table["method"] == "flp") & (table["task"] == "all")]["mean"].item() == pytest.approx(last["fqe"])


@pytest.mark.slow(2)
def test_nothing_is_fine_tuned(plant, capsys):
    own = "{flp: {online: {steps: 5}}}"
    for given in ([], [f"agents={own}"], [f"overrides={{plant: {{agents: {own}}}}}"]):
        keys = Keys(load_params(given=given))
        assert list(keys.online_jobs()) == [] and len(list(keys.jobs())) == 2
    assert online_finetune.main(["--dataset", "plant"]) == 2
    assert "plant has no simulator to fine-tune in" in capsys.readouterr().err


@pytest.mark.slow(2)
def test_its_policy_loads_and_says_that_there_is_nothing_to_play(plant):
    policy = flp.load_policy(RUN)
    assert policy(np.zeros(3)).shape == (1,)
    assert json.loads((RUN / "policy.json").read_text())["model"]["environment"]["low"] == [-2.0]
    for workers in (0, 2):
        with pytest.raises(flp.FLPError, match=r"^plant has no simulator .*: there is nothing to play$"):
            flp.evaluate(policy, workers=workers)


@pytest.mark.slow(5)
def test_stopped_while_it_estimates_it_goes_on_to_the_same_bytes(plant, tmp_path, monkeypatch, signals):
    whole = {name: (RUN / name).read_bytes() for name in ("evaluations.csv", "policy.safetensors", "log.csv")}
    shutil.copytree(plant, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree("results/plant/offline/flp")
    of = ["--dataset", "plant", "--threads", "1"]

    def asked_to_stop(*arguments):
        STOP.signal = signal.SIGTERM
        return fitted_q(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(estimates, "fitted_q", asked_to_stop)
        assert offline_train.main(of) == 1
    assert not RUN.exists() and list(Path(".flp/resume/offline-train").glob("*/state.safetensors"))
    assert offline_train.main(of) == 0
    assert {name: (RUN / name).read_bytes() for name in whole} == whole


@pytest.fixture
def untrained_plant(plant, tmp_path, monkeypatch):
    """A copy of the task's folder, without its policies."""
    shutil.copytree(plant, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree("results/plant/offline/flp")


@pytest.mark.slow(3)
def test_estimates_take_turns_like_updates(untrained_plant, monkeypatch):
    """So that never more shards compute than there are threads."""
    turns, held = Turns(0, Permits(1), SharedNumbers(1), SharedNumbers(1)), []

    def counted(*arguments):
        held.append(turns.holders[0])
        return fitted_q(*arguments)

    monkeypatch.setattr(estimates, "fitted_q", counted)
    monkeypatch.setattr(job, "run_shards", lambda train, shards, threads, together: train(shards[0], turns))
    assert offline_train.main(["--dataset", "plant", "--threads", "1"]) == 0
    assert held == [1]


@pytest.mark.slow(3)
def test_boards_show_final_estimates_too(untrained_plant, monkeypatch):
    """They are added to rows that boards have shown already."""
    shown = {}
    monkeypatch.setattr(Boards, "_show", lambda boards, table, row: shown.setdefault(table, []).append(row))
    monkeypatch.setattr(Boards, "_open", lambda boards, *run: [])
    monkeypatch.setattr("flp.supervision.boards.find_spec", lambda name: True)
    assert offline_train.main(["--dataset", "plant", "--threads", "1", "--tensorboard"]) == 0
    last = pd.read_csv(RUN / "evaluations.csv").iloc[-1]
    (row,) = shown["estimates"]
    assert row["step"] == last["step"] and row["fqe"] == pytest.approx(last["fqe"])


@pytest.mark.slow(3)
def test_when_every_run_has_failed_there_is_nothing_to_estimate(untrained_plant, capsys):
    """They fail before the first evaluation."""
    diverging = ["--config", "offline={learning_rate: 1.0e+15}"]
    assert offline_train.main(["--dataset", "plant", "--threads", "1", *diverging]) == 2
    error = capsys.readouterr().err
    assert "1 of 1 runs failed" in error and "lower offline.learning_rate" in error and "Traceback" not in error
    assert json.loads((RUN / "failed.json").read_text())["remedy"]
    assert [row.state for row in watch.rows() if row.makes == str(RUN.parent)] == ["failed"]


@pytest.mark.slow(5)
def test_a_failed_run_is_not_estimated_but_its_neighbour_is(untrained_plant, monkeypatch):
    update, fitted = FLP.update, []

    def poisoned(self, batch, noise):
        with torch.no_grad():
            self.policy.net.weights[0][0].fill_(torch.nan)
        return update(self, batch, noise)

    def counted(*arguments):
        fitted.append(None)
        return fitted_q(*arguments)

    monkeypatch.setattr(FLP, "update", poisoned)
    monkeypatch.setattr(estimates, "fitted_q", counted)
    sweep = ["--config", "offline={sweep: {alpha: [3]}}"]
    assert offline_train.main(["--dataset", "plant", "--threads", "1", *sweep]) == 2
    (neighbour,) = RUN.parent.glob("*/policy.json")
    assert (RUN / "failed.json").exists() and len(fitted) == 1
    assert np.isfinite(pd.read_csv(neighbour.with_name("evaluations.csv")).iloc[-1]["fqe"])


def test_fitted_q_finds_the_value_of_a_chain():
    """A chain of three states with reward 1 per step; with discount 0.9 the first has value 2.71."""
    states = torch.eye(3)
    n = 60
    where = torch.arange(n) % 3
    masks = (where != 2).float()
    nothing, first = torch.zeros(n, 1), torch.arange(0, n, 3)
    data = Logged(states[where], nothing, torch.ones(n), masks, states[(where + 1) % 3], nothing, first, nothing[first])
    offline = load_params(Path(__file__).parents[2] / "params.yaml").offline
    offline = offline.model_copy(
        update={"hidden": [32], "steps": 600, "batch_size": 32, "discount": 0.9, "observation_scale": None}
    )
    values = fitted_q(data, offline, (torch.zeros(3), torch.ones(3)), 0)
    assert values.shape == (MEMBERS,)
    torch.testing.assert_close(values, torch.full((MEMBERS,), 2.71), atol=0.08, rtol=0)


def test_fitted_q_forgets_where_it_started():
    """Three states lead to an absorbing one that costs 1 per step; target rate and schedule are far too slow."""
    n, discount = 80, 0.98
    states, nothing, first = torch.eye(4), torch.zeros(n, 1), torch.arange(0, n, 8)
    where = (torch.arange(n) % 8).clamp(max=3)
    rewards, after = -(where == 3).float(), states[(where + 1).clamp(max=3)]
    data = Logged(states[where], nothing, rewards, torch.ones(n), after, nothing, first, nothing[first])
    offline = load_params(Path(__file__).parents[2] / "params.yaml").offline.model_copy(
        update={"hidden": [32], "steps": 1000, "batch_size": 32, "discount": discount, "target_rate": 0.005}
        | {"learning_rate": 0.003, "observation_scale": None}
    )
    values = fitted_q(data, offline, (torch.zeros(4), torch.ones(4)), 0)
    worth = -(discount**3) / (1 - discount)  # -47; the average reward's is -31
    torch.testing.assert_close(values, torch.full((MEMBERS,), worth), atol=1.0, rtol=0)

"""Training that fails loudly, and alone: what is warned of, what stops a run, and what its neighbours notice."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from prepared_maze import DATASET, train
from random_transitions import make_replay
from reference import make_agent
from repository import REPO

from flp.agents.flp import FLP
from flp.evaluation.evaluator import Evaluator
from flp.params.loading import load_params
from flp.stages import online_finetune, pretrain_flow
from flp.supervision.health import Health, HopelessError
from flp.system.errors import FLPError
from flp.tools import watch

OFFLINE = load_params(REPO / "params.yaml").offline.model_copy(update={"discount": 0.99})
FINE = {"q": -3.0, "q_max": -0.5, "actor_q": -2.0, "critic_loss": 0.1, "policy_std": 0.8, "kl": 1.0, "latent_norm": 1.5}


def make_health(failures=None):
    replay = make_replay()
    replay.rewards.copy_(-(replay.rewards.abs() > 0.5).float())  # 0 and -1: with γ = 0.99, Q is in [-100, 0]
    replay.masks[1, :3] = 0.0  # run 0's task is never achieved
    return Health("flp", ["a", "b"], OFFLINE, replay, make_agent([1, 2]), failures or (lambda run: None))


def logs(**changed):
    return {name: torch.tensor([value, changed.get(name, value)]) for name, value in FINE.items()}


def test_what_is_plausible_is_silent(capsys):
    health = make_health()
    for step in (10, 20):
        health.look(step, logs())
    assert not health.failed
    assert health.good == 20
    assert capsys.readouterr().err == ""


def test_a_single_value_or_a_mean_by_chance_above_the_best_is_silent(capsys):
    make_health().look(10, logs(q_max=40.0, q=1.0))
    assert capsys.readouterr().err == ""


def test_rewards_earned_online_widen_the_limits(capsys):
    replay = make_replay(capacity=4)
    health = Health("flp", ["a", "b"], OFFLINE, replay, make_agent([1, 2]), own=True)
    zeros = {"observations": torch.zeros(2, 3), "actions": torch.zeros(2, 2), "next_observations": torch.zeros(2, 3)}
    replay.add({**zeros, "rewards": torch.tensor([-50.0, 50.0]), "masks": torch.ones(2)})  # γ = 0.99: ∓5,000 for ever
    health.look(10, {"q": torch.tensor([-4900.0, 4900.0])})
    assert capsys.readouterr().err == "" and not health.failed
    health.look(20, {"q": torch.tensor([60_000.0, 4900.0])})  # what its neighbour earned allows run a nothing
    assert list(health.failed) == ["a"]


def test_a_task_without_a_success_is_told_at_the_start(capsys):
    make_health().start()
    told = capsys.readouterr().err
    assert "task of a:" in told
    assert "download.episodes" in told


def test_a_users_rewards_may_be_of_any_sign_and_need_no_success(capsys):
    def health(rewards):
        replay = make_replay()
        replay.rewards.copy_(rewards(replay.rewards))
        replay.masks.fill_(1.0)
        return Health("flp", ["a", "b"], OFFLINE, replay, make_agent([1, 2]), own=True)

    rich = health(lambda r: torch.linspace(-1, 3, r.numel()).view_as(r))  # with γ = 0.99, Q is in [-100, 300]
    rich.start()
    rich.look(10, logs(q=290.0, q_max=300.0))
    assert capsys.readouterr().err == ""
    rich.look(20, logs(q=600.0))
    assert "allow -100 to 300" in capsys.readouterr().err and not rich.failed
    health(lambda r: torch.full_like(r, 2.0)).start()
    assert "earns the same reward" in capsys.readouterr().err


@pytest.mark.parametrize("name", FINE)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_log_that_is_no_number_fails_its_run_alone(name, value):
    failed = []
    health = make_health(failed.append)
    health.look(10, logs())
    health.look(20, logs(**{name: value}))
    health.look(30, logs(**{name: value}))
    assert failed == [1]
    assert list(health.failed) == ["b"]
    failure = health.failed["b"]
    assert (failure["step"], failure["last_good_step"]) == (20, 10)
    assert name in failure["reason"]
    message = health.message()
    assert "\n" not in message
    for part in ("b (step 20, last good at 10", "1 of 2 runs failed", "learning_rate", "the other 1 are finished"):
        assert part in message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"q_max": 60.0}, "Q is 60, where rewards and discount allow -100 to 0; "),
        ({"q": -170.0}, "Q is -170"),
        ({"actor_q": 75.0}, "Q is 75"),
        ({"actor_q": 2.0}, "Q is 2 on average, where rewards and discount allow -100 to 0; "),
        ({"policy_std": math.exp(-5) + 1e-5}, "collapsed"),
        ({"policy_std": math.exp(2) - 1e-3}, "upper clamp"),
        ({"latent_norm": 9.0}, "the prior's range"),
        ({"kl": 50.0}, "the prior's range"),
    ],
)
def test_what_is_suspicious_is_told_once(capsys, changed, words):
    health = make_health()
    for step in (10, 20):
        health.look(step, logs(**changed))
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert words in told
    assert "b at step 10" in told
    assert "offline." in told
    assert not health.failed


def test_a_policy_that_stays_the_behaviour_is_told_half_way(capsys):
    health = make_health()
    still = logs(kl=0.001)
    health.look(OFFLINE.steps // 2 - 1, still)
    assert capsys.readouterr().err == ""
    for step in (OFFLINE.steps // 2, OFFLINE.steps):
        health.look(step, still)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "b at step 4000: the policy is still the behaviour (KL 0.001 nats)" in told and "offline.alpha" in told


def test_a_policy_whose_alpha_follows_a_budget_may_stay_near(capsys):
    held = OFFLINE.model_copy(update={"kl_budget": 0.001})
    health = Health("flp", ["a", "b"], held, make_replay(), make_agent([1, 2], kl_budget=0.001))
    health.look(OFFLINE.steps, logs(kl=0.001))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("changed", [{"q_max": 1100.0}, {"q": -1300.0}])
def test_an_exploded_q_fails_its_run(changed):
    health = make_health()
    health.look(10, logs(**changed))
    assert list(health.failed) == ["b"]
    assert "rewards and discount allow -100 to 0" in health.failed["b"]["reason"]


@pytest.mark.parametrize("what", ["parameter", "optimizer"])
def test_a_parameter_that_is_no_number_fails_its_run(what):
    health = make_health()
    tensor = next(health.agent.policy.parameters()) if what == "parameter" else health.agent.optimizers[1].variance[0]
    with torch.no_grad():
        tensor[-1].fill_(torch.inf)
    health.look(10, logs())
    assert list(health.failed) == ["b"]


def test_nothing_is_left_to_do_when_all_have_failed():
    health = make_health()
    with pytest.raises(HopelessError):
        health.look(10, {"critic_loss": torch.full((2,), torch.nan)})
    assert "2 of 2 runs failed" in health.message()


def test_actions_that_are_no_numbers_become_zero_and_fail_the_run():
    health = make_health()
    actions = torch.ones(2, 3, 2)
    assert torch.equal(health.guard(actions), actions)
    actions[1, 2, 0] = torch.nan
    assert torch.equal(health.guard(actions), torch.stack([torch.ones(3, 2), torch.zeros(3, 2)]))
    assert list(health.failed) == ["b"]
    assert not health.guard(torch.ones(2, 3, 2))[1].any()


def test_a_resumed_session_knows_what_was_told(capsys):
    health = make_health()
    health.look(10, logs(q_max=60.0))
    health.fail(0, "a reason", "a remedy")
    state = json.loads(json.dumps(health.state()[1]))
    capsys.readouterr()
    again = make_health()
    again.restore({}, state)
    again.look(20, logs(q_max=60.0))
    assert capsys.readouterr().err == ""
    assert list(again.failed) == ["a"]
    resumed = make_health()
    resumed.restore({}, state)
    resumed.guard(torch.full((2, 1, 2), torch.nan))
    assert resumed.failed["b"]["step"] == 10


# In the stages


def poison(monkeypatch, at, run=0):
    """From update `at` on, one run's policy holds NaN."""
    update, count = FLP.update, iter(range(10**6))

    def poisoned(self, batch, noise):
        if next(count) == at:
            with torch.no_grad():
                self.policy.net.weights[0][run].fill_(torch.nan)
        return update(self, batch, noise)

    monkeypatch.setattr(FLP, "update", poisoned)


def test_a_lost_run_leaves_its_neighbour_alone_and_is_the_only_one_trained_again(here, monkeypatch, capsys):
    assert train() == 0
    alone = {run: (here / run / "policy.safetensors").read_bytes() for run in ("task1_seed0", "task2_seed0")}
    shutil.rmtree(here)
    monkeypatch.setenv("FLP_CHECKPOINT_SECONDS", "0")
    with monkeypatch.context() as patch:
        poison(patch, 25)
        assert train() == 2
    told = capsys.readouterr().err
    assert "task1_seed0 has failed at step 30" in told
    assert told.splitlines()[-1].startswith("flp offline-train: error: flp pointmaze-medium-navigate offline: 1 of 2")
    assert "Traceback" not in told
    lost, kept = here / "task1_seed0", here / "task2_seed0"
    failure = json.loads((lost / "failed.json").read_text())
    assert (failure["step"], failure["last_good_step"]) == (30, 20)
    assert not (lost / "policy.json").exists()
    good = json.loads((lost / "last-good.json").read_text())
    assert good["step"] == 20
    assert not (here / "manifest.json").exists()
    assert (kept / "policy.safetensors").read_bytes() == alone["task2_seed0"]

    when = (kept / "policy.json").stat().st_mtime_ns
    assert train() == 0
    assert (kept / "policy.json").stat().st_mtime_ns == when
    assert sorted(path.name for path in lost.iterdir()) == sorted(path.name for path in kept.iterdir())
    assert (here / "manifest.json").exists()


def test_when_all_are_lost_it_stops_early(here, monkeypatch, capsys):
    for run in (0, 1):
        poison(monkeypatch, 5, run)
    assert train() == 2
    told = capsys.readouterr().err
    assert "2 of 2 runs failed" in told
    assert "step 60" not in told
    assert told.count("the other runs continue") == 1  # said of the first, not of the last


def test_online_a_lost_run_stands_still(here, monkeypatch, capsys):
    assert train() == 0
    monkeypatch.setattr(FLP, "update", FLP.update)
    poison(monkeypatch, 5)
    assert train(online_finetune) == 2
    assert "task1_seed0 has failed" in capsys.readouterr().err
    online = Path(f"results/{DATASET}/online/flp/seed0")
    assert (online / "task1_seed0" / "failed.json").exists()
    assert (online / "task2_seed0" / "policy.json").exists()


def test_a_flow_that_diverges_says_so(here, capsys):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["flow"]["learning_rate"] = 1e18
    Path("params.yaml").write_text(yaml.safe_dump(values))
    assert pretrain_flow.main(["--dataset", DATASET, "--seed", "0", "--threads", "1", "--device", "cpu"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "step 10" in last
    assert "training has diverged; lower flow.learning_rate" in last
    assert [row.state for row in watch.rows() if row.stage == "pretrain-flow"] == ["failed"]


def test_an_environment_that_raises_fails_the_job_until_it_runs_again(here, monkeypatch):
    def broken(*arguments):
        raise FLPError("the environment raised")

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", broken)
        assert train() == 2
    assert [row.state for row in watch.rows() if row.stage == "offline-train"] == ["failed"]
    assert train() == 0
    assert [row.state for row in watch.rows() if row.stage == "offline-train"] == ["done"]

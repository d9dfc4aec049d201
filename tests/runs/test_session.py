"""A training session: background evaluations equal those that training waits for, also after an interruption."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from itertools import groupby
from pathlib import Path

import pytest
import yaml
from prepared_maze import DATASET, train

from flp.agents.flp import FLP
from flp.evaluation.evaluator import Evaluator
from flp.runs import session, shards
from flp.stages import offline_train
from flp.system.progress import Progress
from flp.system.resume import Resume
from flp.system.stopping import STOP

FILES = ("policy.safetensors", "evaluations.csv", "log.csv", "trajectories.npz")


@pytest.fixture(scope="module")
def foreground(prepared, tmp_path_factory):
    """The files of a run whose training waits for its two evaluations."""
    root = tmp_path_factory.mktemp("foreground")
    shutil.copytree(prepared, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(shards, "deal", lambda runs, threads: [list(runs)] if runs else [])
        evaluate_at_30()
        assert train() == 0
        return made(Path(f"results/{DATASET}/offline/flp/seed0"))


def evaluate_at_30():
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["evaluation"]["every"] = 30
    Path("params.yaml").write_text(yaml.safe_dump(values))


def made(folder):
    """The contents of all files; removes the manifests."""
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.name in FILES}
    assert len(contents) == 8
    for path in folder.rglob("*.json"):
        path.unlink()
    return contents


def test_an_evaluation_is_seen_to_go_on(here, monkeypatch):
    seen = []
    monkeypatch.setattr(Progress, "beat", lambda progress, note: seen.append((progress.n, note)))
    assert train() == 0
    assert {said for _, said in seen} == {"evaluating"}
    assert {step for step, _ in seen} == {0, 60}, "the frozen flow's, and the last"
    assert len(seen) > 500, "at every step of an episode"


def test_evaluations_beside_training_change_nothing(foreground, here, monkeypatch):
    evaluate_at_30()
    monkeypatch.setattr(session, "evaluates_concurrently", lambda device: True)
    reached, update, evaluate = [0], FLP.update, Evaluator.evaluate

    def counted(self, batch, noise):
        reached[0] += 1
        return update(self, batch, noise)

    def late(self, act):
        """Starts only when training has reached its end."""
        for _ in range(3000):
            if reached[0] == 60:
                return evaluate(self, act)
            time.sleep(0.01)
        raise AssertionError("training waits for its evaluation")

    shown = []
    monkeypatch.setattr(FLP, "update", counted)
    monkeypatch.setattr(Evaluator, "evaluate", late)
    monkeypatch.setattr(Progress, "say", lambda progress, text: shown.append(text.partition(":")[0]))
    monkeypatch.setattr(Progress, "beat", lambda progress, note: shown.append(note))
    monkeypatch.setattr(Progress, "close", lambda progress: shown.append("closed"))
    assert train() == 0
    assert made(here) == foreground
    distinct = [text for text, _ in groupby(shown)]
    assert distinct[0].startswith("evaluating, ")
    assert [text for text in distinct if "to go" not in text] == ["step 30", "evaluating", "step 60", "closed"]


def test_a_stop_keeps_what_is_under_evaluation(foreground, here, monkeypatch, capsys):
    evaluate_at_30()
    monkeypatch.setattr(session, "evaluates_concurrently", lambda device: True)
    with monkeypatch.context() as patch:
        update, count, saved = FLP.update, iter(range(100)), []

        def stopped(self, batch, noise):
            if next(count) == 45:
                os.kill(os.getpid(), signal.SIGTERM)
            return update(self, batch, noise)

        def never(self, act):
            while not self._interrupted:
                time.sleep(0.01)
            raise RuntimeError("interrupted")

        save = Resume.save
        patch.setattr(Resume, "save", lambda self, *state: (saved.append(state[1]), save(self, *state))[1])
        patch.setattr(FLP, "update", stopped)
        patch.setattr(Evaluator, "evaluate", never)
        assert train() == 1
    assert saved[-1]["step"] == 50
    assert saved[-1]["pending"] == [["behavior", 0, []], ["offline", 30, []]]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("evaluation")]
    assert train() == 0
    assert "resuming from" in capsys.readouterr().err
    assert made(here) == foreground


def test_who_learns_online_alone_logs_its_start_once_however_often_it_is_stopped(here, monkeypatch, signals):
    monkeypatch.setattr(session, "evaluates_concurrently", lambda device: True)
    tick, rlpd = session.Session._tick, ["--dataset", DATASET, "--agent", "rlpd", "--threads", "1", "--device", "cpu"]

    def stopped(self):
        STOP.signal = signal.SIGTERM
        tick(self)

    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "_tick", stopped)
        assert offline_train.main(rlpd) == 1
    assert offline_train.main(rlpd) == 0
    assert Path(f"results/{DATASET}/offline/rlpd/seed0/task1_seed0/log.csv").read_text() == "step\n0\n"


def test_a_policy_that_fails_beside_training_is_marked_at_its_own_step(here, monkeypatch, capsys):
    monkeypatch.setattr(session, "evaluates_concurrently", lambda device: True)
    act = FLP.act

    def broken(self, observations, streams):
        actions = act(self, observations, streams)
        actions[1] = float("nan")
        return actions

    monkeypatch.setattr(FLP, "act", broken)
    assert train() == 2
    assert "task2_seed0 has failed at step 60: its policy gives NaN" in capsys.readouterr().err
    assert (here / "task1_seed0" / "policy.json").exists()
    assert not (here / "task2_seed0" / "policy.json").exists()

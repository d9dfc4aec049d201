"""`flp check` refuses what the first stage would refuse of a user's files, and needs no file that it does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from own_tasks import experiment, logged

from flp.data.environments import specification
from flp.tools import check

MAZE = "pointmaze-medium-navigate"


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    """Checks an experiment's values in a folder of its own; returns the exit status and what was printed."""
    monkeypatch.chdir(tmp_path)

    def call(values):
        Path("params.yaml").write_text(yaml.safe_dump(values))
        status = check.main([])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return call


@pytest.mark.slow(2)
def test_without_the_file_the_data_that_it_made_suffice(pendulum, tmp_path, monkeypatch, capsys):
    shutil.copytree(pendulum / "data", tmp_path / "data")
    shutil.copy(pendulum / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert check.main([]) == 0
    assert "300 transitions, observations of 3 numbers" in capsys.readouterr().out
    Path("data/pendulum.json").unlink()
    assert check.main([]) == 2
    assert "mine.npz does not exist" in capsys.readouterr().err


def test_one_episode_is_too_few_to_split(checked):
    np.savez("mine.npz", **logged(1, 20))
    task = {"data": {"path": "mine.npz"}, "environment": None, "actions": {"low": -2, "high": 2}}
    status, said = checked(experiment({"mine": task}))
    assert status == 2 and "mine.npz has one episode, too few to split" in said


def maze(qpos: int) -> dict[str, np.ndarray]:
    spec, ends = specification(MAZE), np.arange(100) % 10 == 9
    widths = {"observations": spec.observation_dim, "actions": spec.action_dim, "qpos": qpos, "qvel": 2}
    rng = np.random.default_rng(0)
    return {"terminals": ends} | {k: rng.uniform(-1, 1, (100, n)).astype(np.float32) for k, n in widths.items()}


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (lambda path: None, "mine.npz does not exist; correct download.path"),
        (lambda path: path.write_bytes(b"broken"), "mine.npz is not a whole .npz file"),
        (
            lambda path: np.savez(path, **maze(7)),
            "mine.npz: 'qpos' has 7 columns, pointmaze-medium-navigate's simulator 2",
        ),
        (lambda path: np.savez(path, **maze(2)), "pointmaze-medium-navigate: 90 transitions in mine.npz"),
    ],
    ids=["missing", "broken", "another simulator's", "whole"],
)
def test_a_file_for_one_of_ogbenchs_datasets_is_read(checked, save, said):
    save(Path("mine.npz"))
    values = experiment({}) | {"datasets": [MAZE], "download": {"source": "path", "path": "mine.npz"}}
    status, printed = checked(values)
    assert (status == 0) is ("transitions" in said) and said in printed

"""`flp check` refuses what the first stage would refuse of a user's files, and needs no file that it does not."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import yaml
from own_tasks import experiment, logged

from flp.data.environments import specification
from flp.data.episodes import Collector, Recipe
from flp.data.relabel import state_columns
from flp.own.ogbench_file import read_files
from flp.system.errors import FLPError
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
    found = {"terminals": ends} | {k: rng.uniform(-1, 1, (100, n)).astype(np.float32) for k, n in widths.items()}
    found["qpos"][:, :2] = found["observations"]
    return found


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (lambda path: None, "mine.npz does not exist; correct download.path"),
        (lambda path: path.write_bytes(b"broken"), "mine.npz is not a whole .npz file"),
        (
            lambda path: np.savez(path, **maze(7)),
            "mine.npz: 'qpos' has 7 columns, pointmaze-medium-navigate's simulator 2",
        ),
        (
            lambda path: np.savez(path, **maze(2) | {"qpos": np.roll(maze(2)["qpos"], -1, 0)}),
            "'qpos' of row 0 is not the state in which its 'observations' were made",
        ),
        (lambda path: np.savez(path, **maze(2)), "pointmaze-medium-navigate: 90 transitions in mine.npz"),
    ],
    ids=["missing", "broken", "another simulator's", "after the action", "whole"],
)
def test_a_file_for_one_of_ogbenchs_datasets_is_read(checked, save, said):
    save(Path("mine.npz"))
    values = experiment({}) | {"datasets": [MAZE], "download": {"source": "path", "path": "mine.npz"}}
    status, printed = checked(values)
    assert (status == 0) is ("transitions" in said) and said in printed


FAMILIES = [
    "pointmaze-giant-stitch",
    "antmaze-medium-explore",
    "humanoidmaze-medium-navigate",
    "antsoccer-arena-stitch",
]
FAMILIES += ["cube-double-noisy", "scene-play", "puzzle-4x6-play"]


@pytest.mark.slow(3)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_an_environment_gives_is_accepted_and_the_state_after_the_action_is_not(name, tmp_path):
    episodes = [Collector(Recipe(name, 20, 0, 0.1, "random")).episode(i) for i in range(2)]
    arrays = {key: np.concatenate([episode[key] for episode in episodes]) for key in episodes[0]}
    half = {key: array.astype(np.float16) if array.dtype == np.float32 else array for key, array in arrays.items()}
    late = arrays | {"qpos": np.roll(arrays["qpos"], -1, 0)}
    for given, said in ((arrays, None), (half, None), (late, "store the state before the action, info..prev_qpos")):
        np.savez(tmp_path / "mine.npz", **given)
        with nullcontext() if said is None else pytest.raises(FLPError, match=said):
            read_files(name, tmp_path / "mine.npz", state_columns(name))


@pytest.mark.slow(3)
def test_a_teleport_between_observation_and_state_is_no_contradiction(tmp_path):
    name = "pointmaze-teleport-navigate"
    collector = Collector(Recipe(name, 600, 0, 0.5, "scripted"))
    episodes = [collector.episode(i) for i in range(2)]
    arrays = {key: np.concatenate([episode[key] for episode in episodes]) for key in episodes[0]}
    assert np.abs(arrays["observations"] - arrays["qpos"]).max() > 5
    np.savez(tmp_path / "mine.npz", **arrays)
    read_files(name, tmp_path / "mine.npz", state_columns(name))

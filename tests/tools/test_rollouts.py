"""`flp rollout`: a policy from its folder alone plays the pipeline's episodes; intervals and records are true."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_experiment import MAZE

from flp import cli
from flp.data.environments import make_environment, numpy_seeded, seeded_reset
from flp.evaluation import headless
from flp.library.trial import Trial
from flp.randomness.seeds import seed_of


def trial(success, returns):
    return Trial(np.array(success, np.float32), np.array(returns, np.float64), np.ones(len(success), np.int64))


def test_the_numbers_are_the_pipelines(run_of, capsys):
    folder = run_of("flp")
    row = pd.read_csv(folder / "evaluations.csv").iloc[-1]
    told = {}
    for place in (folder, folder / "policy.safetensors"):
        options = ["--episodes", "3", "--seed", "7", "--threads", "1", "--device", "cpu"]
        assert cli.main(["rollout", str(place), *options, "--json"]) == 0
        told[place] = json.loads(capsys.readouterr().out)
    found = told[folder]
    assert found == told[folder / "policy.safetensors"]
    assert (found["success"]["mean"], found["return"]["mean"], found["length"]) == (
        row.success,
        row["return"],
        row.length,
    )
    manifest = json.loads((folder / "policy.json").read_text())
    assert {name: found[name] for name in ("agent", "dataset", "task", "key", "step")} == {
        name: manifest[name] for name in ("agent", "dataset", "task", "key", "step")
    }
    low, high = found["success"]["interval"]
    assert low <= found["success"]["mean"] <= high and high - low > 0.3  # three episodes tell little


def test_it_is_one_line_with_the_asked_task_beside_one_of_progress(run_of, capsys):
    assert cli.main(["rollout", str(run_of("bc")), "--task", "4", "--episodes", "2", "--threads", "2"]) == 0
    said = capsys.readouterr()
    assert re.fullmatch(
        rf"bc {MAZE} task 4: success \d+ % \[\d+, \d+\], return -\d+\.\d \[-.*, -.*\], 2 episodes of .*\n", said.out
    )
    assert re.fullmatch(rf"bc {MAZE} task 4 2/2 \| .* episodes/s\n", said.err)


def test_the_interval_of_a_rate_is_wilsons():
    z = 1.959963984540054
    for won, n in ((0, 10), (7, 10), (50, 50)):
        p = won / n
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        found = trial([1.0] * won + [0.0] * (n - won), [0.0] * n).success_interval
        assert found == pytest.approx((max(0, middle - half), min(1, middle + half)), abs=1e-9)


def test_the_interval_of_a_mean_is_a_bootstraps():
    returns = np.random.default_rng(1).normal(-20, 5, 400)
    low, high = trial([0.0] * 400, returns).return_interval
    half = 1.96 * returns.std() / 20
    assert (low, high) == pytest.approx((returns.mean() - half, returns.mean() + half), abs=0.05)
    assert trial([0.0] * 3, [-7.0] * 3).return_interval == (-7.0, -7.0)


def test_a_record_that_cannot_be_written_is_refused_before_anything_is_played(run_of, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("flp.evaluation.evaluator.evaluate", None)
    (tmp_path / "file").touch()
    folder = str(run_of("bc"))
    for place in ("file", "file/below"):
        assert cli.main(["rollout", folder, "--record", str(tmp_path / place)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--record {tmp_path / place}: " in line


@pytest.mark.slow(20)
def test_what_was_recorded_happens_again(run_of, tmp_path, monkeypatch):
    monkeypatch.setattr(headless, "works", lambda backend: False)  # MuJoCo is imported here, without a renderer
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    options = ["--episodes", "2", "--seed", "5", "--threads", "1", "--record", str(tmp_path / "played")]
    (tmp_path / "played").mkdir()
    (tmp_path / "played/episode7.webp").write_bytes(b"the film of an earlier recording")
    assert cli.main(["rollout", str(run_of("flp")), *options]) == 0
    assert [path.name for path in (tmp_path / "played").iterdir()] == ["episodes.npz"]
    with np.load(tmp_path / "played/episodes.npz", allow_pickle=False) as file:
        played = dict(file)
    ends = np.flatnonzero(played["terminals"] | played["timeouts"])
    assert len(ends) == 2 and ends[-1] == len(played["actions"]) - 1
    for episode, (first, last) in enumerate([(0, ends[0]), (ends[0] + 1, ends[1])]):
        environment = make_environment(MAZE, 2)
        seed = seed_of("evaluation", 5, 2, episode)
        observation, _ = seeded_reset(environment, seed)
        for row in range(first, last + 1):
            np.testing.assert_array_equal(played["observations"][row], observation.astype(np.float32))
            with numpy_seeded(seed + row - first + 1):
                observation, reward, terminated, truncated, _ = environment.step(played["actions"][row])
            np.testing.assert_array_equal(played["next_observations"][row], observation.astype(np.float32))
            assert (reward, terminated, truncated) == (
                played["rewards"][row],
                played["terminals"][row],
                played["timeouts"][row],
            )


@pytest.mark.slow(20)
def test_each_episode_is_filmed(run_of, tmp_path):
    import subprocess
    import sys

    if not any(map(headless.works, headless.BACKENDS)):
        pytest.skip(f"needs {headless.PACKAGES}")
    command = [sys.executable, "-m", "flp.cli", "rollout", str(run_of("bc")), "--episodes", "2", "--record", "films"]
    subprocess.run(command, check=True, cwd=tmp_path)
    for name in ("episode0.webp", "episode1.webp"):
        with Image.open(tmp_path / "films" / name) as film:
            assert film.n_frames > 10
    assert (tmp_path / "films/episode0.webp").read_bytes() != (tmp_path / "films/episode1.webp").read_bytes()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nowhere"], "nowhere/policy.safetensors does not exist"),
        (["RUN", "--task", "9"], f"{MAZE} has no task 9; use 1 to 5"),
        (["RUN", "--task", "0"], "'0' is not a whole number above 0"),
        (["RUN", "--episodes", "0"], "'0' is not a whole number above 0"),
        (["RUN", "--episodes", "99999999"], "99999999 is more than a million"),
        (["RUN", "--seed", "-1"], "'-1' is not a seed: a whole number from 0"),
        (["RUN/.."], "is not a run's folder"),
        ([], "POLICY"),
    ],
)
def test_what_cannot_be_is_one_line(argv, says, run_of, capsys):
    folder = run_of("bc")
    try:
        status = cli.main(["rollout", *(word.replace("RUN", str(folder)) for word in argv)])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2 and says in capsys.readouterr().err.splitlines()[-1]

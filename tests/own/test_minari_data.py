"""Datasets of Minari's own collector: rewards and ends as recorded, with the environment that they name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml
from own_tasks import experiment, swing
from small_experiment import run_stages

import flp
from flp.own.importing import TaskSource, read_task
from flp.own.minari_data import open_minari, read_minari
from flp.stages import download_dataset, report
from flp.tools import check

minari = pytest.importorskip("minari")
pytest.importorskip("jax", reason="Minari's collector needs it")
# The collector leaves a temporary folder to the garbage collector, which says so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def collect(folder: Path, env, name: str, act, episodes: int = 4, **said) -> Path:
    """Record a dataset into a folder."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        collector = minari.DataCollector(env)
        for episode in range(episodes):
            observation, _ = collector.reset(seed=episode)
            done = False
            while not done:
                observation, _, terminated, truncated, _ = collector.step(act(observation))
                done = terminated or truncated
        collector.create_dataset(name, **said)
        collector.close()
    return folder / name


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    rng = np.random.default_rng(0)
    env = gymnasium.make("Pendulum-v1", max_episode_steps=40)
    said = {"ref_min_score": -400.0, "ref_max_score": -100.0}
    folder = tmp_path_factory.mktemp("minari")
    return collect(folder, env, "pendulum/swing-v0", lambda o: swing(o, rng.normal()), **said)


@pytest.mark.slow(3)
def test_a_local_dataset_goes_through_all_stages_without_a_network(pendulum, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = {"data": {"minari": str(pendulum)}}
    Path("params.yaml").write_text(yaml.safe_dump(experiment({"swing": task})))
    assert check.main([]) == 0
    assert "Pendulum-v1, 40 steps" in capsys.readouterr().out
    run_stages("swing", online=True)
    assert report.main(["--threads", "1"]) == 0
    page = Path("results/report/index.html").read_text()
    assert "Normalised score" in page
    returns = Path("results/swing/offline/flp/seed0/task1_seed0/evaluations.csv").read_text().split()
    last = dict(zip(returns[0].split(","), returns[-1].split(","), strict=True))
    assert last["success"] == "" and float(last["return"]) < 0
    manifest = json.loads(Path("data/swing.json").read_text())
    assert manifest["task"]["kwargs"] == {"max_episode_steps": 40} and manifest["reference"] == [-400, -100]
    found = {row.split(",")[2]: row.split(",") for row in Path("results/report/success.csv").read_text().splitlines()}
    score = float(found["flp"][3])
    assert score == pytest.approx((float(last["return"]) + 400) / 3, abs=1e-6)


@pytest.mark.slow(3)
def test_its_references_count_whoever_names_the_environment(pendulum):
    named = TaskSource("x", None, str(pendulum), "Pendulum-v1", {"max_episode_steps": 30}, "none", None)
    found = read_task(named)
    assert found.reference == (-400, -100) and found.spec.horizon == 30
    without = read_task(TaskSource("x", None, str(pendulum), None, {}, "none", None)).spec
    assert not without.simulated and (without.low, without.high) == ((-2.0,), (2.0,))  # Minari tells the range


@pytest.mark.slow(3)
def test_rewards_and_ends_are_as_they_were_recorded(pendulum):
    data = open_minari(str(pendulum))
    rows = read_minari(data, "x")
    at = 0
    for episode in data.iterate_episodes():
        span = slice(at, at + len(episode))
        np.testing.assert_array_equal(rows["observations"][at : at + len(episode) + 1], episode.observations)
        np.testing.assert_array_equal(rows["rewards"][span], episode.rewards.astype(np.float32))
        np.testing.assert_array_equal(rows["masks"][span], ~episode.terminations)
        at += len(episode) + 1
        assert rows["terminals"][at - 1] and not rows["terminals"][span].any()
    assert at == len(rows["rewards"])


@pytest.mark.slow(3)
def test_observations_in_a_dict_are_flattened_as_gymnasium_does(tmp_path, monkeypatch):
    pytest.importorskip("gymnasium_robotics")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gymnasium.make("gymnasium_robotics:PointMaze_UMaze-v3", max_episode_steps=30)
    rng = np.random.default_rng(0)
    folder = collect(tmp_path / "minari", env, "maze/random-v0", lambda o: rng.uniform(-1, 1, 2).astype(np.float32), 3)
    monkeypatch.chdir(tmp_path)
    place = {"environment": "gymnasium_robotics:PointMaze_UMaze-v3", "kwargs": {"max_episode_steps": 30}}
    task = {"data": {"minari": str(folder)}, "success": "info.success", **place}
    Path("params.yaml").write_text(yaml.safe_dump(experiment({"maze": task}, online={"steps": 0})))
    run_stages("maze")
    data = flp.load_dataset("maze")
    spaces = open_minari(str(folder)).observation_space
    first = next(iter(open_minari(str(folder)).iterate_episodes())).observations
    flat = gymnasium.spaces.utils.flatten(spaces, {key: values[0] for key, values in first.items()})
    np.testing.assert_array_equal(data.observations[0], flat.astype(np.float32))
    policy = flp.load_policy("results/maze/offline/flp/seed0/task1_seed0")
    assert flp.evaluate(policy, episodes=2).lengths.tolist() == [30, 30]


@pytest.mark.slow(3)
def test_discrete_actions_are_refused_with_a_reason(tmp_path, monkeypatch, capsys):
    folder = collect(tmp_path / "minari", gymnasium.make("CartPole-v1"), "pole/x-v0", lambda o: int(o[2] > 0))
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(experiment({"pole": {"data": {"minari": str(folder)}}})))
    assert check.main([]) == 2
    assert "actions are discrete (Discrete(2)); a flow models densities" in capsys.readouterr().err


@pytest.mark.slow(3)
def test_a_datasets_word_imports_no_module(pendulum, tmp_path, monkeypatch, capsys):
    """Its environment is named in a file: it may be one that gymnasium knows, not code of its own choosing."""
    monkeypatch.chdir(tmp_path)
    metadata = json.loads((pendulum / "data" / "metadata.json").read_text())
    spec = json.loads(metadata["env_spec"])
    for name, said in {"antigravity:Pendulum-v1": "imports a module", "Evil-v1": "cannot be made"}.items():
        target = tmp_path / "other"
        (target / "data").mkdir(parents=True, exist_ok=True)
        (target / "data" / "main_data.hdf5").write_bytes((pendulum / "data" / "main_data.hdf5").read_bytes())
        evil = spec | {"id": name} | {"entry_point": "os:system", "kwargs": {"command": "touch evil"}}
        (target / "data" / "metadata.json").write_text(json.dumps(metadata | {"env_spec": json.dumps(evil)}))
        values = experiment({"swing": {"data": {"minari": str(target)}}})
        Path("params.yaml").write_text(yaml.safe_dump(values))
        assert download_dataset.main(["--dataset", "swing"]) == 2
        assert said in capsys.readouterr().err and not Path("evil").exists()

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import ogbench
import pytest

import flp.data.generate as generation
from flp.data.controllers import cells_at_distance, free_cells
from flp.data.environments import make_environment, specification
from flp.data.episodes import Collector, Recipe
from flp.data.generate import generate
from flp.randomness.seeds import seed_of
from flp.system.errors import FLPError

SCRIPTED = [
    "pointmaze-medium-navigate",
    "pointmaze-teleport-stitch",
    "cube-double-play",
    pytest.param("cube-single-noisy", marks=pytest.mark.slow),
    pytest.param("scene-play", marks=pytest.mark.slow),
    pytest.param("scene-noisy", marks=pytest.mark.slow),
    pytest.param("puzzle-3x3-noisy", marks=pytest.mark.slow),
]


def recipe_of(name, steps, policy="scripted"):
    return Recipe(name, steps, 0, specification(name).noise, policy)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def assert_no_children(seconds=20.0):
    """A killed process takes a moment to disappear."""
    deadline = time.monotonic() + seconds
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("name", SCRIPTED)
def test_an_episode_does_not_depend_on_those_before_it(name):
    steps = 300 if name == "scene-noisy" else 40  # its oracles see old targets now and then
    one, other = Collector(recipe_of(name, steps)), Collector(recipe_of(name, steps))
    first = one.episode(3)
    other.episode(7)
    other.episode(1)
    assert same(first, other.episode(3))
    assert same(first, one.episode(3))
    assert not np.array_equal(first["actions"], one.episode(4)["actions"])


@pytest.mark.parametrize("name", ["pointmaze-medium-navigate", "scene-play"])
def test_an_episode_starts_from_the_pristine_model(name):
    collector = Collector(recipe_of(name, 30))
    first = collector.episode(0)
    model = collector.env.model
    model.dof_damping[:] += 50.0  # what OGBench does to lock a drawer
    model.geom_pos[:] += 0.1
    model.site_pos[:] += 0.1
    assert same(first, collector.episode(0))


@pytest.mark.parametrize(
    "name",
    ["antmaze-large-navigate", "humanoidmaze-medium-navigate", "antsoccer-arena-stitch", "puzzle-3x3-play"],
)
def test_random_policy_works_everywhere(name):
    one, other = (Collector(recipe_of(name, 30, "random")) for _ in range(2))
    other.episode(1)
    arrays = one.episode(0)
    assert same(arrays, other.episode(0))
    assert -1 <= arrays["actions"].min() < -0.8 and 0.8 < arrays["actions"].max() <= 1
    assert abs(arrays["actions"].mean()) < 0.2


@pytest.fixture(scope="module")
def pointmaze(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pointmaze")
    make_small(folder / "train.npz", workers=1)
    return folder / "train.npz"


def make_small(path: Path, workers: int, **options):
    settings = {"seed": 5, "episodes": 20, "steps_per_episode": 40} | options
    return generate(
        "pointmaze-medium-navigate",
        path,
        path.with_name(f"{path.stem}-val.npz"),
        workers=workers,
        progress=False,
        **settings,
    )


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_do_not_change_a_byte(pointmaze, tmp_path, workers):
    make_small(tmp_path / "train.npz", workers)
    for name in ("train.npz", "train-val.npz"):
        assert (tmp_path / name).read_bytes() == pointmaze.with_name(name).read_bytes()
    assert_no_children()


def test_seed_and_noise_change_the_data(pointmaze, tmp_path):
    original = dict(np.load(pointmaze))
    make_small(tmp_path / "a.npz", 1, seed=6)
    make_small(tmp_path / "b.npz", 1, noise=0.1)
    for name in ("a.npz", "b.npz"):
        assert not np.array_equal(original["actions"], np.load(tmp_path / name)["actions"])


def test_global_generator_is_left_alone(tmp_path):
    np.random.seed(1)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    make_small(tmp_path / "a.npz", 1, episodes=1)
    assert np.random.random() == expected  # noqa: NPY002


def test_official_loader_reads_the_files(pointmaze):
    data = ogbench.load_dataset(str(pointmaze), add_info=True)
    assert len(data["observations"]) == 20 * 39
    assert data["terminals"].sum() == 20
    file = np.load(pointmaze)
    assert list(file) == ["observations", "actions", "terminals", "qpos", "qvel"]
    assert [file[key].dtype for key in file] == [np.float32, np.float32, np.bool_, np.float32, np.float32]
    assert len(np.load(pointmaze.with_name("train-val.npz"))["terminals"]) == 2 * 40


def test_buttons_are_recorded(tmp_path):
    generate(
        "puzzle-3x3-play",
        tmp_path / "a.npz",
        tmp_path / "b.npz",
        seed=0,
        workers=1,
        episodes=1,
        steps_per_episode=100,
    )
    data = ogbench.load_dataset(str(tmp_path / "a.npz"), add_info=True)
    assert data["button_states"].dtype == np.int64 and data["button_states"].shape == (99, 9)
    assert len(np.unique(data["button_states"], axis=0)) > 1, "the oracle presses buttons"


def test_point_follows_the_official_loop_exactly():
    """OGBench's loop, reimplemented from data_gen_scripts/generate_locomaze.py."""
    name, steps = "pointmaze-medium-navigate", 300
    env = gymnasium.make("pointmaze-medium-v0", terminate_at_goal=False, max_episode_steps=steps)
    maze = env.unwrapped
    cells, corners = free_cells(maze.maze_map)
    seed = seed_of("episode", name, 0, 2, 0) % 2**32
    np.random.seed(seed)  # noqa: NPY002
    env.action_space.seed(seed)
    start = cells[np.random.randint(len(cells))]  # noqa: NPY002
    goal = corners[np.random.randint(len(corners))]  # noqa: NPY002
    observation, _ = env.reset(seed=seed, options={"task_info": {"init_ij": start, "goal_ij": goal}})
    observations, actions, done, goals = [], [], False, 0
    while not done:
        subgoal, _ = maze.get_oracle_subgoal(maze.get_xy(), maze.cur_goal_xy)
        direction = (subgoal - maze.get_xy()) / (np.linalg.norm(subgoal - maze.get_xy()) + 1e-6)
        action = np.clip(direction + np.random.normal(0, 0.5, 2), -1, 1)  # noqa: NPY002
        following, _, terminated, done, info = env.step(action)
        assert not terminated
        if info["success"]:
            goals += 1
            maze.set_goal(corners[np.random.randint(len(corners))])  # noqa: NPY002
        observations.append(observation)
        actions.append(action)
        observation = following
    ours = Collector(recipe_of(name, steps)).episode(2)
    assert goals > 0
    assert np.array_equal(ours["observations"], np.array(observations, np.float32))
    assert np.array_equal(ours["actions"], np.array(actions, np.float32))


def test_cubes_follow_the_official_loop_exactly():
    """OGBench's loop, reimplemented from data_gen_scripts/generate_manipspace.py."""
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

    name, steps = "cube-double-play", 150
    env = make_environment(name, mode="data_collection", terminate_at_goal=False, max_episode_steps=steps)
    seed = seed_of("episode", name, 0, 2, 0) % 2**32
    oracle = CubePlanOracle(env=env, noise=0.1, noise_smoothing=0.5)
    np.random.seed(seed)  # noqa: NPY002
    observation, info = env.reset(seed=seed)
    p_stack = np.random.uniform(0.0, 0.25)  # noqa: NPY002
    oracle.reset(observation, info)
    observations, qpos, done, targets = [], [], False, 0
    while not done:
        np.random.rand()  # noqa: NPY002
        action = np.clip(oracle.select_action(observation, info), -1, 1)
        following, _, _, done, info = env.step(action)
        if oracle.done:
            targets += 1
            oracle.reset(*env.unwrapped.set_new_target(p_stack=p_stack))
        observations.append(observation)
        qpos.append(info["prev_qpos"])
        observation = following
    ours = Collector(recipe_of(name, steps)).episode(2)
    assert targets > 0
    assert np.array_equal(ours["observations"], np.array(observations, np.float32))
    assert np.array_equal(ours["qpos"], np.array(qpos, np.float32))


def test_unhealthy_scenes_are_made_again(monkeypatch):
    collector = Collector(recipe_of("scene-play", 30))
    expected = collector.episode(0)
    verdicts = iter([False])
    official = type(collector._controller)._is_healthy
    monkeypatch.setattr(
        type(collector._controller),
        "_is_healthy",
        lambda self, qpos: next(verdicts, None) is None and official(self, qpos),
    )
    assert not same(expected, collector.episode(0))


@pytest.mark.parametrize(
    ("cube", "healthy"),
    [
        ((0.4, 0.0, 0.02), True),
        ((0.4, 0.29, 0.02), False),
        ((0.3, -0.3, 0.02), False),
        ((0.3, -0.35, 0.066), True),
    ],
)
def test_scene_health(cube, healthy):
    controller = Collector(recipe_of("scene-play", 2))._controller
    assert controller._is_healthy(np.array([0.0] * 14 + list(cube))) is healthy


def test_maze_cells():
    maze = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 1], [1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]])
    cells, corners = free_cells(maze)
    assert len(cells) == 6
    assert corners == [(1, 1), (1, 4), (2, 1), (2, 4)]
    assert cells_at_distance(maze, (2, 1), 4) == [(1, 4)]
    assert cells_at_distance(maze, (2, 1), 6) == []


@pytest.mark.parametrize("name", ["antmaze-large-navigate", "antsoccer-arena-navigate", "humanoidmaze-large-stitch"])
def test_experts_are_asked_for(name, tmp_path):
    with pytest.raises(FLPError, match=r"trained expert.*'ogbench'.*'path'"):
        generate(name, tmp_path / "a.npz", tmp_path / "b.npz", seed=0, workers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"episodes": 0},
        {"steps_per_episode": 1},
        {"noise": -0.1},
        {"noise": float("nan")},
        {"seed": -1},
        {"policy": "x"},
    ],
)
def test_bad_arguments_are_refused(tmp_path, options):
    with pytest.raises(FLPError, match=r"must be at least|unknown"):
        make_small(tmp_path / "a.npz", 1, **options)
    with pytest.raises(FLPError, match="workers is 0"):
        make_small(tmp_path / "a.npz", 0)


def test_interrupted_generation_resumes(pointmaze, tmp_path, monkeypatch):
    shards = tmp_path / "shards"
    made = []
    join = generation._join

    def stop_after_three(collector, span):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(span)
        return join(collector, span)

    with monkeypatch.context() as patch:
        patch.setattr(generation, "_join", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            make_small(tmp_path / "train.npz", 1, resume_dir=shards)
    assert not (tmp_path / "train.npz").exists()
    kept = sorted(shards.iterdir())
    assert len(kept) == 3
    kept[0].write_bytes(kept[0].read_bytes()[:-100])  # a truncated shard is made again
    (shards / f".{kept[1].name}.x1.tmp").touch()  # what a writer leaves that is killed
    again = []
    monkeypatch.setattr(generation, "_join", lambda collector, span: again.append(span) or join(collector, span))
    make_small(tmp_path / "train.npz", 1, resume_dir=shards)
    assert made[0] in again and not set(made[1:]) & set(again)
    assert (tmp_path / "train.npz").read_bytes() == pointmaze.read_bytes()
    assert not shards.exists()


def test_shards_of_other_settings_are_not_used(pointmaze, tmp_path, monkeypatch):
    shards = tmp_path / "shards"
    monkeypatch.setattr(generation.Shards, "remove", lambda self: None)
    make_small(tmp_path / "other.npz", 1, seed=6, resume_dir=shards)
    make_small(tmp_path / "train.npz", 1, resume_dir=shards)
    assert (tmp_path / "train.npz").read_bytes() == pointmaze.read_bytes()


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
from flp.data.generate import generate
if __name__ == "__main__":
    generate("pointmaze-medium-navigate", sys.argv[1], sys.argv[1] + "-val", seed=0, workers=2, episodes=500)
"""


def children_of(pid):
    run = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in run.stdout.split()]


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    line = [sys.executable, str(script), str(tmp_path / "a.npz")]
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while len(children_of(process.pid)) < 3:  # two workers and multiprocessing's resource tracker
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
            time.sleep(1)
            workers = children_of(process.pid)
            process.send_signal(how)
            assert process.wait(timeout=60) != 0
        finally:
            process.kill()  # where the test fails, its neighbours shall not
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


@pytest.mark.slow
def test_a_dead_worker_is_reported(tmp_path, monkeypatch):
    made = generation._make

    def kill_one(*arguments):
        for item in made(*arguments):
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            yield item

    monkeypatch.setattr(generation, "_make", kill_one)
    with pytest.raises(FLPError, match=r"worker process died.*fewer workers"):
        make_small(tmp_path / "a.npz", 2, steps_per_episode=1000)
    assert_no_children()

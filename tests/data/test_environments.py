from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from flp.data.environments import known_datasets, make_environment, numpy_seeded, seeded_reset, specification
from flp.system.errors import FLPError

FAMILIES = [
    "pointmaze-medium-navigate",
    "pointmaze-teleport-stitch",
    "antmaze-large-navigate",
    "humanoidmaze-medium-navigate",
    "antsoccer-arena-navigate",
    "cube-double-play",
    "scene-play",
    "puzzle-3x3-play",
]


def test_names_are_unique_and_described():
    names = known_datasets()
    assert len(names) == len(set(names)) == 8 + 11 + 6 + 4 + 18
    for name in names:
        spec = specification(name)
        assert name.startswith(spec.environment) and name.endswith(spec.dataset_type)


def test_official_sizes_of_the_papers_datasets():
    sizes = {
        "antmaze-large-navigate": 1_000_000,
        "antmaze-giant-navigate": 1_000_000,
        "humanoidmaze-medium-navigate": 2_000_000,
        "humanoidmaze-giant-navigate": 4_000_000,
        "antsoccer-arena-navigate": 1_000_000,
        "cube-quadruple-noisy": 5_000_000,
        "puzzle-4x5-play": 3_000_000,
    }
    for name, transitions in sizes.items():
        spec = specification(name)
        assert spec.episodes * (spec.steps_per_episode - 1) == transitions


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cube-singel-play", "cube-single-play"),
        ("cube-single-play-v0", "without '-v0'"),
        ("zzz", "datasets.csv"),
    ],
)
def test_unknown_name_suggests_a_remedy(name, hint):
    with pytest.raises(FLPError, match=hint):
        specification(name)


def test_unknown_task_and_timing_are_refused():
    with pytest.raises(FLPError, match="no task 6; use 1 to 5"):
        make_environment("pointmaze-medium-navigate", 6)
    with pytest.raises(FLPError, match="'pre' or 'post'"):
        make_environment("pointmaze-medium-navigate", 1, "later")


def test_looking_up_a_dataset_imports_no_simulator():
    code = (
        "import sys; from flp.data.environments import specification; specification('scene-play'); "
        "sys.exit(bool({'mujoco', 'gymnasium', 'ogbench', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code]).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in known_datasets() if n.endswith(("navigate", "play"))])
def test_table_agrees_with_ogbench(name):
    spec = specification(name)
    env = make_environment(name, 1)
    observation, _ = seeded_reset(env, 0)
    assert observation.shape == (spec.observation_dim,)
    assert env.action_space.shape == (spec.action_dim,)
    assert np.all(env.action_space.low == -1) and np.all(env.action_space.high == 1)
    assert env.spec.max_episode_steps == spec.horizon
    assert env.unwrapped.num_tasks == spec.num_tasks
    import gymnasium

    kwargs = gymnasium.spec(f"{spec.environment}-singletask-v0").kwargs
    assert kwargs["reward_task_id"] == 0, "the unnumbered task is the default one"
    env.unwrapped._reward_task_id = 0
    env.unwrapped.set_tasks()
    assert env.unwrapped._reward_task_id == spec.default_task
    assert hasattr(env.unwrapped, "_cur_button_states") == spec.has_buttons


@pytest.mark.parametrize("name", FAMILIES)
def test_same_seed_same_episode_whatever_happened_before(name):
    actions = np.random.default_rng(0).uniform(-1, 1, (20, specification(name).action_dim))

    def episode(env, seed):
        observation, info = seeded_reset(env, seed)
        with numpy_seeded(seed):  # for the teleports
            steps = [env.step(action)[0] for action in actions]
        return np.array([observation, *steps]), info["goal"]

    first, goal = episode(make_environment(name, 1), 7)
    used = make_environment(name, 1)
    episode(used, 3)
    again, again_goal = episode(used, 7)
    assert np.array_equal(first, again)
    assert np.array_equal(goal, again_goal)
    assert not np.array_equal(first[0], seeded_reset(used, 8)[0])


@pytest.mark.parametrize("name", ["antmaze-large-navigate", "scene-play"])
def test_same_seed_same_start_in_another_process(name):
    code = (
        f"from flp.data.environments import *; print(seeded_reset(make_environment({name!r}, 1), 7)[0].tobytes().hex())"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    here, _ = seeded_reset(make_environment(name, 1), 7)
    assert run.stdout.strip() == here.tobytes().hex()


def test_global_generator_is_left_alone():
    env = make_environment("pointmaze-medium-navigate", 1)
    np.random.seed(11)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(11)  # noqa: NPY002
    seeded_reset(env, 3)
    assert np.array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_threads_do_not_meet_in_the_global_generator():
    """An evaluation in the background, beside fine-tuning: each draws what it would draw alone."""

    def draws(seed):
        drawn = []
        for block in range(50):
            with numpy_seeded(seed + block):
                for _ in range(5):
                    time.sleep(0)  # lets the other thread run
                    drawn.append(float(np.random.normal()))  # noqa: NPY002
        return drawn

    alone = [draws(seed) for seed in (0, 1000)]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(draws, (0, 1000))) == alone

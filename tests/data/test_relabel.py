from __future__ import annotations

import numpy as np
import ogbench
import pytest

from flp.data.archive import write_npz
from flp.data.environments import make_environment, seeded_reset, specification
from flp.data.episodes import Collector, Recipe
from flp.data.load import Dataset, read_dataset
from flp.data.relabel import relabel
from flp.system.errors import FLPError

FAMILIES = [
    "pointmaze-medium-navigate",
    "antmaze-large-navigate",
    "humanoidmaze-medium-navigate",
    "antsoccer-arena-navigate",
    "cube-double-play",
    "scene-play",
    "puzzle-3x3-play",
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A dataset of two random episodes that end in the goal of task 1."""
    name = request.param
    path = tmp_path_factory.mktemp("data") / "data.npz"
    collector = Collector(Recipe(name, 40, 0, 0.0, "random"))
    episodes = [collector.episode(number) for number in range(2)]
    arrays = {key: np.concatenate([episode[key] for episode in episodes]) for key in episodes[0]}
    put_goal(name, arrays, rows=slice(30, 40))
    write_npz(path, arrays)
    write_npz(path.with_name("data-val.npz"), arrays)
    return name, path


def put_goal(name, arrays, rows):
    env = make_environment(name, 1)
    seeded_reset(env, 0)
    base = env.unwrapped
    if specification(name).family == "manipulation":
        if "cube" in name:
            for cube, target in enumerate(base._data.mocap_pos):
                arrays["qpos"][rows, 14 + 7 * cube : 17 + 7 * cube] = target
        elif "puzzle" in name:
            arrays["button_states"][rows] = base._target_button_states
        else:
            arrays["qpos"][rows, 14:17] = base._data.mocap_pos[0]
            arrays["qpos"][rows, -2:] = base._target_drawer_pos, base._target_window_pos
            arrays["button_states"][rows] = base._target_button_states
    else:
        first = 15 if "soccer" in name else 0
        arrays["qpos"][rows, first : first + 2] = base.cur_goal_xy


# OGBench's own action spaces make gymnasium complain.
@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")
def test_rewards_are_the_official_ones(family):
    name, path = family
    _, official, _ = ogbench.make_env_and_datasets(f"{name}-singletask-task1-v0", dataset_path=str(path))
    rewards, masks = relabel(name, 1, read_dataset(path, name))
    assert rewards.dtype == masks.dtype == np.float32
    assert np.array_equal(rewards, official["rewards"]) and np.array_equal(masks, official["masks"])
    assert masks.min() == 0 and masks.max() == 1, "the data have successes and failures"
    assert np.array_equal(masks == 0, rewards == 0)


def test_post_judges_the_state_after(family):
    name, path = family
    data = read_dataset(path, name)
    before, _ = relabel(name, 1, data)
    after, masks = relabel(name, 1, data, success_timing="post")
    inside = np.flatnonzero(np.diff(data.transitions) == 1)
    assert np.array_equal(after[inside], before[inside + 1])
    assert not np.array_equal(after, before)
    assert np.array_equal(masks == 0, after == 0)


@pytest.mark.parametrize("timing", ["pre", "post"])
@pytest.mark.parametrize("name", ["pointmaze-medium-navigate", "scene-play"])
def test_rewards_are_those_of_the_environment(name, timing):
    """Step a task's environment from inside its goal region and compare with relabelling its states."""
    env = make_environment(name, 1, timing, terminate_at_goal=False)
    seeded_reset(env, 0)
    base = env.unwrapped
    if name.startswith("point"):
        base.set_xy(np.array(base.cur_goal_xy) - [1.5, 0.0])
        actions = [[0.9, 0.0]] * 15  # through the goal and out again
    else:
        actions = np.random.default_rng(0).uniform(-1, 1, (15, 5))
    rows = [env.step(np.array(action)) for action in actions]
    qpos = np.array([info["prev_qpos"] for *_, info in rows] + [rows[-1][4]["qpos"]], np.float32)
    buttons = None
    if name == "scene-play":
        buttons = np.array([info["prev_button_states"] for *_, info in rows] + [rows[-1][4]["button_states"]])
    empty = np.zeros((16, 1), np.float32)
    data = Dataset(empty, empty, np.arange(16) == 15, np.arange(15), qpos, qpos, buttons, None, None, 0.0, "")
    rewards, _ = relabel(name, 1, data, success_timing=timing)
    assert np.array_equal(rewards, np.array([row[1] for row in rows], np.float32))
    if name.startswith("point"):
        assert len(set(rewards)) == 2


def test_global_generator_is_left_alone(family):
    name, path = family
    data = read_dataset(path, name)
    np.random.seed(1)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    relabel(name, 2, data)
    assert np.random.random() == expected  # noqa: NPY002


def test_data_of_another_environment_are_refused(family):
    name, path = family
    other = "cube-single-play" if name != "cube-single-play" else "scene-play"
    with pytest.raises(FLPError, match="'qpos' of the data does not have the environment's 21 columns"):
        relabel(other, 1, read_dataset(path))

"""The optimum of scene's tasks, next to the simulator and to an optimum found the slow way."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from benchmarks.scene import DATASET, MOVES, STATES, each_move, moved, pace, scene, states_of, task_of
from flp.data.environments import make_environment


@pytest.mark.parametrize("number", range(1, 6))
def test_the_simulator_begins_and_ends_where_the_task_does(number):
    environment = make_environment(DATASET, number)
    seen, info = environment.reset(seed=0)
    known = environment.unwrapped.task_infos[number - 1]
    task, place = task_of(known), known["goal"]["block_xyzs"][0]
    assert states_of(seen[None], place).tolist() == [task.start]
    assert task.wrong[states_of(info["goal"][None], place)].tolist() == [0]
    assert environment.step(np.zeros(5))[1] == -task.wrong[task.start]


def test_locks_and_a_closed_drawer_stop_what_is_behind_them():
    state = (0, 0, 1, 0, 0)  # the cube elsewhere, the drawer locked and closed, the window free
    after = dict(zip(MOVES, moved(state), strict=True))
    assert after["drawer"] == after["into the drawer"] == state
    assert after["window"] == (0, 0, 1, 0, 1) and after["to its place"] == (2, 0, 1, 0, 0)
    assert moved((1, 1, 1, 0, 0))[MOVES.index("to its place")] == (1, 1, 1, 0, 0)


@pytest.mark.parametrize("drawer", [-0.16, 0.0])
def test_a_cube_in_the_drawer_is_right_once_the_drawer_is(drawer):
    """As by the simulator's reward: its place is in the closed drawer, and goes with it."""
    environment = make_environment(DATASET, 4)
    environment.reset(seed=0)
    bare = environment.unwrapped
    known = bare.task_infos[3]
    task, place = task_of(known), known["goal"]["block_xyzs"][0]
    bare._data.joint("drawer_slide").qpos[0] = drawer
    bare._data.joint("object_joint_0").qpos[:3] = place + np.array([0, -drawer, 0])
    environment.step(np.zeros(5))
    state = states_of(bare.compute_observation()[None], place)
    reward = environment.step(np.zeros(5))[1]
    assert STATES[state[0]] == (1, 0, 0, int(drawer < 0), 0)
    assert reward == -task.wrong[state[0]] == (-3 if drawer else -1)


@pytest.mark.parametrize(("discount", "steps", "solves"), [(0.99, 15, False), (0.99, 13, True), (0.997, 40, True)])
def test_the_hardest_task_is_worth_completing_at_a_long_horizon_alone(discount, steps, solves):
    start, goal = (0, 0, 0, 0, 0), (1, 0, 0, 0, 1)
    task = scene(start, goal)
    moves = task.optimum(discount, steps)
    assert (task.wrong[task.way(moves, discount)[-1]] == 0) == solves
    assert task.to_go()[task.start] == 8

    @cache
    def best(state, left):
        """Of all ways of so many moves, and of staying."""
        wrong = sum(a != b for a, b in zip(state, goal, strict=True)) + (state[0] == state[3] == 1)
        stay = -sum(wrong * discount**k for k in range(20_000))
        if not (left and wrong):
            return stay
        cost = -sum(wrong * discount**k for k in range(steps))
        return max(stay, *(cost + discount**steps * best(each, left - 1) for each in moved(state)))

    assert max(moves[task.start].max(), task.stay(discount)[task.start]) == pytest.approx(best(start, 10))


def test_each_kind_of_move_takes_its_own_steps():
    task = scene((0, 1, 1, 0, 0), (0, 1, 1, 1, 1))
    moves = task.optimum(0.9, [1, 1, 2, 5, 1, 1])
    first = moves[task.start]
    assert first[MOVES.index("drawer")] == pytest.approx(-2 * 1.9 + 0.81 * -(1 - 0.9**5) / 0.1)
    assert MOVES[first.argmax()] == "drawer"


def test_the_pace_is_between_parts_of_one_episode():
    observations = np.zeros((12, 40))
    observations[2:, 29] = observations[5:, 33] = observations[11:, 29] = 1  # buttons in rows 1, 4
    observations[8:, 36] = -18 * 0.16  # the drawer in row 7
    observations[10, 19:22] = observations[10, 12:15] = 1  # the cube is in the hand, and put down in row 10
    terminals = np.zeros(12)
    terminals[[6, 11]] = 1
    taken = pace({"observations": observations, "terminals": terminals})
    assert taken == {"button": [3], "drawer": [], "window": [], "cube": [3]}
    assert len(STATES) == 48
    assert each_move({"button": [3, 5], "drawer": [2], "window": [7], "cube": [9]}).tolist() == [4, 4, 2, 7, 9, 9]

"""The optimum of a puzzle of lights, against answers that are known or found the slow way."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from benchmarks.lights import lights, task_of
from benchmarks.presses import begun, play, state_of


def test_one_button_is_pressed_and_two_that_toggle_together_are_left_alone():
    one = lights(1, 1, [0], [1])
    assert one.wrong[one.way(one.optimum(0.9, 3), 0.9)].tolist() == [1, 0]
    assert one.optimum(0.9, 3)[0, 0] == pytest.approx(-(1 + 0.9 + 0.81))
    two = lights(1, 2, [1, 0], [0, 0])  # a press toggles both: one stays wrong for ever
    assert two.way(two.optimum(0.9, 3), 0.9) == [two.start]
    assert two.optimum(0.9, 3)[two.start].max() == pytest.approx(two.stay(0.9)[two.start]) == pytest.approx(-10)


@pytest.mark.parametrize(("discount", "solves"), [(0.99, False), (0.998, True)])
def test_one_wrong_light_is_worth_solving_at_a_long_horizon_alone(discount, solves):
    # Of all orders in which the presses that solve it may come, and of staying, the best.
    on, steps = [1] * 9, 27
    puzzle = lights(3, 3, on, [0, *on[1:]])
    (presses,) = [p for n in range(10) for p in combinations(range(9), n) if led(puzzle, p)[-1] == 0]
    orders = [cost([1, *led(puzzle, order)], discount, steps) for order in permutations(presses)]
    assert len(presses) == 5
    assert (max(orders) > puzzle.stay(discount)[puzzle.start]) == solves
    assert (puzzle.wrong[puzzle.way(puzzle.optimum(discount, steps), discount)[-1]] == 0) == solves
    if solves:
        assert puzzle.optimum(discount, steps)[puzzle.start].max() == pytest.approx(max(orders))


def led(puzzle, presses):
    """Buttons that are wrong after each press."""
    state, wrong = puzzle.start, []
    for button in presses:
        state = puzzle.after[state, button]
        wrong.append(int(puzzle.wrong[state]))
    return wrong or [int(puzzle.wrong[state])]


def cost(wrong, discount, steps):
    """The return of a way, step by step."""
    return -sum(discount ** (steps * k + step) * n for k, n in enumerate(wrong) for step in range(steps))


def test_presses_to_go_are_the_fewest_that_solve_it():
    assert lights(1, 1, [0], [1]).to_go().tolist() == [1, 0]
    assert lights(1, 2, [1, 0], [0, 0]).to_go().tolist() == [0, -1, -1, 1]
    puzzle = lights(2, 3, [0] * 6, [0] * 6)
    for state in range(64):
        ways = [n for n in range(7) for p in combinations(range(6), n) if reached(puzzle, state, p) == 0]
        assert puzzle.to_go()[state] == (ways[0] if ways else -1)


def reached(puzzle, state, presses):
    for button in presses:
        state = int(puzzle.after[state, button])
    return state


@pytest.mark.parametrize("task", [1, 5])
def test_the_simulator_begins_where_it_is_told_to_and_ends_where_nothing_is_to_go(task):
    policy, puzzle = Still("puzzle-3x3-play", task), task_of("puzzle-3x3-play", task)
    solved, near = (int(np.flatnonzero(puzzle.to_go() == left)[0]) for left in (0, 1))
    for state in (None, solved, near):
        assert state_of(begun(policy, 0, state, 9)[0]) == (puzzle.start if state is None else state)
    assert play(policy, puzzle, [None, solved, near], 2) == ([[], [], []], [False, True, False])


class Still:
    """A policy that does not move."""

    def __init__(self, dataset, task):
        self.dataset, self.task = dataset, task

    def __call__(self, observations):
        return np.zeros((len(observations), 5), np.float32)

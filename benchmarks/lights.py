"""The optimal policy of a puzzle: does solving it pay, at a given discount and number of steps per press?

    python -m benchmarks.lights puzzle-3x3-play --discounts 0.99 0.995 0.998 --steps 20 27

Pressing a button toggles it and its neighbours, and a step costs as many points as buttons are wrong. So the puzzle is
a small decision process that value iteration solves: at each state, press some button or never press again.

In the root of an experiment with its data, trained policies' critics are compared with that optimum at states of
held-out data, by the number of wrong buttons and by the number of presses that would solve it:

    python -m benchmarks.lights --steps 27 --policies results/puzzle-3x3-play/offline/flp/seed0/task*
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.optimum import Parts, compared
from flp import load_policy
from flp.data.environments import make_environment


def as_state(buttons: ArrayLike) -> NDArray[np.int64]:
    """Buttons' states, `[..., buttons]`, as a state: a bit for each."""
    each = np.asarray(buttons, np.int64)
    return each @ (1 << np.arange(each.shape[-1]))


def lights(rows: int, columns: int, start: list[int], goal: list[int]) -> Parts:
    """The task from the buttons' states at first and at the end, row by row."""
    count = rows * columns
    states = np.arange(2**count)
    row, column = np.divmod(np.arange(count), columns)
    near = (abs(row[:, None] - row) + abs(column[:, None] - column) <= 1).astype(np.int64)
    wrong: NDArray[np.int64] = ((states ^ as_state(goal))[:, None] >> np.arange(count) & 1).sum(1)
    after: NDArray[np.int64] = np.bitwise_xor(states[:, None], as_state(near))
    return Parts(int(as_state(start)), wrong, after)


def task_of(dataset: str, task: int) -> Parts:
    """One of OGBench's tasks."""
    rows, columns = map(int, dataset.split("-")[1].split("x"))
    environment = make_environment(dataset, task).unwrapped
    environment.reset(seed=0)
    known = environment.task_infos[task - 1]
    return lights(rows, columns, list(known["init_button_states"]), list(known["goal_button_states"]))


def beside_the_optimum(folder: Path, steps: int, stride: int = 50) -> list[str]:
    """A policy's critic at every so many held-out states, and the optimum, by wrong buttons and by presses to go."""
    policy = load_policy(folder)
    data = np.load(f"data/{policy.dataset}-val.npz", allow_pickle=False)
    observations, buttons = data["observations"][::stride], data["button_states"][::stride]
    puzzle = task_of(policy.dataset, policy.task)
    return [f"{folder.name} | {steps} steps a press", *compared(policy, puzzle, observations, as_state(buttons), steps)]


def main() -> None:
    """A row for every task, discount and number of steps; or for every policy, the critic compared with the optimum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("dataset", nargs="?", choices=["puzzle-3x3-play", "puzzle-4x4-play"])
    asked.add_argument("--policies", type=Path, nargs="+", help="whose critics to compare with the optimum")
    parser.add_argument("--discounts", type=float, nargs="+", default=[0.99, 0.995, 0.998], help="policies have theirs")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 27], help="that a press takes")
    arguments = parser.parse_args()
    for folder in arguments.policies or ():
        for steps in arguments.steps:
            print("\n".join(beside_the_optimum(folder, steps)), flush=True)
    for task in range(1, 6) if arguments.dataset else ():
        puzzle = task_of(arguments.dataset, task)
        for discount in arguments.discounts:
            for steps in arguments.steps:
                line = puzzle.along_the_way(discount, steps)
                print(f"task {task} | discount {discount} | {steps} steps | {line}", flush=True)


if __name__ == "__main__":
    main()

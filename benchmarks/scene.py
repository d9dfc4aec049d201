"""The optimal policy of scene's tasks: does completing one pay, at a given discount and number of steps per part?

    python -m benchmarks.scene --discounts 0.99 0.995 0.997 --steps 20 30 40

A step costs as many points as parts are wrong: the cube, two buttons, the drawer, the window. A button locks the drawer
or the window, so that some tasks lead through states with more parts wrong than at first.

In the root of an experiment with its data: how many steps each kind of part takes there, and, given trained policies,
how far their episodes come and their critics beside the optimum:

    python -m benchmarks.scene --data --policies results/scene-play/offline/flp/seed0/task*
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.grasp import lifted
from benchmarks.optimum import Parts, compared
from flp import Policy, load_policy
from flp.data.environments import make_environment

DATASET = "scene-play"
ELSEWHERE, IN_DRAWER, IN_PLACE = range(3)  # of the cube; in place: at its goal, where that is on the table
MOVES = ("button 1", "button 2", "drawer", "window", "into the drawer", "to its place")
State = tuple[int, ...]  # the cube, whether each button is pressed, whether the drawer is open, the window to the right
STATES: list[State] = list(product(range(3), (0, 1), (0, 1), (0, 1), (0, 1)))
CENTER, NEAR = np.array([0.425, 0.0, 0.0]), 0.04


def moved(state: State) -> list[State]:
    """What each of the moves leads to: a locked drawer or window stays, and so does a cube in a closed drawer."""
    cube, first, second, drawer, window = state
    reachable = drawer or cube != IN_DRAWER
    return [
        (cube, 1 - first, second, drawer, window),
        (cube, first, 1 - second, drawer, window),
        (cube, first, second, 1 - drawer, window) if first else state,
        (cube, first, second, drawer, 1 - window) if second else state,
        (IN_DRAWER, first, second, drawer, window) if drawer else state,
        (IN_PLACE, first, second, drawer, window) if reachable else state,
    ]


def wrong_parts(state: State, goal: State) -> int:
    """How many of the five parts are not as in the goal; a cube in the drawer is, once the drawer is."""
    carried = state[0] == goal[0] == IN_DRAWER and state[3] != goal[3]
    return sum(a != b for a, b in zip(state, goal, strict=True)) + carried


def scene(start: State, goal: State) -> Parts:
    """A task between two states."""
    number = {state: k for k, state in enumerate(STATES)}
    wrong = [wrong_parts(state, goal) for state in STATES]
    after = [[number[state] for state in moved(each)] for each in STATES]
    return Parts(number[start], np.array(wrong), np.array(after))


def task_of(info: Mapping[str, Any]) -> Parts:
    """One of OGBench's tasks."""
    goal, place = info["goal"], info["goal"]["block_xyzs"][0]
    goal_cube = IN_DRAWER if place[1] < -0.2 else IN_PLACE
    there = np.linalg.norm(info["init"]["block_xyzs"][0] - place) <= NEAR
    start, end = (
        (
            int(s["button_states"][0]),
            int(s["button_states"][1]),
            int(s["drawer_pos"] < -0.08),
            int(s["window_pos"] > 0.1),
        )
        for s in (info["init"], goal)
    )
    return scene((goal_cube if there else ELSEWHERE, *start), (goal_cube, *end))


def states_of(observations: NDArray[Any], place: NDArray[Any]) -> NDArray[np.int64]:
    """The state in each row, by what is observed; a cube whose goal is `place` (x, y, z in metres)."""
    cube = observations[:, 19:22] / 10 + CENTER
    where = np.where(np.linalg.norm(cube - place, axis=1) <= NEAR, IN_PLACE, ELSEWHERE)
    where[cube[:, 1] < -0.2] = IN_DRAWER
    pressed = observations[:, [29, 33]] > 0.5
    opened, right = observations[:, 36] / 18 < -0.08, observations[:, 38] / 15 > 0.1
    return np.ravel_multi_index(
        (where, *pressed.T.astype(int), opened.astype(int), right.astype(int)), (3, 2, 2, 2, 2)
    ).astype(np.int64)


def pace(data: Mapping[str, NDArray[Any]]) -> dict[str, list[int]]:
    """Steps from each completed part to the next one in the same episode of the data, by the kind of the next."""
    observations, episode = data["observations"], np.cumsum(data["terminals"]) - data["terminals"]
    completed = {
        "button": (np.diff(observations[:, [29, 33]], axis=0) != 0).any(1),
        "drawer": np.diff(observations[:, 36] / 18 < -0.08),
        "window": np.diff(observations[:, 38] / 15 > 0.1),
        "cube": np.diff(lifted(DATASET, observations).astype(int)) < 0,
    }
    every = sorted((int(row), kind) for kind, rows in completed.items() for row in np.flatnonzero(rows))
    taken: dict[str, list[int]] = {kind: [] for kind in completed}
    for (before, _), (row, kind) in pairwise(every):
        if episode[before] == episode[row]:
            taken[kind].append(row - before)
    return taken


def each_move(taken: Mapping[str, list[int]]) -> NDArray[np.float64]:
    """The median number of steps of every move."""
    button, drawer, window, cube = (np.median(taken[kind]) for kind in ("button", "drawer", "window", "cube"))
    return np.array([button, button, drawer, window, cube, cube])


def play(policy: Policy, task: Parts, place: NDArray[Any], episodes: int, steps: int) -> list[str]:
    """How near to its end the policy brings the task, and where it leaves it."""
    environments = [make_environment(DATASET, policy.task) for _ in range(episodes)]
    seen = np.stack([each.reset(seed=k)[0] for k, each in enumerate(environments)]).astype(np.float32)
    solved, to_go, left = np.zeros(episodes, bool), task.to_go(), np.zeros(episodes, int)
    nearest = to_go[states_of(seen, place)]
    for _ in range(steps):
        actions = policy(seen)
        for k in map(int, np.flatnonzero(~solved)):
            seen[k], reward, _, _, info = environments[k].step(actions[k])
            solved[k], left[k] = bool(info["success"]), -reward
        nearest = np.where(solved, 0, np.minimum(nearest, np.maximum(1, to_go[states_of(seen, place)])))
    return [
        f"  {name}: " + ", ".join(f"{n} in {count}" for n, count in sorted(Counter(map(int, numbers)).items()))
        for name, numbers in (("fewest moves to go", nearest), ("parts wrong at the end", left))
    ]


def main() -> None:
    """A row for every task, discount and number of steps; the data's pace; lines for every policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--discounts", type=float, nargs="+", default=[0.99, 0.995, 0.997])
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 30, 40], help="that a part takes")
    parser.add_argument("--data", action="store_true", help="also at the pace of the data of this experiment")
    parser.add_argument("--policies", type=Path, nargs="*", default=[], help="to play, and to compare at 30 steps")
    parser.add_argument("--episodes", type=int, default=20)
    arguments = parser.parse_args()
    infos = make_environment(DATASET, 1).unwrapped.task_infos
    paces: dict[str, Any] = {f"{steps} steps": steps for steps in arguments.steps}
    if arguments.data:
        taken = pace(np.load(f"data/{DATASET}.npz", allow_pickle=False))
        paces["the data's pace"] = each_move(taken)
        print("steps a part: " + ", ".join(f"{kind} {np.median(steps):.0f}" for kind, steps in taken.items()))
    for number, info in enumerate(infos if not arguments.policies else [], start=1):
        for discount, (name, steps) in product(arguments.discounts, paces.items()):
            print(f"task {number} | discount {discount} | {name} | {task_of(info).along_the_way(discount, steps)}")
    for folder in arguments.policies:
        policy, held_out = load_policy(folder), np.load(f"data/{DATASET}-val.npz", allow_pickle=False)
        task, place = task_of(infos[policy.task - 1]), infos[policy.task - 1]["goal"]["block_xyzs"][0]
        rows = held_out["observations"][::50]
        print(folder.name, *compared(policy, task, rows, states_of(rows, place), 30), sep="\n")
        print(*play(policy, task, place, arguments.episodes, 750), sep="\n", flush=True)


if __name__ == "__main__":
    main()

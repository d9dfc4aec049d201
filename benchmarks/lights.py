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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flp import load_policy
from flp.agents.flp import FLP
from flp.data.environments import make_environment


@dataclass(frozen=True)
class Lights:
    """A task.

    Attributes:
        start: its first state, a bit for each button.
        wrong: how many buttons are wrong in every state, `[states]`.
        after: the states that the presses lead to, `[states, buttons]`.
    """

    start: int
    wrong: NDArray[np.int64]
    after: NDArray[np.int64]

    def optimum(self, discount: float, steps: int) -> NDArray[np.float64]:
        """Values of presses, `[states, buttons]`, where each takes so many steps: R + γ^steps max(V, stay)."""
        stay, while_pressed = self.stay(discount), -self.wrong * (1 - discount**steps) / (1 - discount)
        values = stay
        while True:
            presses = while_pressed[:, None] + discount**steps * values[self.after]
            better = np.maximum(stay, presses.max(1))
            if np.allclose(better, values, rtol=0, atol=1e-9):
                return presses
            values = better

    def stay(self, discount: float) -> NDArray[np.float64]:
        """Values of never pressing again, `[states]`; the task ends where no button is wrong."""
        return -self.wrong / (1 - discount)

    def way(self, presses: NDArray[np.float64], discount: float) -> list[int]:
        """The states along the way of an optimum, `presses`, until it stays."""
        stay, way = self.stay(discount), [self.start]
        while self.wrong[way[-1]] and presses[way[-1]].max() > stay[way[-1]] + 1e-9:
            way.append(int(self.after[way[-1], presses[way[-1]].argmax()]))
        return way

    def to_go(self) -> NDArray[np.int64]:
        """The number of presses that solve it from each state, `[states]`; -1 if none do."""
        left = np.where(self.wrong == 0, 0, -1)
        for presses in range(self.after.shape[1]):
            # Pressing a button again undoes it: what a solved state leads to leads to it.
            near = self.after[left == presses].ravel()
            left[near[left[near] < 0]] = presses + 1
        return left


def as_state(buttons: ArrayLike) -> NDArray[np.int64]:
    """Buttons' states, `[..., buttons]`, as a state: a bit for each."""
    each = np.asarray(buttons, np.int64)
    return each @ (1 << np.arange(each.shape[-1]))


def lights(rows: int, columns: int, start: list[int], goal: list[int]) -> Lights:
    """The task from the buttons' states at first and at the end, row by row."""
    count = rows * columns
    states = np.arange(2**count)
    row, column = np.divmod(np.arange(count), columns)
    near = (abs(row[:, None] - row) + abs(column[:, None] - column) <= 1).astype(np.int64)
    wrong: NDArray[np.int64] = ((states ^ as_state(goal))[:, None] >> np.arange(count) & 1).sum(1)
    after: NDArray[np.int64] = np.bitwise_xor(states[:, None], as_state(near))
    return Lights(int(as_state(start)), wrong, after)


def task_of(dataset: str, task: int) -> Lights:
    """One of OGBench's tasks."""
    rows, columns = map(int, dataset.split("-")[1].split("x"))
    environment = make_environment(dataset, task).unwrapped
    environment.reset(seed=0)
    known = environment.task_infos[task - 1]
    return lights(rows, columns, list(known["init_button_states"]), list(known["goal_button_states"]))


def beside_the_optimum(folder: Path, steps: int, stride: int = 50) -> list[str]:
    """A policy's critic at every so many held-out states, and the optimum, by wrong buttons and by presses to go."""
    policy = load_policy(folder)
    agent, discount = policy._learner, float(policy.manifest["model"]["offline"]["discount"])
    if not isinstance(agent, FLP):
        raise SystemExit(f"error: {folder}: it reads policies of FLP")
    data = np.load(f"data/{policy.dataset}-val.npz", allow_pickle=False)
    observations, buttons = data["observations"][::stride], data["button_states"][::stride]
    puzzle = task_of(policy.dataset, policy.task)
    states = as_state(buttons)
    values = np.maximum(puzzle.stay(discount), puzzle.optimum(discount, steps).max(1))
    with torch.inference_mode():
        seen = torch.from_numpy(observations.astype(np.float32))[None]
        said = agent.critic(seen, agent.policy(seen)[0]).mean(1)[0].numpy()
    wrong, best = puzzle.wrong[states], values[states]
    correlation = np.corrcoef(said, best)[0, 1]
    head = f"{folder.name} | discount {discount} | {steps} steps | correlation {correlation:.2f}"
    return [head] + [
        f"  {n} {what}, {here.sum()} states: critic {said[here].mean():.0f}, optimum {best[here].mean():.0f}"
        for what, numbers in (("wrong", wrong), ("presses to go", puzzle.to_go()[states]))
        for n, here in ((n, numbers == n) for n in np.unique(numbers))
    ]


def along_the_way(puzzle: Lights, discount: float, steps: int) -> str:
    """The number of wrong buttons along the optimal way, with the values of continuing and of staying."""
    presses, stay = puzzle.optimum(discount, steps), puzzle.stay(discount)
    way = puzzle.way(presses, discount)
    stops = [f"{puzzle.wrong[s]} wrong ({presses[s].max():.0f}, stay {stay[s]:.0f})" for s in way if puzzle.wrong[s]]
    return ", ".join(stops) + (" | stays" if puzzle.wrong[way[-1]] else " | solves it")


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
                line = along_the_way(puzzle, discount, steps)
                print(f"task {task} | discount {discount} | {steps} steps | {line}", flush=True)


if __name__ == "__main__":
    main()

"""Which buttons a policy presses: does it find the last press, the ones before, and does it press at all?

    python -m benchmarks.presses results/puzzle-3x3-play/offline/flp/seed0/task2_seed0

For the presses in episodes of the task: how many lead closer to the goal, by the number of presses that remained. From
states a few presses from the goal: how many episodes reach it, and how many first presses lead closer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lights import as_state, task_of
from benchmarks.optimum import Parts
from flp import Policy, load_policy
from flp.data.environments import make_environment


def state_of(environment: Any) -> int:
    """The state of its buttons."""
    return int(as_state(environment.unwrapped._cur_button_states))


def begun(policy: Policy, seed: int, state: int | None, count: int) -> tuple[Any, NDArray[np.float32]]:
    """An environment at the start of an episode, and what is seen; its buttons as the task has them or as given."""
    environment = make_environment(policy.dataset, policy.task)
    if state is not None:
        known = environment.unwrapped.task_infos[policy.task - 1]
        known["init_button_states"] = state >> np.arange(count) & 1
    return environment, environment.reset(seed=seed)[0].astype(np.float32)


def play(
    policy: Policy, puzzle: Parts, starts: list[int | None], steps: int
) -> tuple[list[list[tuple[int, int]]], list[bool]]:
    """Of every episode: the states before and after its presses, and whether it succeeded."""
    games = [begun(policy, seed, state, puzzle.after.shape[1]) for seed, state in enumerate(starts)]
    seen = np.stack([observation for _, observation in games])
    presses: list[list[tuple[int, int]]] = [[] for _ in games]
    solved = [False] * len(games)
    for _ in range(steps):
        actions = policy(seen)
        for k, (environment, _) in enumerate(games):
            if not solved[k]:
                before = state_of(environment)
                seen[k], _, _, _, info = environment.step(actions[k])
                solved[k] = bool(info["success"])
                after = state_of(environment)
                presses[k] += [(before, after)] if after != before else []
    return presses, solved


def main() -> None:
    """Lines for every policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", type=Path, nargs="+")
    parser.add_argument("--episodes", type=int, default=10, help="at each start")
    parser.add_argument("--to-go", type=int, nargs="*", default=[1, 2, 3, 4], help="presses to start away from the end")
    parser.add_argument("--steps", type=int, default=150, help="of an episode that starts there")
    arguments = parser.parse_args()
    for folder in arguments.policies:
        policy, random = load_policy(folder), np.random.default_rng(0)
        puzzle = task_of(policy.dataset, policy.task)
        to_go = puzzle.to_go()
        presses, solved = play(policy, puzzle, [None] * arguments.episodes, 500)
        every = [press for game in presses for press in game]
        print(f"{folder.name} | from its start: {100 * np.mean(solved):.0f} % solved, {len(every)} presses", flush=True)
        for left in sorted({int(to_go[before]) for before, _ in every}):
            nearer = [to_go[after] < left for before, after in every if to_go[before] == left]
            print(f"  {left} to go: {100 * np.mean(nearer):.0f} % of {len(nearer)} presses lead nearer")
        for left in arguments.to_go:
            states = random.permutation(np.flatnonzero(to_go == left))[: arguments.episodes]
            presses, solved = play(policy, puzzle, [int(state) for state in states], arguments.steps)
            first = [to_go[game[0][1]] < left for game in presses if game]
            share, none = 100 * np.mean(solved), len(solved) - len(first)
            text = f"{share:.0f} % solved in {arguments.steps} steps, the first press nearer in {sum(first)}"
            print(f"  starting {left} presses away: {text} of {len(solved)}, none in {none}", flush=True)


if __name__ == "__main__":
    main()

"""The value of greedy actions: from states of held-out data, best-of-N for some steps, then the policy's mean.

In the root of an experiment with `cube-single-play` and its trained policies:

    python -m benchmarks.worth results/cube-single-play/offline/flp/seed0-1/task2_seed0

Each state is set in the simulator, so that returns are measured and not the critic's estimates.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flp import load_policy
from flp.agents.flp import FLP
from flp.data.environments import make_environment, seeded_reset
from flp.randomness.streams import RunStreams
from flp.system.progress import Progress

HORIZON = 200
FAR = 1.0  # of the block from its goal, in an observation's units of 10 cm


def phases(observations: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """The phase of a grasp in each row, by the observed effector, gripper and block."""
    effector, gripper, block = observations[:, 12:15], observations[:, 17], observations[:, 19:22]
    aside, above = np.linalg.norm((effector - block)[:, :2], axis=1), effector[:, 2] - block[:, 2]
    lies = block[:, 2] < 0.3
    return {
        "far above, open": (above > 1.5) & (gripper < 0.3) & lies,
        "coming down": (above > 0.5) & (above < 1.2) & (aside < 0.5) & (gripper < 0.5) & lies,
        "around the block": (above < 0.3) & (aside < 0.2) & (gripper < 0.5) & lies,
        "holding it": (gripper > 1.5) & (gripper < 1.75) & (block[:, 2] > 0.6),
    }


class Trial:
    """Copies of the task's environment, each set to a state of the data."""

    def __init__(self, dataset: str, task: int, count: int) -> None:
        self.environments = [make_environment(dataset, task) for _ in range(count)]

    def begin(self, positions: NDArray[Any], velocities: NDArray[Any]) -> NDArray[np.float32]:
        """Set the states; observations `[count, o]`."""
        for k, environment in enumerate(self.environments):
            seeded_reset(environment, k)
            environment.unwrapped.set_state(positions[k], velocities[k])
        return np.stack([e.unwrapped.compute_observation() for e in self.environments]).astype(np.float32)

    def play(
        self, agent: FLP, observations: NDArray[np.float32], steps: int, discount: float
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Act greedily for the first steps; success and return of each episode (-1 a step, forever after a failure)."""
        streams = RunStreams([0])
        done, lengths = np.zeros(len(observations), bool), np.full(len(observations), np.inf)
        for step in range(HORIZON):
            moved = agent.explore if step < steps else agent.act  # the best of N, and the mean
            with torch.inference_mode():
                actions = moved(torch.from_numpy(observations)[None], streams)[0].clamp(-1, 1)[0].numpy()
            for k in np.flatnonzero(~done):
                observations[k], _, done[k], _, _ = self.environments[k].step(actions[k])
                lengths[k] = step + 1 if done[k] else np.inf
            if done.all():
                break
        return done, -(1 - discount**lengths) / (1 - discount)


def main() -> None:
    """One row per phase: what the critic says there, and what comes of greed for 0, 1, 2, ... steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--states", type=int, default=40, help="per phase")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 1, 2, 5, 10, 20, 40])
    arguments = parser.parse_args()
    policy = load_policy(arguments.policy)
    agent, discount = policy._learner, float(policy.manifest["model"]["offline"]["discount"])
    if not isinstance(agent, FLP) or policy.dataset != "cube-single-play":
        parser.error("it knows the phases of cube-single-play alone, and policies of FLP")
    agent.resamples, agent.candidates, agent.acting_noise = False, (arguments.candidates,), 0.0
    data = np.load(f"data/{policy.dataset}-val.npz", allow_pickle=False)
    trial, random = Trial(policy.dataset, policy.task, arguments.states), np.random.default_rng(0)
    goal = trial.environments[0].unwrapped.task_infos[policy.task - 1]["goal_xyzs"][0]
    block = data["observations"][:, 19:21]
    far = np.linalg.norm(block - 10 * (goal[:2] - np.array([0.425, 0.0])), axis=1) > FAR
    progress = Progress("worth", 4, unit="phases")
    for done, (phase, here) in enumerate(phases(data["observations"]).items()):
        rows = random.choice(np.flatnonzero(here & far), arguments.states, replace=False)
        start, cells = trial.begin(data["qpos"][rows], data["qvel"][rows]), []
        with torch.inference_mode():
            s = torch.from_numpy(start)[None]
            said = float(agent.critic(s, agent.policy(s)[0]).mean())
        for steps in arguments.steps:
            observations = trial.begin(data["qpos"][rows], data["qvel"][rows])
            succeeded, returns = trial.play(agent, observations, steps, discount)
            cells.append(f"{steps}: {100 * succeeded.mean():.0f} %, {returns.mean():.1f}")
        progress.update(done + 1)
        print(f"{phase} | critic {said:.1f} | " + " | ".join(cells), flush=True)
    progress.close()


if __name__ == "__main__":
    main()

"""OGBench's scripted controllers; each call records one episode.

The controllers and the order of their random draws follow OGBench, `data_gen_scripts/generate_locomaze.py`
and `generate_manipspace.py`; environments and oracles are OGBench's own.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flp.arm.ogbench_version import is_known_version
from flp.data.environments import OGBenchSpec

# Random numbers come from NumPy's global generator, like those of OGBench's oracles and mazes; the caller seeds it.
# ruff: noqa: NPY002

Cell = tuple[int, int]
Record = Callable[[int, Any, Any, dict[str, Any]], None]
"""Called as `record(step, observation, action, info)`, with the `info` that `env.step` returned."""


class Controller(Protocol):
    """Records an episode of `steps` steps in an environment made for data collection."""

    def __call__(self, env: Any, steps: int, noise: float, seed: int, record: Record) -> bool:
        """Return False if the episode must be discarded and repeated with another seed."""
        ...


def controller(spec: OGBenchSpec, policy: str) -> Controller:
    """The controller for a dataset: its scripted one, or uniformly random actions (`policy='random'`)."""
    if policy == "random":
        return random_actions
    if spec.family == "maze":
        return MazeWalker(spec.dataset_type)
    return Manipulator(spec)


def random_actions(env: Any, steps: int, noise: float, seed: int, record: Record) -> bool:
    """Act uniformly at random from a random task's (or scene's) start; `noise` has no effect."""
    observation, _ = env.reset(seed=seed)
    for step in range(steps):
        action = env.action_space.sample()
        following, _, _, _, info = env.step(action)
        record(step, observation, action, info)
        observation = following
    return True


class MazeWalker:
    """Moves a point through a maze along shortest paths, with Gaussian action noise.

    Args:
        kind: `navigate` (a new goal whenever one is reached) or `stitch` (one goal, four cells away).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._subgoals: dict[tuple[Cell, Cell], NDArray[np.float64]] = {}

    def __call__(self, env: Any, steps: int, noise: float, seed: int, record: Record) -> bool:
        """Record an episode; always succeeds."""
        cells, corners = free_cells(env.maze_map)
        start = cells[np.random.randint(len(cells))]
        goals = corners if self.kind == "navigate" else cells_at_distance(env.maze_map, start, 4)
        goal = goals[np.random.randint(len(goals))] if goals else start
        observation, _ = env.reset(seed=seed, options={"task_info": {"init_ij": start, "goal_ij": goal}})
        for step in range(steps):
            position = env.get_xy()
            direction = self._subgoal(env, position) - position
            direction = direction / (np.linalg.norm(direction) + 1e-6)
            action = np.clip(direction + np.random.normal(0, noise, direction.shape), -1, 1)
            following, _, _, _, info = env.step(action)
            if info["success"] and self.kind == "navigate":
                goal = goals[np.random.randint(len(goals))]
                env.set_goal(goal_xy=env.add_noise(env.ij_to_xy(goal)))
            record(step, observation, action, info)
            observation = following
        return True

    def _subgoal(self, env: Any, position: NDArray[np.float64]) -> NDArray[np.float64]:
        """The centre of the next cell on the way to the goal; searched once per pair of cells."""
        pair = env.xy_to_ij(position), env.xy_to_ij(env.cur_goal_xy)
        if pair not in self._subgoals:
            self._subgoals[pair], _ = env.get_oracle_subgoal(position, env.cur_goal_xy)
        return self._subgoals[pair]


def free_cells(maze: NDArray[np.integer[Any]]) -> tuple[list[Cell], list[Cell]]:
    """All free cells of a maze (0 free, 1 wall), and those that are not inside a straight hallway."""
    cells = [(int(i), int(j)) for i, j in np.argwhere(maze == 0)]

    def in_hallway(i: int, j: int) -> bool:
        column = maze[i - 1, j], maze[i + 1, j]
        row = maze[i, j - 1], maze[i, j + 1]
        return (column == (0, 0) and row == (1, 1)) or (row == (0, 0) and column == (1, 1))

    return cells, [cell for cell in cells if not in_hallway(*cell)]


def cells_at_distance(maze: NDArray[np.integer[Any]], start: Cell, distance: int) -> list[Cell]:
    """Free cells whose shortest path from `start` has exactly `distance` moves, in breadth-first order."""
    seen, frontier = {start}, [start]
    for _ in range(distance):
        reached = []
        for i, j in frontier:
            for cell in ((i - 1, j), (i, j - 1), (i + 1, j), (i, j + 1)):
                if maze[cell] == 0 and cell not in seen:
                    seen.add(cell)
                    reached.append(cell)
        frontier = reached
    return frontier


_STACKING = {
    "cube-double": (0.0, 0.25),
    "cube-triple": (0.05, 0.35),
    "cube-quadruple": (0.1, 0.5),
}
"""Range from which an episode draws its probability of stacking a cube on another."""


class Manipulator:
    """Moves objects to random targets, one after the other.

    `play` follows noisy plans; `noisy` is a feedback controller with Gaussian noise and random actions.
    """

    def __init__(self, spec: OGBenchSpec) -> None:
        self.spec = spec

    def __call__(self, env: Any, steps: int, noise: float, seed: int, record: Record) -> bool:
        """Record an episode; False if a cube of the scene left the reachable space."""
        feedback = self.spec.dataset_type == "noisy"
        oracles = make_oracles(self.spec, env, noise)
        observation, info = env.reset(seed=seed)
        stacking = self._stacking_probability()
        scale = np.array([1, 1, 1, 3, 10]) * np.random.uniform(0, noise) if feedback else None
        oracle = oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)
        healthy = True
        for step in range(steps):
            if np.random.rand() < self.spec.p_random_action:
                action = env.action_space.sample()
            else:
                action = np.array(oracle.select_action(observation, info))
                if scale is not None:
                    action = action + np.random.normal(0, scale, action.shape)
            action = np.clip(action, -1, 1)
            following, _, _, _, info = env.step(action)
            if oracle.done:
                # As in OGBench, the next action still sees the old target in `info`.
                new_observation, new_info = env.set_new_target(p_stack=stacking)
                oracle = oracles[new_info["privileged/target_task"]]
                oracle.reset(new_observation, new_info)
            record(step, observation, action, info)
            healthy = healthy and self._is_healthy(info["prev_qpos"])
            observation = following
        return healthy

    def _stacking_probability(self) -> float:
        if self.spec.environment in _STACKING:
            return float(np.random.uniform(*_STACKING[self.spec.environment]))
        return 0.0 if self.spec.environment == "cube-single" else 0.5

    def _is_healthy(self, qpos: NDArray[np.float64]) -> bool:
        """Whether the scene's cube is in view or in the drawer; elsewhere, goals would be ambiguous."""
        if self.spec.environment != "scene":
            return True
        _, y, z = qpos[14:17]
        return bool(y < 0.29 and (y > -0.3 or 0.06 <= z <= 0.08))


def make_oracles(spec: OGBenchSpec, env: Any, noise: float) -> dict[str, Any]:
    """New oracles for an episode, by the kind of object that they move."""
    objects = {"cube": ["cube"], "scene": ["cube", "button", "drawer", "window"], "puzzle": ["button"]}
    noisy = spec.dataset_type == "noisy"
    settings: dict[str, Any] = {"min_norm": 0.4} if noisy else {"noise": noise, "noise_smoothing": 0.5}
    if spec.environment.startswith("puzzle"):
        settings["gripper_always_closed"] = True
    kind = "markov" if noisy else "plan"
    return {name: _oracle(name, kind)(env=env, **settings) for name in objects[spec.environment.split("-")[0]]}


def _oracle(task: str, kind: str) -> Any:
    """The class of one of OGBench's oracles, such as `CubePlanOracle`."""
    module = import_module(f"ogbench.manipspace.oracles.{kind}.{task}_{kind}")
    oracle = getattr(module, f"{task.title()}{kind.title()}Oracle")
    if kind == "plan" and is_known_version():
        from flp.arm.plans import FastPlan

        return type(oracle.__name__, (FastPlan, oracle), {})
    return oracle

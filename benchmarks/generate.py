"""Speed of data generation: steps per second of one core against OGBench's loop, and over processes.

Run as `python -m benchmarks.generate [steps]`. The baseline is the loop of OGBench,
`data_gen_scripts/generate_locomaze.py` and `generate_manipspace.py`, written plainly on the same machine
and library versions.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import as_ogbench_has_it
from flp.data.controllers import free_cells, make_oracles
from flp.data.environments import specification
from flp.data.episodes import Collector, Recipe
from flp.data.generate import generate
from flp.randomness.seeds import seed_of

DATASETS = (
    "pointmaze-medium-navigate",
    "pointmaze-giant-navigate",
    "cube-single-play",
    "cube-double-play",
    "scene-play",
    "puzzle-4x4-play",
)
SCALED = "cube-double-play"  # shared out to processes
# ruff: noqa: NPY002  (the baseline draws as OGBench does)


def baseline_episode(env: Any, dataset: str, number: int, data: dict[str, list[Any]]) -> None:
    """OGBench's loop, seeded as ours is, so that both simulate the same contacts."""
    spec = specification(dataset)
    seed = seed_of("episode", dataset, 0, number, 0) % 2**32
    np.random.seed(seed)
    if spec.family == "maze":
        maze = env.unwrapped
        cells, corners = free_cells(maze.maze_map)
        task = {
            "init_ij": cells[np.random.randint(len(cells))],
            "goal_ij": corners[np.random.randint(len(corners))],
        }
        observation, info = env.reset(seed=seed, options={"task_info": task})
    else:
        with as_ogbench_has_it():
            oracles = make_oracles(spec, env, spec.noise)
        observation, info = env.reset(seed=seed)
        stacking = 0.0 if dataset.startswith("cube-single") else 0.5
        if dataset.startswith("cube-double"):
            stacking = np.random.uniform(0.0, 0.25)
        oracle = oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)
    done = False
    while not done:
        if spec.family == "maze":
            subgoal, _ = maze.get_oracle_subgoal(maze.get_xy(), maze.cur_goal_xy)
            direction = subgoal - maze.get_xy()
            action = direction / (np.linalg.norm(direction) + 1e-6) + np.random.normal(0, spec.noise, 2)
        else:
            np.random.rand()
            action = np.array(oracle.select_action(observation, info))
        action = np.clip(action, -1, 1)
        following, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        if spec.family == "maze":
            if info["success"]:
                maze.set_goal(corners[np.random.randint(len(corners))])
        elif oracle.done:
            new_observation, new_info = env.unwrapped.set_new_target(p_stack=stacking)
            oracle = oracles[new_info["privileged/target_task"]]
            oracle.reset(new_observation, new_info)
        data["observations"].append(observation)
        data["actions"].append(action)
        data["terminals"].append(done)
        data["qpos"].append(info["prev_qpos"])
        data["qvel"].append(info["prev_qvel"])
        observation = following


def baseline(dataset: str, steps: int) -> Callable[[int], None]:
    """The baseline's episodes by number."""
    import gymnasium
    import ogbench  # noqa: F401  (registers the environments)

    spec = specification(dataset)
    options = {"mode": "data_collection"} if spec.family == "manipulation" else {}
    env = gymnasium.make(f"{spec.environment}-v0", terminate_at_goal=False, max_episode_steps=steps, **options)

    def episode(number: int) -> None:
        data: dict[str, list[Any]] = defaultdict(list)
        baseline_episode(env, dataset, number, data)
        for values in data.values():
            np.array(values, np.float32)

    return episode


def ours(dataset: str, steps: int) -> Callable[[int], object]:
    """The project's episodes by number."""
    return Collector(Recipe(dataset, steps, 0, specification(dataset).noise, "scripted")).episode


def speeds(dataset: str, steps: int, rounds: int) -> list[float]:
    """Steps per second of processor time in the same episode, ours and the baseline's.

    They take turns, and the best of the rounds counts, for other programs come and go.
    """
    makers = [ours(dataset, steps), baseline(dataset, steps)]
    best = [np.inf, np.inf]
    for _ in range(rounds):
        for which, maker in enumerate(makers):
            start = time.process_time()
            maker(0)
            best[which] = min(best[which], time.process_time() - start)
    return [steps / seconds for seconds in best]


def call_seconds(dataset: str, steps: int, episodes: int, workers: int) -> float:
    """Seconds of a whole call: starting processes, making both files, writing them."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        generate(
            dataset,
            Path(folder) / "a.npz",
            Path(folder) / "a-val.npz",
            seed=0,
            workers=workers,
            episodes=episodes,
            steps_per_episode=steps,
            progress=False,
        )
        return time.perf_counter() - start


def steady_speed(dataset: str, steps: int, episodes: int, workers: int) -> float:
    """Steps per second without the start, which a call of the least size takes too: a real one lasts much longer."""
    rows = (episodes + max(1, episodes // 10)) * (steps - 2)
    return rows / (call_seconds(dataset, steps, episodes, workers) - call_seconds(dataset, 2, episodes, workers))


def run(steps: int = 1001) -> list[dict[str, Any]]:
    """Rows `{name, device, threads, value, unit, baseline, ratio}`; values are steps per second."""
    device = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    rows = []

    def add(name: str, threads: int, value: float, baseline: float) -> None:
        row = {"name": name, "device": device, "threads": threads, "value": round(value), "unit": "steps/s"}
        rows.append(row | {"baseline": round(baseline), "ratio": round(value / baseline, 2)})
        print(f"{name:45} {threads:2} {value:9.0f} {baseline:9.0f} {value / baseline:6.2f}", flush=True)

    print(f"{'steps per second':45} {'n':>2} {'flp':>9} {'baseline':>9} {'ratio':>6}")
    for dataset in DATASETS:
        value, reference = speeds(dataset, steps // 5, 20)
        add(f"{dataset}, one core, OGBench's loop", 1, value, reference)
    single = 0.0
    for workers in (1, 2, 4):
        if workers <= (os.cpu_count() or 1):
            value = steady_speed(SCALED, steps, 40, workers)
            single = single or value
            add(f"{SCALED}, whole call, as many times one process", workers, value, workers * single)
    return rows


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*(precision lowered|DISPLAY).*")
    run(*map(int, sys.argv[1:]))

"""Can the frozen flow complete a grasp? From some steps before a lift in held-out data, it acts alone.

In the root of an experiment with its data and flows, on datasets with blocks (any `cube-…-play`, and `scene-play`):

    python -m benchmarks.grasp results/scene-play/flow/model/seed0 [another flow ...]

A test at the data's states (`flp flows`) cannot see errors that accumulate along the way; here the simulator continues
from those states with the flow's actions. In the data, every one of them ends in a lift.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp import load_flow
from flp.data.environments import make_environment, seeded_reset

LOW = 0.7  # of the hand, in an observation's units of 10 cm
SHUT = 1.9  # of the gripper: more than with the block between its fingers


def blocks(dataset: str, observations: NDArray[Any]) -> NDArray[Any]:
    """Positions of the blocks `[..., blocks, 3]`, in units of 10 cm: from 19 on, nine numbers each; scene has one."""
    count = 1 if dataset.startswith("scene") else (observations.shape[-1] - 19) // 9
    return np.stack([observations[..., 19 + 9 * i : 22 + 9 * i] for i in range(count)], -2)


def aside(observations: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    """Horizontal distance of the hand and each block, in units of 10 cm."""
    distance: NDArray[Any] = np.linalg.norm(observations[..., None, 12:14] - places[..., :2], axis=-1)
    return distance


def lifted(dataset: str, observations: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether a block is up and at the hand."""
    places = blocks(dataset, observations)
    there: NDArray[np.bool_] = np.any((places[..., 2] > 0.5) & (aside(observations, places) < 0.4), axis=-1)
    return there


def rows_before(dataset: str, data: Any, steps: int, count: int) -> NDArray[np.intp]:
    """Rows `steps` before a lift, in the same episode and with nothing lifted until then."""
    up, episode = lifted(dataset, data["observations"]), np.cumsum(data["terminals"]) - data["terminals"]
    lifts = np.flatnonzero(~up[:-1] & up[1:])
    lifts = lifts[lifts >= steps]
    on_table = np.array([not up[row - steps : row].any() for row in lifts])
    fit = lifts[on_table & (episode[lifts] == episode[lifts - steps])] - steps
    return np.random.default_rng(0).choice(fit, count, replace=False)


def begin(environments: Sequence[Any], data: Any, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Set each simulator to a row of the data; observations `[count, o]`."""
    fields = [name for name in ("qpos", "qvel", "button_states") if name in data]
    for k, (environment, row) in enumerate(zip(environments, rows, strict=True)):
        seeded_reset(environment, k)
        environment.unwrapped.set_state(*(data[name][row] for name in fields))
    return np.stack([each.unwrapped.compute_observation() for each in environments]).astype(np.float32)


def play(flow: Any, environments: Sequence[Any], observations: NDArray[np.float32], steps: int) -> str:
    """How many lift a block, how many close the gripper on nothing, and how close to a block lowered hands came."""
    random, count = np.random.default_rng(0), len(observations)
    up, nothing, nearest = np.zeros(count, bool), np.zeros(count, bool), np.full(count, np.inf)
    for _ in range(steps):
        latents = random.standard_normal((count, flow.action_dim), np.float32)
        actions = flow.action(observations, latents)
        for k in map(int, np.flatnonzero(~up)):
            observations[k] = environments[k].step(actions[k])[0]
        low = (observations[:, 14] < LOW) & ~up
        nothing |= low & (observations[:, 17] > SHUT)
        near = aside(observations, blocks(flow.dataset, observations)).min(-1)
        nearest = np.where(low, np.minimum(nearest, near), nearest)
        up |= lifted(flow.dataset, observations)
    median = 10 * np.median(nearest[np.isfinite(nearest)]) if np.isfinite(nearest).any() else np.nan
    return f"lifts {100 * up.mean():3.0f} %, shut on nothing {100 * nothing.mean():3.0f} %, {median:4.1f} cm aside"


def main() -> None:
    """One row per flow and distance to the lift."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flows", type=Path, nargs="+")
    parser.add_argument("--states", type=int, default=40, help="per row")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 15, 22, 30, 40], help="before the lift")
    arguments = parser.parse_args()
    for path in arguments.flows:
        flow = load_flow(path)
        if not flow.dataset.startswith(("cube-", "scene")):
            parser.error(f"{path}: it knows the blocks of cube and scene alone, not {flow.dataset}")
        data = dict(np.load(f"data/{flow.dataset}-val.npz", allow_pickle=False))
        environments = [make_environment(flow.dataset, 1) for _ in range(arguments.states)]
        for steps in arguments.steps:
            observations = begin(environments, data, rows_before(flow.dataset, data, steps, arguments.states))
            print(f"{path}, {steps} steps before: {play(flow, environments, observations, 2 * steps + 20)}", flush=True)


if __name__ == "__main__":
    main()

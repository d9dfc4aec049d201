"""What does the frozen flow do by itself? Its lifts of a block, or presses of a button, per 1,000 steps.

In the root of an experiment with its data and flows, on OGBench's `cube-…-play`, `scene-play` and `puzzle-…-play`:

    python -m benchmarks.alone results/puzzle-3x3-play/flow/model/seed0 [another flow ...]

It starts from states of held-out data, each in a simulator of its own, and acts for the length of an episode. No policy
in the flow's latents can learn what the flow never does; the rate in the data is printed for comparison.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.grasp import begin, lifted
from flp import load_flow
from flp.data.environments import make_environment

FIRST_BUTTON, PER_BUTTON = 19, 4  # in an observation: whether it shows its first or its second colour, place, speed


def pressed(observations: NDArray[Any]) -> NDArray[np.bool_]:
    """Which buttons show their second colour, `[..., buttons]`."""
    buttons = (observations.shape[-1] - FIRST_BUTTON) // PER_BUTTON
    return observations[..., FIRST_BUTTON + 1 : FIRST_BUTTON + PER_BUTTON * buttons : PER_BUTTON] > 0.5


def events(dataset: str, before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether a step lifted a block or pressed a button."""
    if dataset.startswith("puzzle"):
        changed: NDArray[np.bool_] = (pressed(before) != pressed(after)).any(-1)
        return changed
    return ~lifted(dataset, before) & lifted(dataset, after)


def played(flow: Any, data: Any, count: int, steps: int) -> float:
    """Events in 1,000 steps of the flow."""
    random = np.random.default_rng(0)
    environments = [make_environment(flow.dataset, 1) for _ in range(count)]
    observations = begin(environments, data, random.choice(len(data["terminals"]) - 1, count, replace=False))
    seen = 0
    for _ in range(steps):
        actions = flow.action(observations, random.standard_normal((count, flow.action_dim), np.float32))
        after = np.stack([env.step(action)[0] for env, action in zip(environments, actions, strict=True)])
        seen += events(flow.dataset, observations, after).sum()
        observations = after.astype(np.float32)
    return 1000 * seen / (count * steps)


def main() -> None:
    """One line for the data and one for each flow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flows", type=Path, nargs="+")
    parser.add_argument("--states", type=int, default=20, help="simulators, each from a state of its own")
    parser.add_argument("--steps", type=int, default=500, help="in each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the simulators' steps are in between
    for path in arguments.flows:
        flow = load_flow(path)
        if not flow.dataset.startswith(("cube-", "scene", "puzzle-")):
            parser.error(f"{path}: it knows blocks and buttons alone, not {flow.dataset}")
        data = dict(np.load(f"data/{flow.dataset}-val.npz", allow_pickle=False))
        rows, goes_on = data["observations"], data["terminals"][:-1] == 0
        of_data = 1000 * events(flow.dataset, rows[:-1], rows[1:])[goes_on].mean()
        what = "presses" if flow.dataset.startswith("puzzle") else "lifts"
        mine = played(flow, data, arguments.states, arguments.steps)
        print(f"{path}: {mine:.1f} {what} in 1,000 steps; the data {of_data:.1f}", flush=True)


if __name__ == "__main__":
    main()

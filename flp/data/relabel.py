"""Rewards of a task: computed by OGBench itself, or recorded in a user's data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.environments import EnvironmentSpec, OGBenchSpec, make_environment, numpy_seeded, spec_of, specification
from flp.data.load import Dataset
from flp.system.errors import FLPError


def relabel(
    dataset: EnvironmentSpec | str, task: int, data: Dataset, *, success_timing: str = "pre"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rewards and masks of the transitions for a task.

    Computed by OGBench, `ogbench/relabel_utils.py`.

    Args:
        dataset: a spec, or one of OGBench's names.
        task: 1 to `num_tasks`.
        data: the loaded dataset.
        success_timing: `pre` judges the state before the action (OGBench >= 1.2), `post` the state after it, as the
            environments of OGBench 1.1 do. Its datasets, on which FQL was trained, were labelled `pre` even then.

    Returns:
        `(rewards, masks)`, float32 `[n]`: 0 for success and -1 for each part of the task that is not
        achieved; masks are 0 where the whole task is achieved (the episode would end) and 1 elsewhere.

    Raises:
        FLPError: unknown dataset, task or timing; the data are another environment's.
    """
    spec = spec_of(dataset)
    if not spec.of_ogbench and data.rewards is not None and data.masks is not None:
        return data.rewards[data.transitions], data.masks[data.transitions]
    if not isinstance(spec, OGBenchSpec) or data.qpos is None:
        raise FLPError(f"{spec.dataset}: the data are another dataset's, correct the name or make them again")
    env = make_environment(spec, task, success_timing)
    rows = data.transitions if success_timing == "pre" else data.transitions + 1
    states: dict[str, NDArray[Any]] = {"qpos": data.qpos[rows]}
    if data.button_states is not None:
        states["button_states"] = data.button_states[rows]
    with numpy_seeded(0):  # relabelling resets the environment, which must not disturb the global generator
        from ogbench.relabel_utils import relabel_dataset

        try:
            env.reset()
            _check_states(spec.dataset, env.unwrapped, states, spec.has_buttons)
            relabel_dataset(f"{spec.environment}-v0", env, states)
        finally:
            env.close()
    return states["rewards"], states["masks"]


def state_columns(dataset: str) -> dict[str, int]:
    """How many columns `qpos` and, if there are buttons, `button_states` have, from the simulator of a dataset."""
    spec = specification(dataset)
    env = make_environment(spec, 1)
    try:
        with numpy_seeded(0):
            env.reset()
        return _columns(env.unwrapped, spec.has_buttons)
    finally:
        env.close()


def _columns(env: Any, has_buttons: bool) -> dict[str, int]:
    buttons = {"button_states": len(env._cur_button_states)} if has_buttons else {}
    return {"qpos": int(env.model.nq)} | buttons


def _check_states(dataset: str, env: Any, states: dict[str, NDArray[Any]], has_buttons: bool) -> None:
    """Refuse states of another environment, which OGBench would slice silently."""
    for key, expected in _columns(env, has_buttons).items():
        if key not in states or states[key].shape[1] != expected:
            raise FLPError(
                f"{dataset}: '{key}' of the data does not have the environment's {expected} columns; it is "
                "another dataset's file, correct the name or fetch it again"
            )

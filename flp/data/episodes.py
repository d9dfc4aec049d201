"""Episodes of data; each is a function of its recipe and number alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.controllers import controller
from flp.data.environments import make_environment, numpy_seeded, seeded_reset, specification
from flp.randomness.seeds import seed_of

Arrays = dict[str, NDArray[Any]]

_CHANGING = ("dof_damping", "geom_pos", "site_pos")
"""Fields of the compiled model that OGBench modifies during an episode, besides colours."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines an episode's content, besides its number and the library versions.

    Attributes:
        dataset: name of the dataset.
        steps: rows per episode.
        seed: seed of the whole dataset.
        noise: scale of the controller's action noise.
        policy: `scripted` or `random`.
    """

    dataset: str
    steps: int
    seed: int
    noise: float
    policy: str


class Collector:
    """Records the episodes of a recipe; their content depends neither on the order nor on the process."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.spec = specification(recipe.dataset)
        options: dict[str, Any] = {"mode": "data_collection"} if self.spec.family == "manipulation" else {}
        env = make_environment(recipe.dataset, terminate_at_goal=False, **options)
        seeded_reset(env, 0)  # compiles the model
        # The wrappers only count steps, and so do the controllers.
        self.env: Any = env.unwrapped
        self._model = {name: getattr(self.env.model, name).copy() for name in _CHANGING}
        self._memory = {
            name: copy.deepcopy(value)
            for name, value in vars(self.env).items()
            if name.startswith(("_target_", "_cur_"))
        }
        self._controller = controller(self.spec, recipe.policy)

    def episode(self, number: int) -> Arrays:
        """Record an episode.

        Returns:
            `{key: [steps, ...]}` with the keys and types of OGBench's files: observations, actions, qpos and
            qvel float32; terminals bool, true in the last row; button_states int64 where there are buttons.
        """
        for attempt in count():
            seed = seed_of("episode", self.recipe.dataset, self.recipe.seed, number, attempt)
            arrays = self._attempt(seed)
            if arrays is not None:
                return arrays
        raise AssertionError("unreachable")

    def episodes(self, first: int, last: int) -> Iterator[Arrays]:
        """Record the episodes `first`, …, `last - 1`."""
        return (self.episode(number) for number in range(first, last))

    def _attempt(self, seed: int) -> Arrays | None:
        self._reset_memory()
        arrays = empty_rows(self.recipe, self.recipe.steps, self.env.model.nq, self.env.model.nv, self._buttons())
        arrays["terminals"][-1] = True

        def record(step: int, observation: Any, action: Any, info: dict[str, Any]) -> None:
            arrays["observations"][step] = observation
            arrays["actions"][step] = action
            arrays["qpos"][step] = info["prev_qpos"]
            arrays["qvel"][step] = info["prev_qvel"]
            if "button_states" in arrays:
                arrays["button_states"][step] = info["prev_button_states"]

        with numpy_seeded(seed):
            self.env.action_space.seed(seed % 2**32)
            healthy = self._controller(self.env, self.recipe.steps, self.recipe.noise, seed % 2**32, record)
        return arrays if healthy else None

    def _reset_memory(self) -> None:
        """Reset what survives OGBench's resets, so that no episode depends on earlier ones.

        In the model: locks (damping) and markers. In the environment: the last targets, which feedback oracles see for
        one step after a change of task.
        """
        for name, value in self._model.items():
            getattr(self.env.model, name)[:] = value
        vars(self.env).update(copy.deepcopy(self._memory))

    def _buttons(self) -> int:
        return len(self.env._cur_button_states) if self.spec.has_buttons else 0


def empty_rows(recipe: Recipe, rows: int, nq: int, nv: int, buttons: int) -> Arrays:
    """Arrays for `rows` rows, in the order of OGBench's files; only `terminals` is initialised."""
    spec = specification(recipe.dataset)
    arrays: Arrays = {
        "observations": np.empty((rows, spec.observation_dim), np.float32),
        "actions": np.empty((rows, spec.action_dim), np.float32),
        "terminals": np.zeros(rows, np.bool_),
        "qpos": np.empty((rows, nq), np.float32),
        "qvel": np.empty((rows, nv), np.float32),
    }
    if buttons:
        arrays["button_states"] = np.empty((rows, buttons), np.int64)
    return arrays

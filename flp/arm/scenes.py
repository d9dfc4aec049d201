"""OGBench's manipulation environments, stepped in two thirds of the time with bit-identical results.

OGBench's step computes the whole info dictionary three times, looks up joints and colours by name, and rotates the
effector with NumPy arrays of four numbers, which takes about as long as the physics. These classes override the most
expensive parts and leave the rest (tasks, resets, targets, the effect of a pressed button) to OGBench. They perform the
same operations in the same order, so no bit differs. They apply only to the sources in `flp.arm.ogbench_version`.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from ogbench.manipspace.envs.cube_env import CubeEnv
from ogbench.manipspace.envs.puzzle_env import PuzzleEnv
from ogbench.manipspace.envs.scene_env import SceneEnv

from flp.arm.objects import Blocks, Buttons
from flp.arm.robot import Info


class Cube(Blocks, CubeEnv):  # type: ignore[misc]
    """`CubeEnv`."""

    add_object_info = Blocks._report_blocks

    def _observed(self, qpos: list[float], qvel: list[float]) -> list[float]:
        return super()._observed(qpos, qvel) + self._observed_blocks(qpos)

    _compute_successes = Blocks._blocks_at_goals

    def post_step(self) -> None:
        """Determine whether the task is solved."""
        at_goal = self._blocks_at_goals()
        self._success = at_goal[self._target_block] if self._mode == "data_collection" else all(at_goal)
        self._color_blocks(at_goal)


class Puzzle(Buttons, PuzzleEnv):  # type: ignore[misc]
    """`PuzzleEnv`."""

    add_object_info = Buttons._report_buttons

    def _observed(self, qpos: list[float], qvel: list[float]) -> list[float]:
        return super()._observed(qpos, qvel) + self._observed_buttons(qpos, qvel)

    def post_step(self) -> None:
        """Determine whether the task is solved."""
        if self._pressed():
            self._restore_button_info()
            super().post_step()
            return
        self._apply_button_states()
        solved = self._compute_successes()
        self._success = solved[self._target_button] if self._mode == "data_collection" else all(solved)

    def _compute_successes(self) -> list[bool]:
        solved: list[bool] = (self._cur_button_states == self._target_button_states).tolist()
        return solved

    def _apply_button_states(self) -> None:
        self._color_buttons("red", "blue")
        mujoco.mj_forward(self._model, self._data)


class Scene(Blocks, Buttons, SceneEnv):  # type: ignore[misc]
    """`SceneEnv`."""

    def post_compilation_objects(self) -> None:
        """Look up the drawer and the window."""
        super().post_compilation_objects()
        model, names = self._model, ("drawer", "window")
        joints = [model.joint(f"{name}_slide") for name in names]
        self._slide_at = [(int(joint.qposadr[0]), int(joint.dofadr[0])) for joint in joints]
        colors = [model.material(f"{name}_handle").rgba for name in names]
        self._locks = [(joint.damping, color) for joint, color in zip(joints, colors, strict=True)]

    def _apply_button_states(self) -> None:
        self._color_buttons("red", "white")
        for state, (damping, color) in zip(self._cur_button_states.tolist(), self._locks, strict=True):
            damping[0] = 1e6 if state == 0 else 2.0
            color[:] = self._colors["red" if state == 0 else "white"]
        mujoco.mj_forward(self._model, self._data)

    def add_object_info(self, info: Info) -> None:
        """Add cubes, buttons, drawer and window."""
        self._report_blocks(info)
        self._report_buttons(info)
        places = (self._drawer_site_id, self._window_site_id)
        for name, place, (q, v) in zip(("drawer", "window"), places, self._slide_at, strict=True):
            info[f"privileged/{name}_pos"] = self._all_qpos[q : q + 1].copy()
            info[f"privileged/{name}_vel"] = self._all_qvel[v : v + 1].copy()
            info[f"privileged/{name}_handle_pos"] = self._data.site_xpos[place].copy()
            info[f"privileged/{name}_handle_yaw"] = np.array([self._yaw_at(place)])
        if self._mode == "data_collection":
            for name, place, goal in (
                ("drawer", self._drawer_target_site_id, self._target_drawer_pos),
                ("window", self._window_target_site_id, self._target_window_pos),
            ):
                info[f"privileged/target_{name}_pos"] = np.array([goal])
                info[f"privileged/target_{name}_handle_pos"] = self._data.site_xpos[place].copy()

    def _observed(self, qpos: list[float], qvel: list[float]) -> list[float]:
        (drawer, pulled), (window, pushed) = self._slide_at
        slides = [qpos[drawer] * 18.0, qvel[pulled], qpos[window] * 15.0, qvel[pushed]]
        return super()._observed(qpos, qvel) + self._observed_blocks(qpos) + self._observed_buttons(qpos, qvel) + slides

    def post_step(self) -> None:
        """Determine whether the task is solved; OGBench itself handles pressed buttons and cubes that fly off."""
        if self._pressed() or (self._mode == "task" and not self._blocks_in_workspace()):
            self._restore_button_info()
            super().post_step()
            return
        self._apply_button_states()
        blocks, buttons, drawer, window = self._compute_successes()
        if self._mode == "data_collection":
            of = {"drawer": drawer, "window": window}
            of |= {"cube": blocks[self._target_block], "button": buttons[self._target_button]}
            self._success = of[self._target_task]
        else:
            self._success = all(blocks) and all(buttons) and drawer and window
        self._color_blocks(blocks)

    def _blocks_in_workspace(self) -> bool:
        return all(
            low - 0.2 < x < high + 0.2
            for position, _ in self._blocks
            for x, (low, high) in zip(position.tolist(), self._bounds, strict=True)
        )

    def _compute_successes(self) -> Any:
        buttons = (self._cur_button_states == self._target_button_states).tolist()
        drawer, window = (float(self._all_qpos[q]) for q, _ in self._slide_at)
        return (
            self._blocks_at_goals(),
            buttons,
            abs(drawer - self._target_drawer_pos) <= 0.04,
            abs(window - self._target_window_pos) <= 0.04,
        )


FAST = {"CubeEnv": Cube, "SceneEnv": Scene, "PuzzleEnv": Puzzle}

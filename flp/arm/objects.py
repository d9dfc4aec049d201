"""Objects that several environments share: cubes and buttons."""

from __future__ import annotations

import numpy as np

from flp.arm.quaternions import centred, norm, yaw_of
from flp.arm.robot import Arm, Info


class Blocks(Arm):
    """An arm among cubes."""

    def post_compilation_objects(self) -> None:
        """Look up the cubes' state, colours and goals."""
        super().post_compilation_objects()
        joints = [self._model.joint(f"object_joint_{i}") for i in range(self._num_cubes)]
        self._block_at = [int(joint.qposadr[0]) for joint in joints]
        self._blocks = [(self._data.qpos[at : at + 3], self._data.qpos[at + 3 : at + 7]) for at in self._block_at]
        rgba = self._model.geom_rgba
        self._block_colors = [
            ([rgba[i] for i in block], [rgba[i] for i in goal])
            for block, goal in zip(self._cube_geom_ids_list, self._cube_target_geom_ids_list, strict=True)
        ]
        self._goals = [self._data.mocap_pos[i] for i in self._cube_target_mocap_ids]

    def _blocks_at_goals(self) -> list[bool]:
        return [norm(position - goal) <= 0.04 for (position, _), goal in zip(self._blocks, self._goals, strict=True)]

    def _color_blocks(self, at_goal: list[bool]) -> None:
        for i, (block, goal) in enumerate(self._block_colors):
            visible = self._visualize_info and (self._mode == "task" or i == self._target_block)
            for color in goal:
                color[3] = 0.2 if visible else 0.0
            done = self._visualize_info and at_goal[i]
            for color in block:
                color[:3] = (self._cube_success_colors if done else self._cube_colors)[i, :3]

    def _observed_blocks(self, qpos: list[float]) -> list[float]:
        observed: list[float] = []
        for at in self._block_at:
            quaternion = qpos[at + 3 : at + 7]
            yaw = yaw_of(quaternion)
            observed += (*centred(qpos[at : at + 3]), *quaternion, np.cos(yaw), np.sin(yaw))
        return observed

    def _report_blocks(self, info: Info) -> None:
        for i, (position, quaternion) in enumerate(self._blocks):
            info[f"privileged/block_{i}_pos"] = position.copy()
            info[f"privileged/block_{i}_quat"] = quaternion.copy()
            info[f"privileged/block_{i}_yaw"] = np.array([yaw_of(quaternion.tolist())])
        if self._mode == "data_collection":
            info["privileged/target_task"] = self._target_task
            info["privileged/target_block"] = self._target_block
            goal = self._cube_target_mocap_ids[self._target_block]
            info["privileged/target_block_pos"] = self._data.mocap_pos[goal].copy()
            info["privileged/target_block_yaw"] = np.array([yaw_of(self._data.mocap_quat[goal].tolist())])


class Buttons(Arm):
    """An arm among buttons."""

    def post_compilation_objects(self) -> None:
        """Look up the buttons' state and colours."""
        super().post_compilation_objects()
        joints = [self._model.joint(f"buttonbox_joint_{i}") for i in range(self._num_buttons)]
        self._button_at = [(int(joint.qposadr[0]), int(joint.dofadr[0])) for joint in joints]
        self._button_qpos = np.array([at for at, _ in self._button_at])
        self._button_colors = [[self._model.geom_rgba[i] for i in ids] for ids in self._button_geom_ids_list]

    def _color_buttons(self, unpressed: str, pressed: str) -> None:
        for state, geoms in zip(self._cur_button_states.tolist(), self._button_colors, strict=True):
            for color in geoms:
                color[:] = self._colors[unpressed if state == 0 else pressed]

    def pre_step(self) -> None:
        """Store the previous button states, too."""
        super().pre_step()
        self._prev_button_states = self._cur_button_states.copy()

    def _pressed(self) -> bool:
        before, now = self._prev_qpos[self._button_qpos], self._all_qpos[self._button_qpos]
        return bool(((before > -0.02) & (now <= -0.02)).any())

    def _restore_button_info(self) -> None:
        """Provide the buttons' previous positions in the form that OGBench's `post_step` reads."""
        before = self._prev_qpos[self._button_qpos]
        self._prev_ob_info = {f"privileged/button_{i}_pos": before[i : i + 1] for i in range(self._num_buttons)}

    def _observed_buttons(self, qpos: list[float], qvel: list[float]) -> list[float]:
        observed: list[float] = []
        for state, (q, v) in zip(self._cur_button_states.tolist(), self._button_at, strict=True):
            observed += (float(state == 0), float(state == 1), qpos[q] * 120.0, qvel[v])
        return observed

    def _report_buttons(self, info: Info) -> None:
        for i, (q, v) in enumerate(self._button_at):
            info[f"privileged/button_{i}_state"] = self._cur_button_states[i]
            info[f"privileged/button_{i}_pos"] = self._all_qpos[q : q + 1].copy()
            info[f"privileged/button_{i}_vel"] = self._all_qvel[v : v + 1].copy()
        if self._mode == "data_collection":
            target = self._target_button
            info["privileged/target_task"] = self._target_task
            info["privileged/target_button"] = target
            info["privileged/target_button_state"] = self._target_button_states[target]
            info["privileged/target_button_top_pos"] = self._data.site_xpos[self._button_site_ids[target]].copy()
        info["prev_button_states"] = self._prev_button_states.copy()
        info["button_states"] = self._cur_button_states.copy()

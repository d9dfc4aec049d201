"""What lies around the arm in several environments: cubes and buttons."""

from __future__ import annotations

import numpy as np

from flp.arm.hand import Arm, Info
from flp.arm.quaternions import centred, norm, yaw_of


class Blocks(Arm):
    """An arm among cubes."""

    def post_compilation_objects(self) -> None:
        """Look up the cubes."""
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

    def _blocks_there(self) -> list[bool]:
        return [norm(position - goal) <= 0.04 for (position, _), goal in zip(self._blocks, self._goals, strict=True)]

    def _paint_blocks(self, there: list[bool]) -> None:
        for i, (block, goal) in enumerate(self._block_colors):
            shown = self._visualize_info and (self._mode == "task" or i == self._target_block)
            for color in goal:
                color[3] = 0.2 if shown else 0.0
            done = self._visualize_info and there[i]
            for color in block:
                color[:3] = (self._cube_success_colors if done else self._cube_colors)[i, :3]

    def _seen_blocks(self, qpos: list[float]) -> list[float]:
        seen: list[float] = []
        for at in self._block_at:
            quaternion = qpos[at + 3 : at + 7]
            yaw = yaw_of(quaternion)
            seen += (*centred(qpos[at : at + 3]), *quaternion, np.cos(yaw), np.sin(yaw))
        return seen

    def _tell_blocks(self, info: Info) -> None:
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
        """Look up the buttons."""
        super().post_compilation_objects()
        joints = [self._model.joint(f"buttonbox_joint_{i}") for i in range(self._num_buttons)]
        self._button_at = [(int(joint.qposadr[0]), int(joint.dofadr[0])) for joint in joints]
        self._button_qpos = np.array([at for at, _ in self._button_at])
        self._button_colors = [[self._model.geom_rgba[i] for i in ids] for ids in self._button_geom_ids_list]

    def _paint_buttons(self, unpressed: str, pressed: str) -> None:
        for state, geoms in zip(self._cur_button_states.tolist(), self._button_colors, strict=True):
            for color in geoms:
                color[:] = self._colors[unpressed if state == 0 else pressed]

    def pre_step(self) -> None:
        """Remember the buttons too."""
        super().pre_step()
        self._prev_button_states = self._cur_button_states.copy()

    def _pressed(self) -> bool:
        before, now = self._prev_qpos[self._button_qpos], self._all_qpos[self._button_qpos]
        return bool(((before > -0.02) & (now <= -0.02)).any())

    def _recall_buttons(self) -> None:
        """Where they were before the step, as OGBench's `post_step` asks for it."""
        before = self._prev_qpos[self._button_qpos]
        self._prev_ob_info = {f"privileged/button_{i}_pos": before[i : i + 1] for i in range(self._num_buttons)}

    def _seen_buttons(self, qpos: list[float], qvel: list[float]) -> list[float]:
        seen: list[float] = []
        for state, (q, v) in zip(self._cur_button_states.tolist(), self._button_at, strict=True):
            seen += (float(state == 0), float(state == 1), qpos[q] * 120.0, qvel[v])
        return seen

    def _tell_buttons(self, info: Info) -> None:
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

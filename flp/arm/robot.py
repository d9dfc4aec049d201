"""The robot arm, common to all of OGBench's manipulation environments."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from ogbench.manipspace.envs.manipspace_env import ManipSpaceEnv

from flp.arm.inverse_kinematics import InverseKinematics
from flp.arm.quaternions import Quaternion, about_z, centred, clipped, norm, product, yaw_of

Info = dict[str, Any]


class Arm(ManipSpaceEnv):  # type: ignore[misc]
    """The arm: its control, its part of an observation and, if `reports_info`, its part of the info dictionary."""

    reports_info = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ik: Any = InverseKinematics(self._ik)

    def post_compilation(self) -> None:
        """Look up the arrays that a step needs: views of MuJoCo's memory, valid for the lifetime of the model."""
        super().post_compilation()
        # MuJoCo searches the floor and the walls by a tree; one by one is faster, and the contacts are the same, in the
        # same order (`contactcompare` in its engine_collision_driver.c).
        self._model.body_bvhadr[0], self._model.body_bvhnum[0] = -1, 0
        data = self._data
        self._all_qpos, self._all_qvel, self._ctrl = data.qpos, data.qvel, data.ctrl
        self._effector_position, self._site_rotations = data.site_xpos[self._pinch_site_id], data.site_xmat
        self._quaternion = np.zeros(4)
        self._pad_force = data.body("ur5e/robotiq/right_pad").cfrc_ext
        self._arm_joints = self._arm_joint_ids.tolist()
        self._bounds = list(zip(*self._workspace_bounds.tolist(), strict=True))
        self._down: Quaternion = tuple(self._effector_down_rotation.wxyz.tolist())
        self._up: Quaternion = tuple(self._effector_down_rotation.inverse().wxyz.tolist())
        *tilt, x, y, z = self._T_pa.wxyz_xyz.tolist()
        self._tilt, self._offset = tuple(tilt), (0.0, x, y, z)

    def _yaw_at(self, site: int) -> float:
        mujoco.mju_mat2Quat(self._quaternion, self._site_rotations[site])
        return yaw_of(self._quaternion.tolist())

    def _opening(self) -> float:
        return clipped(float(self._all_qpos[self._gripper_opening_joint_id]) / 0.8, 0.0, 1.0)

    def _contact(self) -> float:
        return clipped(norm(self._pad_force) / 50, 0.0, 1.0)

    def set_control(self, action: NDArray[Any]) -> None:
        """Move the target pose relative to the current pose."""
        *move, turn, grip = self.unnormalize_action(action).tolist()
        position = [
            clipped(x + dx, low, high)
            for x, dx, (low, high) in zip(self._effector_position.tolist(), move, self._bounds, strict=True)
        ]
        yaw = yaw_of(product(product(about_z(turn), about_z(self._yaw_at(self._pinch_site_id))), self._up))
        w, x, y, z = effector = product(about_z(clipped(yaw, -np.pi, np.pi)), self._down)
        _, *offset = product(product(effector, self._offset), (w, x * -1.0, y * -1.0, z * -1.0))
        self._ctrl[self._arm_actuator_ids] = self._ik.solve(
            np.array([a + b for a, b in zip(offset, position, strict=True)]),
            np.array(product(effector, self._tilt)),
            self._all_qpos[self._arm_joint_ids],
        )
        self._ctrl[self._gripper_actuator_ids] = 255.0 * clipped(self._opening() + grip, 0.0, 1.0)

    def pre_step(self) -> None:
        """Store the previous state; OGBench computes the whole info here but reads only the buttons' positions."""
        self._prev_qpos, self._prev_qvel = self._all_qpos.copy(), self._all_qvel.copy()

    def compute_ob_info(self) -> Info:
        """The whole info dictionary."""
        qpos, qvel, gripper = self._all_qpos, self._all_qvel, self._gripper_opening_joint_id
        info = {
            "proprio/joint_pos": qpos[self._arm_joint_ids],
            "proprio/joint_vel": qvel[self._arm_joint_ids],
            "proprio/effector_pos": self._effector_position.copy(),
            "proprio/effector_yaw": np.array([self._yaw_at(self._pinch_site_id)]),
            "proprio/gripper_opening": np.array([self._opening()]),
            "proprio/gripper_vel": qvel[gripper : gripper + 1].copy(),
            "proprio/gripper_contact": np.array([self._contact()]),
        }
        self.add_object_info(info)
        info["prev_qpos"], info["prev_qvel"] = self._prev_qpos.copy(), self._prev_qvel.copy()
        info["qpos"], info["qvel"], info["control"] = qpos.copy(), qvel.copy(), self._ctrl.copy()
        info["time"] = np.array([self._data.time])
        return info

    def get_step_info(self) -> Info:
        """A step's info; empty if nobody reads it."""
        return self.compute_ob_info() if self.reports_info else {}

    def _observed(self, qpos: list[float], qvel: list[float]) -> list[float]:
        yaw = self._yaw_at(self._pinch_site_id)
        return [
            *(qpos[i] for i in self._arm_joints),
            *(qvel[i] for i in self._arm_joints),
            *centred(self._effector_position.tolist()),
            np.cos(yaw),
            np.sin(yaw),
            self._opening() * 3.0,
            self._contact(),
        ]

    def compute_observation(self) -> Any:
        """The policy's observation."""
        if self._ob_type == "pixels":
            return self.get_pixel_observation()
        return np.array(self._observed(self._all_qpos.tolist(), self._all_qvel.tolist()))

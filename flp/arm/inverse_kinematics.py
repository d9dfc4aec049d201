"""OGBench's inverse kinematics."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from flp.arm.quaternions import Vector, norm

_lapack: Any = getattr(np.linalg, "_umath_linalg", None)
solve = getattr(_lapack, "solve1", np.linalg.solve)  # the routine behind np.linalg.solve, in a fifth of the time


class InverseKinematics:
    """OGBench's `DiffIKController` for its single site, on arrays looked up once."""

    def __init__(self, ik: Any) -> None:
        self.model, self.data, (self.site,) = ik._model, ik._data, ik._site_ids.tolist()
        self.most, self.damping = float(ik._max_angle_change), ik._damping
        self.qpos: Vector = self.data.qpos
        self.position, self.rotation = self.data.site_xpos[self.site], self.data.site_xmat[self.site]
        self.quaternion, self.inverse, self.difference = np.empty(4), np.empty(4), np.empty(4)
        self.error, self.jacobian = np.empty(6), np.empty((6, self.model.nv))
        self.distance, self.turn = self.error[:3], self.error[3:]
        self.moves, self.turns = self.jacobian[:3], self.jacobian[3:]

    def solve(self, pos: Vector, quat: Vector, curr_qpos: Vector) -> Vector:
        """Joint positions at which the site has a pose: at most 20 damped least-squares steps."""
        model, data, jacobian = self.model, self.data, self.jacobian
        self.qpos[:] = curr_qpos
        for _ in range(20):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            np.subtract(pos, self.position, out=self.distance)
            mujoco.mju_mat2Quat(self.quaternion, self.rotation)
            mujoco.mju_negQuat(self.inverse, self.quaternion)
            mujoco.mju_mulQuat(self.difference, quat, self.inverse)
            mujoco.mju_quat2Vel(self.turn, self.difference, 1.0)
            if norm(self.distance) <= 1e-4 and norm(self.turn) <= 1e-4:
                break
            mujoco.mj_jacSite(model, data, self.moves, self.turns, self.site)
            update = jacobian.T @ solve(jacobian @ jacobian.T + self.damping, self.error)
            largest = max(map(abs, update.tolist()))
            if largest > self.most:
                update *= self.most / largest
            mujoco.mj_integratePos(model, self.qpos, update, 1.0)
        return self.qpos.copy()

"""OGBench's planned controllers, with plans interpolated at all steps at once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ogbench.manipspace import lie
from ogbench.manipspace.oracles.plan.plan_oracle import PlanOracle
from scipy.interpolate import interp1d
from scipy.ndimage import gaussian_filter1d

from flp.arm.quaternions import Quaternion, product, yaw_of


class FastPlan(PlanOracle):  # type: ignore[misc]
    """`PlanOracle`; a mix-in that goes before one of its subclasses."""

    def compute_plan(self, times: list[float], poses: list[Any], grasps: list[float]) -> NDArray[np.float64]:
        """Position, yaw and grasp at every step of the plan, `[steps, 5]`, with temporally correlated noise."""
        at = self._step_times()
        plan = np.empty((len(at), 5))
        plan[:, :3] = interp1d(times, [p.translation() for p in poses], kind="linear", axis=0, assume_sorted=True)(at)
        plan[:, 3] = self._yaws(np.array(times), [p.rotation() for p in poses], at)
        plan[:, 4] = interp1d(times, grasps, kind="linear", axis=0, assume_sorted=True)(at)
        if self._noise > 0:
            noise = np.random.normal(0, 1, size=(len(plan), 5)) * np.array([0.05, 0.05, 0.05, 0.3, 1.0]) * self._noise  # noqa: NPY002
            plan += gaussian_filter1d(noise, axis=0, sigma=self._noise_smoothing)
        return plan

    def _step_times(self) -> NDArray[np.float64]:
        at, t = [], 0.0
        while t < self._t_max:
            at.append(t)
            t += self._env_dt
        return np.array(at)

    def _yaws(self, times: NDArray[np.float64], turns: list[Any], at: NDArray[np.float64]) -> list[float]:
        """`lie.interpolate` between rotations, with each segment's logarithm computed once."""
        begun: list[Quaternion] = [tuple(turn.wxyz.tolist()) for turn in turns]
        logs = [(a.inverse() @ b).log() for a, b in pairwise(turns)]
        segments = np.searchsorted(times, at, side="right") - 1
        passed = np.clip((at - times[segments]) / (times[segments + 1] - times[segments]), 0.0, 1.0)
        return [
            yaw_of(product(begun[s], lie.SO3.exp(alpha * logs[s]).wxyz.tolist()))
            for s, alpha in zip(segments.tolist(), passed, strict=True)
        ]

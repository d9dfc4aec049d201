"""Fixed-step solvers of dx/dt = v(x, t), forwards or backwards in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]


def graded(steps: int, grading: float = 1.0) -> list[float]:
    """Times 0 = t_0 < … < t_steps = 1 with t_i = 1 − (1 − i / steps)^grading.

    With a grading above 1 the steps shorten towards t = 1, where a flow with narrow modes curves most.
    """
    return [1 - (1 - i / steps) ** grading for i in range(steps + 1)]


def integrate(velocity: Velocity, x: Tensor, times: Sequence[float], solver: str) -> Tensor:
    """Solve dx/dt = velocity(x, t) with one step from each time to the next; return the state at the last time.

    Args:
        velocity: the right-hand side.
        x: the state at the first time.
        times: ascending, or descending to solve backwards.
        solver: "euler" (order 1), "midpoint" or "heun" (2), "rk4" (4).

    Raises:
        ValueError: unknown solver.
    """
    for t, after in pairwise(times):
        h = after - t
        k1 = velocity(x, t)
        if solver == "euler":
            x = x + h * k1
        elif solver == "midpoint":
            x = x + h * velocity(x + h / 2 * k1, t + h / 2)
        elif solver == "heun":
            x = x + h / 2 * (k1 + velocity(x + h * k1, after))
        elif solver == "rk4":
            k2 = velocity(x + h / 2 * k1, t + h / 2)
            k3 = velocity(x + h / 2 * k2, t + h / 2)
            k4 = velocity(x + h * k3, after)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        else:
            raise ValueError(f"unknown solver {solver!r}")
    return x

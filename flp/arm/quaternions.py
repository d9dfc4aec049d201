"""OGBench's rotation arithmetic (`ogbench.manipspace.lie`) on plain floats, operation by operation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Quaternion = tuple[float, float, float, float]
Vector = NDArray[np.float64]


def norm(x: Vector) -> float:
    """`np.linalg.norm` of a vector."""
    return math.sqrt(x.dot(x))


def clipped(x: float, low: float, high: float) -> float:
    """`np.clip` of a number, with the same treatment of -0.0 and NaN."""
    return min(max(x, low), high)


def yaw_of(quaternion: Quaternion | list[float]) -> float:
    """`SO3.compute_yaw_radians`; `math.atan2`, or products in place of powers, would round differently."""
    w, x, y, z = quaternion
    return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y**2 + z**2)))


def about_z(theta: float) -> Quaternion:
    """`SO3.from_z_radians`."""
    square = theta * theta
    if square < 1e-10:
        fourth = square * square
        real, imaginary = 1.0 - square / 8.0 + fourth / 384.0, 0.5 - square / 48.0 + fourth / 3840.0
    else:
        angle = math.sqrt(square)
        real, imaginary = float(np.cos(0.5 * angle)), float(np.sin(0.5 * angle)) / angle
    zero = imaginary * 0.0
    return real, zero, zero, imaginary * theta


def product(a: Quaternion, b: Quaternion) -> Quaternion:
    """`SO3.multiply`."""
    w0, x0, y0, z0 = a
    w1, x1, y1, z1 = b
    return (
        -x0 * x1 - y0 * y1 - z0 * z1 + w0 * w1,
        x0 * w1 + y0 * z1 - z0 * y1 + w0 * x1,
        -x0 * z1 + y0 * w1 + z0 * x1 + w0 * y1,
        x0 * y1 - y0 * x1 + z0 * w1 + w0 * z1,
    )


def centred(position: list[float]) -> tuple[float, float, float]:
    """A position in the scale of observations."""
    x, y, z = position
    return (x - 0.425) * 10.0, (y - 0.0) * 10.0, (z - 0.0) * 10.0

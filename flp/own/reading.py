"""Reading the arrays of a user's file: known by the names in use, converted without loss, or refused.

A file is only read: it may be the only copy there is.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flp.data.archive import Convert, Header, pieces
from flp.system.errors import FLPError

REMEDY = "correct your file (it is left as it is)"
NEXT, VALID = "next_observations", "valids"


class EndKey(NamedTuple):
    """A key that says where episodes end.

    Attributes:
        value: what marks the last row.
        end: how the episode then ended: terminated, truncated, or either of them.
    """

    value: bool
    end: Literal["terminated", "truncated", "either"]


END_KEYS = {
    "terminals": EndKey(True, "terminated"),
    "timeouts": EndKey(True, "truncated"),
    "terminations": EndKey(True, "terminated"),
    "truncations": EndKey(True, "truncated"),
    "terminated": EndKey(True, "terminated"),
    "truncated": EndKey(True, "truncated"),
    "dones": EndKey(True, "either"),
    "dones_float": EndKey(True, "either"),
    VALID: EndKey(False, "either"),
}
"""The keys of D4RL, gymnasium, OGBench and others that say where episodes end."""


class Columns(Protocol):
    """An open file of named arrays."""

    path: Path

    @property
    def keys(self) -> list[str]:
        """The arrays' names."""

    def bad(self, problem: str) -> FLPError:
        """The error for a problem of this file."""

    def header(self, key: str) -> Header:
        """Shape and type of an array."""

    def read(self, key: str, dtype: Any, convert: Convert | None = None) -> NDArray[Any]:
        """An array, with its elements converted."""


class Refuser(Protocol):
    """Names the problems of a file."""

    def bad(self, problem: str) -> FLPError:
        """The error for a problem of the file."""


def numeric_header(file: Columns, key: str, dtype: np.dtype[Any]) -> Header:
    """The header of an array of numbers or truth values.

    Raises:
        FLPError: it holds anything else.
    """
    header = file.header(key)
    if header.dtype.kind not in "biuf":
        raise file.bad(f"'{key}' holds {header.dtype}, which cannot become {dtype}")
    return header


def read_column(file: Columns, key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Read an array, converted without loss and reshaped.

    Raises:
        FLPError: a value does not survive the conversion.
    """
    return file.read(key, dtype, partial(converted, file, key, dtype)).reshape(shape)


def without_idle_axes(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """Drop axes of length 1, except the first, until no more than `axes` are left."""
    dropped = list(shape)
    while len(dropped) > axes and 1 in dropped[1:]:
        dropped.pop(dropped.index(1, 1))
    return tuple(dropped)


def converted(file: Refuser, key: str, dtype: np.dtype[Any], piece: NDArray[Any]) -> NDArray[Any]:
    """A piece in another type: floats are rounded as OGBench's loader rounds them, other values must stay equal.

    Raises:
        FLPError: a value does not survive.
    """
    if piece.dtype == np.bool_:
        piece = piece.view(np.uint8)  # a file's byte may hold more than a truth value
    with np.errstate(all="ignore"):
        result = piece.astype(dtype, copy=False)
    if dtype.kind == "f":
        lost, expected = np.isfinite(piece) & ~np.isfinite(result), f"what {dtype} can hold"
    else:
        lost, expected = result != piece, "0 and 1" if dtype.kind == "b" else "whole numbers"
    if lost.any():
        raise file.bad(f"'{key}' holds {piece[lost][0]!s}, expected {expected}")
    return result


def check_successors(
    file: Refuser, observations: NDArray[np.float32], following: NDArray[np.float32], ends: NDArray[np.bool_]
) -> None:
    """Refuse `next_observations` that are not the next row's observations, except where an episode ends.

    A column may differ by a thousandth of its standard deviation plus float32's rounding, whatever its unit or offset.
    """
    std, largest = column_scales(observations)
    tolerance = 1e-3 * std + 4 * np.spacing(largest.astype(np.float32))
    for first in range(0, len(observations) - 1, 2**14):
        rows = slice(first, min(first + 2**14, len(observations) - 1))
        after = observations[rows.start + 1 : rows.stop + 1]
        wrong = (np.abs(following[rows] - after) > tolerance).any(1) & ~ends[rows]
        if wrong.any():
            row = rows.start + int(wrong.argmax())
            raise file.bad(
                f"'{NEXT}' of row {row} is not 'observations' of the row after, though no episode ends there: "
                "mark each episode's last row in 'terminals' or 'timeouts'"
            )


def column_scales(observations: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each column's standard deviation and largest magnitude, `[o]` each, in little memory."""
    total = squares = np.zeros(observations.shape[1])
    for piece in pieces(observations):
        shifted = piece.astype(np.float64) - observations[0].astype(np.float64)
        total, squares = total + shifted.sum(0), squares + np.square(shifted).sum(0)
    mean = total / len(observations)
    largest = np.abs([observations.max(0).astype(np.float64), observations.min(0).astype(np.float64)]).max(0)
    return np.sqrt(np.maximum(squares / len(observations) - np.square(mean), 0)), largest

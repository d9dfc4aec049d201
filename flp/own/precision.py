"""Narrowing a user's numbers to float32, the networks' type, never wiping out a column without a word."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.archive import pieces
from flp.own.reading import Refuser, column_scales, converted

_NOISE = 1e-12  # relative spread below which a column is a constant with float64's rounding errors


def narrowed(file: Refuser, key: str, array: NDArray[Any]) -> NDArray[np.float32]:
    """Convert finite numbers `[n]` or `[n, columns]` to float32.

    Raises:
        FLPError: a value overflows, or as `check_precision`.
    """
    result = np.empty(array.shape, np.float32)
    for target, piece in zip(pieces(result), pieces(array), strict=True):
        target[:] = converted(file, key, result.dtype, piece)
    check_precision(file, key, array)
    return result


def check_precision(file: Refuser, key: str, array: NDArray[Any]) -> None:
    """Check finite numbers `[n]` or `[n, columns]`, still in the file's own type.

    A warning is printed where float32's spacing at a column's largest magnitude exceeds a hundredth of its standard
    deviation.

    Raises:
        FLPError: it exceeds the standard deviation itself, so that float32 makes the column constant.
    """
    std, largest = column_scales(array.reshape(len(array), -1))
    spacing = spacing_at(largest)
    for column in np.flatnonzero((std > _NOISE * largest) & (spacing > 0.01 * std)):
        of = f"column {column} of '{key}'" if array.ndim == 2 else f"'{key}'"
        scale = f"{of} reaches {largest[column]:g} and varies by {std[column]:g}, of which float32 keeps"
        if spacing[column] > std[column]:
            raise file.bad(f"{scale} nothing: subtract an offset")
        print(f"warning: {file.bad(f'{scale} little: subtract an offset')}", file=sys.stderr)


def may_be_coarse(array: NDArray[np.float32]) -> bool:
    """Whether float32 numbers may have lost precision; constant columns may have lost all of it."""
    std, largest = column_scales(array.reshape(len(array), -1))
    return bool((spacing_at(largest) > 0.01 * std).any())


def spacing_at(magnitude: NDArray[Any]) -> NDArray[np.float32]:
    """float32's spacing at nonnegative magnitudes."""
    return np.asarray(np.spacing(np.asarray(magnitude, np.float32)), np.float32)

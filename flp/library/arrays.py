"""Checked arguments: devices, whole numbers, and vectors (single or in batches) as tensors and back."""

from __future__ import annotations

import operator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flp.system.errors import FLPError

LARGEST = 2**63 - 1  # of a seed here; params.yaml's end sooner


def placed(device: torch.device | str) -> torch.device:
    """The device of that name, which must be available.

    Raises:
        FLPError: it is not.
    """
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise FLPError(f"device {device!r}: there is none of that name; use cpu, cuda or cuda:1") from None
    if place.type not in ("cpu", "cuda"):
        raise FLPError(f"device {device}: flp computes on cpu or cuda only")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise FLPError(f"device {device}: no such CUDA device is available here; use cpu")
    return place


def whole(value: object, what: str, low: int = 0, high: int = LARGEST) -> int:
    """A whole number, Python's or NumPy's, from `low` to `high`, by default a seed.

    Raises:
        FLPError: it is something else; a truth value is no number.
    """
    number = low - 1
    if not isinstance(value, bool | np.bool_):
        with suppress(TypeError):
            number = operator.index(value)  # type: ignore[arg-type]
    if not low <= number <= high:
        raise FLPError(f"{what} must be a whole number from {low} to {high}, not {value!r}")
    return number


def batch_of(values: ArrayLike, width: int, what: str, device: torch.device) -> tuple[Tensor, bool]:
    """A vector or a batch as float32 `[1, B, width]` on the device, and whether it was a single vector.

    Raises:
        FLPError: another shape, or NaN or infinite values.
    """
    try:
        with np.errstate(over="ignore"):  # refused below
            given = np.asarray(values)
            if given.dtype.kind in "cSUMm":  # complex numbers, texts, dates
                raise TypeError(f"they are {given.dtype}")
            array = np.array(given, np.float32)
    except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: a tensor of PyTorch's with gradients
        raise FLPError(f"{what} are no array of numbers ({error}), expected [{width}] or [batch, {width}]") from error
    if array.ndim not in (1, 2) or array.shape[-1] != width:
        raise FLPError(f"{what} have shape {list(array.shape)}, expected [{width}] or [batch, {width}]")
    if not np.isfinite(array).all():
        raise FLPError(f"{what} hold NaN or infinite values")
    return torch.from_numpy(np.atleast_2d(array))[None].to(device), array.ndim == 1


def paired(
    observation: ArrayLike, action: ArrayLike, widths: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor, bool]:
    """Observations and actions of the same batch, each as by `batch_of`."""
    observations, single = batch_of(observation, widths[0], "observations", device)
    actions, _ = batch_of(action, widths[1], "actions", device)
    if actions.shape[1] != observations.shape[1]:
        raise FLPError(f"{observations.shape[1]} observations come with {actions.shape[1]} actions")
    return observations, actions, single


def as_given(result: Tensor, single: bool) -> NDArray[Any]:
    """`[1, B, …]` as an array `[B, …]`, or `[…]` if a single vector was given.

    Raises:
        FLPError: NaN or infinite values.
    """
    array: NDArray[Any] = result[0].float().cpu().numpy()
    if not np.isfinite(array).all():
        raise FLPError("the result is NaN or infinite: the inputs are too far outside the range of the data")
    return array[0] if single else array

"""Threads and devices: exactly as many threads as given, and the GPU if there is one."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from flp.system.errors import FLPError

_held: dict[int, FileLock] = {}  # locks of the GPUs that this process holds
# glibc's parameters of mallopt and their values: activations, up to tens of megabytes, stay with the process.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM_BYTES, _MMAP_BYTES, _OLD_MMAP_BYTES = 1 << 29, 1 << 26, 1 << 25  # older versions take at most the last


def available_cores() -> int:
    """Number of cores this process may run on."""
    return len(os.sched_getaffinity(0))


def set_up(threads: int, device: str = "auto", precision: str = "float32") -> torch.device:
    """Set up `threads` CPU threads (never more than the machine has) and the device.

    Args:
        threads: CPU threads of this job.
        device: see `choose_device`, also for the errors raised.
        precision: "tf32" lets float32 matrix products on a GPU use tf32.
    """
    chosen = choose_device(device)
    torch.set_num_threads(max(1, min(threads, available_cores())))
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision(_matmul_precision(precision))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Unlike `use_deterministic_algorithms`, this does not import the compiler, which is configured where it is used.
    torch.set_deterministic_debug_mode("error")
    # Otherwise every new tensor is first filled with NaN, to reveal reads of uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _keep_freed_memory()
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


def choose_device(device: str) -> torch.device:
    """The device of that name; for "auto" or "cuda" a free GPU, which this process then holds until it ends.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".

    Raises:
        FLPError: there is no such device.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if device != "auto" and not re.fullmatch(r"cuda(:\d+)?", device):
        raise FLPError(f"--device {device}: there is no such device; give auto, cpu, cuda or cuda:1")
    if not torch.cuda.is_available():
        raise FLPError(f"--device {device}: no CUDA device is available here; use --device cpu or leave it out")
    count, (_, _, number) = torch.cuda.device_count(), device.partition(":")
    index = int(number) if number else _free_gpu()
    if index >= count:
        raise FLPError(f"--device {device}: this machine's GPUs are cuda:0 to cuda:{count - 1}")
    _hold(index)  # others leave a GPU alone that was asked for by its number, too
    return torch.device("cuda", index)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on this many CPU threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Multiply float32 matrices on a GPU as `offline.precision` says in the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_matmul_precision(precision))
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _matmul_precision(precision: str) -> str:
    return "high" if precision == "tf32" else "highest"


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory, up to 512 MiB, for the next tensor.

    By default it returns large blocks to the system and requests them again, with a page fault for every 4 KiB: some
    1,500 in an update of 256×2 networks, a tenth or more of its time.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
            if not mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES):
                mallopt(_M_MMAP_THRESHOLD, _OLD_MMAP_BYTES)


def _free_gpu() -> int:
    """The GPU that this process holds, or the first that no other job of this checkout does, locked until it ends."""
    if _held:
        return next(iter(_held))
    return next(filter(_hold, range(torch.cuda.device_count())), 0)


def _hold(index: int) -> bool:
    """Lock a GPU until this process ends; False if another job holds it, or on a file system without locks.

    Its name is its own: several machines may share the checkout, and a scheduler may show each job other GPUs as 0.
    """
    if index not in _held:
        file = FileLock(f".flp/gpu/{torch.cuda.get_device_properties(index).uuid}.lock", fallback_to_soft=False)
        with suppress(OSError):
            _held[index] = file.acquire(blocking=False).lock
    return index in _held


def release_memory() -> None:
    """Free GPU memory that nothing uses any more: trainers form reference cycles, which the garbage collector frees."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's model name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def to_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """A copy of an array (which may be read-only) on the device."""
    return torch.tensor(array, device=device)

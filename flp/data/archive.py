"""Reading and writing `.npz` files one array at a time; headers are checked before memory is allocated."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from flp.system.artifacts import atomic_write
from flp.system.errors import FLPError, explained

MAX_BYTES = 64 * 2**30
"""More than ten times the largest official dataset."""

_PIECE = 2**20  # elements read and checked at a time, to save memory

_UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError)
"""What `zipfile` raises for damaged, encrypted or exotic archives."""

Arrays = dict[str, NDArray[Any]]
Convert = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Header:
    """An array's header.

    Attributes:
        shape: the array's shape.
        by_columns: whether it is stored in Fortran order.
        dtype: its type.
    """

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]


class Archive:
    """An open `.npz` file.

    Args:
        path: the file, for messages.
        file: the archive.
        remedy: what to do about a bad file.
    """

    def __init__(self, path: Path, file: zipfile.ZipFile, remedy: str) -> None:
        self.path, self.remedy, self._file = path, remedy, file
        self._names = file.namelist()

    @property
    def keys(self) -> list[str]:
        """The arrays' names, in the file's order; other members are ignored."""
        return [name.removesuffix(".npy") for name in dict.fromkeys(self._names) if name.endswith(".npy")]

    def bad(self, problem: str) -> FLPError:
        """The error for a problem of this file."""
        return FLPError(f"{self.path}: {problem}; {self.remedy}")

    def header(self, key: str) -> Header:
        """An array's header; objects, and sizes that are absurd or differ from the file's, are refused."""
        if self._names.count(f"{key}.npy") > 1:
            raise self.bad(f"key '{key}' occurs twice")
        with self._file.open(f"{key}.npy") as member:
            header = self._header(key, member)
            start = member.tell()
        if header.dtype.hasobject:
            raise self.bad(f"'{key}' holds {header.dtype}")
        claimed = math.prod(header.shape) * header.dtype.itemsize
        if (
            min(header.shape, default=0) < 0
            or claimed > MAX_BYTES
            or claimed != self._file.getinfo(f"{key}.npy").file_size - start
        ):
            raise self.bad(f"'{key}' claims {claimed} bytes, which is not what the file holds")
        return header

    def _header(self, key: str, member: IO[bytes]) -> Header:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        try:
            return Header(*readers[np.lib.format.read_magic(member)](member))
        except Exception as error:  # NumPy parses it with Python's parser, which may raise anything
            reason = " ".join(str(error).split())
            raise self.bad(f"'{key}' has an unreadable header ({reason})") from error

    def read(self, key: str, dtype: DTypeLike, convert: Convert | None = None) -> NDArray[Any]:
        """Read an array piece by piece; the archive verifies its checksum at the end.

        Args:
            key: the array's name.
            dtype: the type of the result.
            convert: converts a piece of the file's elements; None: NumPy's conversion.
        """
        header = self.header(key)
        array = np.empty(header.shape, dtype, "F" if header.by_columns else "C")
        target = (array.T if header.by_columns else array).reshape(-1)
        size = header.dtype.itemsize
        with self._file.open(f"{key}.npy") as member:
            self._header(key, member)
            for first in range(0, len(target), _PIECE):
                count = min(_PIECE, len(target) - first)
                content = member.read(count * size)
                if len(content) < count * size:
                    raise EOFError(f"'{key}' ends early")
                piece = np.frombuffer(content, header.dtype)
                target[first : first + count] = piece if convert is None else convert(piece)
            if member.read(1):  # the checksum is compared only at the end
                raise EOFError(f"'{key}' has trailing data")
        return np.ascontiguousarray(array)


@contextmanager
def opened(path: Path, remedy: str, absent: str) -> Iterator[Archive]:
    """Open an `.npz` file; turn errors of zip and NumPy into one line.

    Args:
        path: the file.
        remedy: what to do about a bad file.
        absent: what to do about a missing file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            yield Archive(path, file, remedy)
    except FileNotFoundError as error:
        raise FLPError(f"{path} does not exist; {absent}") from error
    except _UNREADABLE as error:
        raise FLPError(f"{path} is not a whole .npz file ({error}); {remedy}") from error
    except OSError as error:
        raise FLPError(f"cannot read {path}: {explained(error, remedy)}") from error
    except MemoryError as error:
        raise FLPError(f"{path} does not fit into memory; use a machine with more") from error


def write_npz(path: Path | str, arrays: Mapping[str, NDArray[Any]] | Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Write an `.npz` file atomically, in the format of `numpy.savez`, one array at a time; equal arrays, equal bytes.

    Not compressed, unlike OGBench's files: floats of noisy trajectories shrink by only 10 to 20 %, at ten times the
    writing and reading time.
    """
    pairs = arrays.items() if isinstance(arrays, Mapping) else arrays
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for key, array in pairs:
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of consecutive rows, in pieces of about a million elements."""
    rows = max(1, _PIECE // max(1, array[:1].size))
    return (array[first : first + rows] for first in range(0, len(array), rows))

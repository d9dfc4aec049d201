"""Files that are complete or absent: atomic writes, checksums, safetensors with a JSON manifest."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from flp.system.errors import FLPError, explained
from flp.system.hashing import sha256_of

FORMAT_VERSION = 1
OLDEST_FORMAT = 1  # raised only when older files can no longer be read
_RECORDED_PACKAGES = ("torch", "numpy", "ogbench", "gymnasium", "mujoco", "safetensors", "flp")


@contextmanager
def atomic_write(path: Path | str) -> Iterator[IO[bytes]]:
    """Open a temporary binary file next to `path`; on success fsync and rename it over `path`.

    A reader sees the old file or the new one, never a part; a read-only link into a shared cache is
    replaced, never written through. On any error the temporary file is removed and `path` is intact.

    Raises:
        FLPError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        temporary.touch(exist_ok=False)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        _sync_directory(path.parent)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # the disk that failed may fail here too
                temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """The name of a temporary file next to `path`, which must name a file (`FLPError`)."""
    if not path.name:
        raise FLPError(f"{path} is a folder; name a file")
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _unwritten(path: Path, error: Exception) -> FLPError:
    return FLPError(f"cannot write {path}: {explained(error)} (an earlier version of the file, if any, is intact)")


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_csv(path: Path | str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV atomically; a column is empty in rows that lack it."""
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON atomically.

    Raises:
        FLPError: it holds NaN or infinite numbers, or the file cannot be written.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False, sort_keys=False)
    except ValueError as error:
        raise FLPError(f"{path} is not written: a number in it is NaN or infinite ({error})") from error
    write_text(path, text + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        FLPError: missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise FLPError(f"cannot read {path}: {explained(error)}") from error
    except (ValueError, RecursionError) as error:
        raise FLPError(f"{path} is not valid JSON ({error}); delete it and run again") from error


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Raise the operating system's errors as `FLPError` with the file's name and what to do."""
    try:
        yield
    except OSError as error:
        raise FLPError(f"cannot read {path}: {explained(error)}") from error


def read_entries(path: Path | str) -> dict[str, Any]:
    """A JSON file's entries; empty if the file is missing or unreadable."""
    try:
        value = read_json(path)
    except FLPError:
        return {}
    return value if isinstance(value, dict) else {}


def key_of(manifest: Path | str) -> str | None:
    """The key that a manifest records; None where there is no readable manifest with one."""
    key = read_entries(manifest).get("key")
    return key if isinstance(key, str) else None


def write_verified(path: Path | str, write: Callable[[Path], None]) -> str:
    """Let `write(temporary_path)` make a file, move it to `path`, read it back; return its SHA-256.

    Raises:
        FLPError: the folder cannot be written, the disk is full, or what was read back differs.
    """
    from safetensors import SafetensorError  # what its writer raises on a full disk

    path = Path(path)
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # from the umask, or the folder's default ACL
        write(temporary)
        temporary.chmod(stat.S_IMODE(mode))  # safetensors restricts its files to the owner
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        digest, inode = sha256_of(temporary), temporary.stat().st_ino
        os.replace(temporary, path)
        _sync_directory(path.parent)
        # Another process may have put its own file there in the meantime, which is not ours to check.
        if sha256_of(path) != digest and path.stat().st_ino == inode:
            raise FLPError(f"{path} reads back differently from what was written; check the disk")
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return digest


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape results, for manifests."""
    installed = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def made_with() -> dict[str, Any]:
    """What a manifest records about the program that wrote it: the packages' versions, and the interpreter."""
    return {"versions": versions(), "interpreter": sys.executable}


def save_tensors(path: Path | str, tensors: dict[str, Any], **manifest: Any) -> None:
    """Save `{name: torch.Tensor}` as safetensors, with its manifest as JSON next to it (`.json`).

    The format version, the file's SHA-256, the tensors' shapes, the library versions, the interpreter and the time are
    added to the manifest. It is written last: a tensor file without a matching manifest is not an artifact.
    """
    from safetensors.torch import save_file

    path = Path(path)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        save_file(contiguous, temporary)
        path.with_suffix(".json").unlink(missing_ok=True)  # an earlier artifact stays intact until here

    digest = write_verified(path, write)
    write_json(
        path.with_suffix(".json"),
        {
            "format_version": FORMAT_VERSION,
            **manifest,
            "sha256": digest,
            "tensors": {name: list(tensor.shape) for name, tensor in contiguous.items()},
            **made_with(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )


def _missing(path: Path) -> FLPError:
    return FLPError(f"{path} does not exist; make it with snakemake, or fetch it with `dvc pull`")


def load_manifest(path: Path | str) -> dict[str, Any]:
    """Read and check the manifest of an artifact (`x.safetensors` → `x.json`).

    Raises:
        FLPError: missing, unreadable, or written by a newer version of flp or one too old to be read.
    """
    artifact, path = Path(path), Path(path).with_suffix(".json")
    with reading(path):
        if not path.exists():
            raise _missing(path if artifact.exists() else artifact)
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format_version"), int):
        raise FLPError(f"{path} is not a manifest of this project; delete the artifact and run again")
    if manifest["format_version"] > FORMAT_VERSION:
        raise FLPError(
            f"{path} has format version {manifest['format_version']}, this flp reads up to "
            f"{FORMAT_VERSION}; upgrade flp"
        )
    if manifest["format_version"] < OLDEST_FORMAT:
        raise FLPError(
            f"{path} has format version {manifest['format_version']}, this flp reads from {OLDEST_FORMAT} on; run "
            "snakemake to make it again, or load it with the flp that wrote it (see its `versions`)"
        )
    return manifest


def load_tensors(path: Path | str, device: Any = "cpu", **expected: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load `(tensors, manifest)`, refusing anything that is not exactly what was saved.

    Args:
        path: the `.safetensors` file.
        device: where to put the tensors.
        expected: manifest entries that must be equal, such as `dataset_sha256=...`.

    Raises:
        FLPError: missing, truncated or altered file, a newer format, an unexpected manifest entry,
            NaN or infinite values; the message names the file and the remedy.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    with reading(path):
        digest = sha256_of(path) if path.exists() else None
    if digest is None:
        raise _missing(path)
    manifest = load_manifest(path)
    if digest != manifest.get("sha256"):
        raise FLPError(f"{path} is truncated or altered (checksum differs from its manifest); delete it and run again")
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise FLPError(
                f"{path} has {name} {manifest.get(name)!r}, expected {value!r}: it belongs to other "
                "inputs; delete it and run again"
            )
    try:
        with reading(path):
            tensors = load_file(path, device=str(device))
    except SafetensorError as error:
        raise FLPError(f"{path} is not a safetensors file: {explained(error, 'delete it and run again')}") from error
    shapes = manifest.get("tensors", {})
    if not isinstance(shapes, dict):
        raise FLPError(f"{path.with_suffix('.json')} does not list the file's tensors; delete both and run again")
    for name, tensor in tensors.items():
        if list(tensor.shape) != shapes.get(name):
            raise FLPError(f"{path}: tensor '{name}' has a shape other than its manifest's; delete it and run again")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise FLPError(f"{path}: tensor '{name}' holds NaN or infinite values; delete it and run again")
    return tensors, manifest

"""One process per output: locks that end with their process, and the leftovers of killed ones."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from flp.system.artifacts import key_of
from flp.system.errors import FLPError, explained
from flp.system.stopping import STOP

LOCKS = Path(".flp/locks")
ATTEMPTS = 5  # to remove a folder of which others remove parts


@contextmanager
def alone(output: str, *more: str) -> Iterator[bool]:
    """Let one process at a time make an output; a second one waits, and may then find the work done.

    The lock belongs to the process: whatever ends it releases the lock, so that none is ever stale. Files that a killed
    process left half-written are removed.

    Args:
        output: path of the output's folder, or of its files without their suffixes.
        more: folders of further outputs of the same process.

    Yields:
        Whether another process was waited for.
    """
    # `flock`, never filelock's soft locks, files whose mere existence locks: those outlive a killed process.
    lock = FileLock(LOCKS / f"{output}.lock", fallback_to_soft=False)
    waited = False

    def waiting() -> bool:
        nonlocal waited
        if not waited:
            print(f"another process is making {output}; waiting for it", file=sys.stderr)
        waited = True
        return STOP.signal is not None

    try:
        lock.acquire(cancel_check=waiting)
    except Timeout:
        STOP.raise_if_asked()
    except OSError as error:
        if error.filename is not None:  # opening the file failed, not locking it
            raise FLPError(f"cannot write {error.filename}: {explained(error)}") from error
        print(f"warning: this file system has no locks ({error}); start each job only once", file=sys.stderr)
    try:
        for leftover in (path for place in (output, *more) for path in leftovers(Path(place))):
            remove(leftover)
        yield waited
    finally:
        lock.release()


def once(output: str, manifest: str, key: str, make: Callable[[], None], *more: str) -> None:
    """Make an output (and more, as `alone`), unless a process that was waited for has just made it with this key."""
    with alone(output, *more) as waited:
        if not (waited and key_of(manifest) == key):
            make()


def held() -> list[str]:
    """The outputs that processes are making at the moment, by their locks."""
    outputs = []
    for file in sorted(LOCKS.rglob("*.lock")):
        lock = FileLock(file, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            outputs.append(str(file.relative_to(LOCKS).with_suffix("")))
        except OSError:  # a file system without locks, or another user's file
            continue
        else:
            lock.release()
    return outputs


def remove(path: Path) -> None:
    """Remove a file, or a folder with its contents; of a link, only the link.

    Raises:
        FLPError: not all of it could be removed; who goes on as if it were would take it for something new.
    """
    try:
        for attempt in range(ATTEMPTS):
            if not path.is_dir() or path.is_symlink():
                break
            try:
                shutil.rmtree(path)
            except FileNotFoundError:  # another process removes it too
                if attempt == ATTEMPTS - 1:
                    raise
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FLPError(f"cannot remove {path}: {explained(error)}") from error


def leftovers(output: Path) -> list[Path]:
    """Temporary files and folders that killed writers of an output left behind."""
    paths = list(output.rglob(".*.tmp")) if output.is_dir() else []
    if output.parent.is_dir():
        patterns = (f".{output.name}{middle}.*.tmp" for middle in ("", "-val"))
        paths += [path for pattern in patterns for path in output.parent.glob(pattern)]
    return sorted(paths)

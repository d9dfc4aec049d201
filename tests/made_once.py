"""What many tests read and none changes: made by the first test process that asks, while the others wait."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all test processes share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


def once(root: Path, make: Callable[[Path], object]) -> Path:
    """A folder as `make` leaves it."""
    with alone(root.with_suffix(".lock")):
        if not root.with_suffix(".done").exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            make(root)
            root.with_suffix(".done").touch()
    return root


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Let one test process in at a time."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

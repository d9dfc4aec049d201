"""One maker at a time: who waits, who is let in, and where there are no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flp.system.errors import FLPError
from flp.system.locks import LOCKS, alone, remove

HOLD = "import time; from flp.system.locks import alone\nwith alone('out'): print('in', flush=True); time.sleep(600)"
WAIT = "from flp.system.locks import alone\nwith alone('out') as waited: print('waited' if waited else 'free')"
LISTEN = "from flp.system.stopping import STOP; STOP.listen()\n"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[subprocess.Popen[str]]]:
    """Start a program in an empty folder; what still runs in the end is killed."""
    monkeypatch.chdir(tmp_path)
    started = []

    def run(program: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, "-c", program], **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_maker_says_that_it_waits_until_the_first_one_is_killed(start) -> None:
    holder = start(HOLD)
    assert holder.stdout.readline() == "in\n"
    waiter = start(WAIT)
    assert waiter.stderr.readline() == "another process is making out; waiting for it\n"
    assert waiter.poll() is None
    holder.kill()
    assert waiter.communicate(timeout=30) == ("waited\n", "")
    assert start(WAIT).communicate(timeout=30) == ("free\n", "")  # though the killed one's file is there
    assert (LOCKS / "out.lock").exists()


@pytest.mark.parametrize("listening", [False, True])
def test_who_waits_heeds_a_signal(start, listening) -> None:
    """Also where the process has noted signals since an earlier job of its own began."""
    holder = start(HOLD)
    assert holder.stdout.readline() == "in\n"
    waiter = start(listening * LISTEN + WAIT)
    assert waiter.stderr.readline() == "another process is making out; waiting for it\n"
    waiter.send_signal(signal.SIGINT)
    said, complaint = waiter.communicate(timeout=30)
    assert said == "" and ("stopped by SIGINT" if listening else "KeyboardInterrupt") in complaint


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_a_warning_says_so(number, tmp_path, monkeypatch, capsys) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, "no locks")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone("out") as waited, alone("out"):  # no file stands in for the lock, to be left by a killed process
        assert not waited
    warning = f"warning: this file system has no locks ([Errno {number}] no locks); start each job only once\n"
    assert capsys.readouterr().err == 2 * warning


def test_a_lock_that_cannot_be_written_is_said_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".flp").write_text("not a folder")
    with (
        pytest.raises(FLPError, match=r"^cannot write .*\.flp.*; a file stands where a folder .* should: move it away"),
        alone("out"),
    ):
        pass


def test_what_cannot_be_removed_is_named(tmp_path, monkeypatch):
    """A forced job would take it for what it has just made; `flp clean` would report nothing."""
    folder = tmp_path / "task1_seed0"
    folder.mkdir()
    (folder / "log.csv").touch()

    def refuse(*arguments, **more):
        raise PermissionError(errno.EACCES, "Permission denied", "log.csv")

    monkeypatch.setattr(os, "unlink", refuse)
    for path in (folder, folder / "log.csv"):
        with pytest.raises(FLPError, match=rf"^cannot remove {path}: .*[Pp]ermission"):
            remove(path)
    monkeypatch.undo()
    remove(folder)
    remove(folder)
    assert not folder.exists()

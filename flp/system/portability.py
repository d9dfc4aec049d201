"""What a process may lack around it: a user's name, a home, a locale that has all letters, a reader."""

from __future__ import annotations

import getpass
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from flp.system.errors import FLPError


def prepare_process() -> None:
    """What every program does first, for itself and for the processes it starts.

    Letters that the locale lacks are printed as escapes; a user without a name (`docker -u 1234`) gets one, which
    libraries ask for.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    os.environ["PYTHONIOENCODING"] = f"{encoding}:backslashreplace"
    name_user()


def run_printing(run: Callable[[], int]) -> int:
    """Run a program whose output may come to an end before it does; return the exit status.

    Where the reader leaves, as `head` does, it ends in silence, as SIGPIPE ends other programs; where there is no room
    for what it prints, it says so.
    """
    try:
        try:
            return run()
        finally:
            if sys.stdout is not None:  # it may be closed
                sys.stdout.flush()
    except OSError as error:
        lost = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _lost(stream)]
        if not lost:
            raise
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        print(f"flp: error: what it printed could not be written: {error.strerror}", file=sys.stderr)
        return 2


def _lost(stream: TextIO) -> bool:
    """Whether what is printed does not arrive; the rest then goes nowhere, also at Python's own end."""
    asked = select.poll()
    try:
        stream.flush()
        asked.register(stream.fileno(), 0)  # errors and readers that left are told unasked
        if not asked.poll(0):
            return False
    except io.UnsupportedOperation:  # no file of the system's
        return False
    except OSError:
        pass
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return True


def name_user() -> None:
    """Give a user without a name one."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"


def user_path(text: str) -> Path:
    """A path that a user wrote into a file, `~` and letters that the locale lacks included.

    Raises:
        FLPError: there is no such home.
    """
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        text = os.fsdecode(text.encode("utf-8", "surrogateescape"))
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise FLPError(f"{text}: no home folder is known here; write the whole path, or set HOME") from None


@contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Give a variable this value in the block, for this process and those it starts."""
    old = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if old is None:
            del os.environ[name]
        else:
            os.environ[name] = old

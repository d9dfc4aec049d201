"""What a process may lack: a user name, a home, a locale with all characters, a reader of its output."""

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
    """Prepare this process and those it starts; every program does this first.

    Characters that the locale lacks are printed as escapes; a user without a name (`docker -u 1234`) gets one, because
    libraries ask for it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    os.environ["PYTHONIOENCODING"] = f"{encoding}:backslashreplace"
    name_user()


def run_printing(run: Callable[[], int]) -> int:
    """Run a program whose output may end before it does; return the exit status.

    If the reader leaves, as `head` does, it ends silently, as SIGPIPE ends other programs; if there is no space for its
    output, it reports that.
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
    """Whether output to a stream is lost; if so, redirect the rest to /dev/null, for Python's exit flushes too."""
    poll = select.poll()
    try:
        stream.flush()
        poll.register(stream.fileno(), 0)  # errors and hang-ups are always reported
        if not poll.poll(0):
            return False
    except io.UnsupportedOperation:  # not a file of the operating system
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
    """A path from a user's file, which may contain `~` and characters that the locale lacks.

    Raises:
        FLPError: the home folder is unknown.
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
    """Set a variable in the block, for this process and those it starts."""
    old = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if old is None:
            del os.environ[name]
        else:
            os.environ[name] = old

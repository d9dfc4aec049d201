"""What a process may lack around it: a user's name, a home, a locale that has all letters."""

from __future__ import annotations

import getpass
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flp.system.errors import FLPError


def settle() -> None:
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

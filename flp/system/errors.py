"""The one exception that users are meant to read, and advice on errors of the operating system."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable

_DISK = "check the disk (`dmesg` may say more), or use another one"
_NETWORK = "check that the network file system is up and mounted, then run again"
_PERMISSIONS = "fix the permissions of the file and its folder, or ask their owner"
_ADVICE = {
    errno.ENOSPC: "free some space on that disk, then run again",
    errno.EDQUOT: "your quota is used up: delete something of yours there or ask for more, then run again",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "that place is mounted read-only: work elsewhere, or have it mounted for writing",
    errno.EMFILE: "raise the limit of open files (`ulimit -n 4096`), or use fewer --threads",
    errno.ENFILE: "the machine has too many files open: end other programs, then run again",
    errno.EAGAIN: "raise the limit of processes (`ulimit -u`), or use fewer --threads",
    errno.ENOMEM: "free some memory, or use a machine with more",
    errno.ENAMETOOLONG: "use shorter names, or a folder with a shorter path",
    errno.EFBIG: "files may not be so large there: raise the limit (`ulimit -f`), or use another file system",
    errno.EIO: _DISK,
    errno.ENXIO: _DISK,
    errno.ENODEV: _DISK,
    errno.ENOENT: "check the path: a folder or file of it is not there (any more)",
    errno.ENOTDIR: "a file stands where a folder of that path should: move it away, or correct the path",
    errno.EISDIR: "a folder stands where a file should: move it away, or correct the path",
    errno.ENOTEMPTY: "a folder that is not empty stands in the way: move it away",
    errno.EEXIST: "something stands in the way: move it away",
    errno.ELOOP: "links lead in a circle there: fix them",
    errno.EXDEV: "a file cannot move between file systems: check the links and mounts there",
    errno.EBUSY: "another program or a mount holds it: end that, then run again",
    errno.ETXTBSY: "another program runs it: end that, then run again",
    errno.ESTALE: _NETWORK,
    errno.ETIMEDOUT: _NETWORK,
    errno.EHOSTDOWN: _NETWORK,
    errno.ENOTCONN: _NETWORK,
    errno.EREMOTEIO: _NETWORK,
    errno.ENOLCK: "this file system has no locks: work on another one",
    errno.ENOSYS: "this file system or sandbox cannot do that: work on another one",
    errno.EOPNOTSUPP: "this file system cannot do that: work on another one",
    errno.EINVAL: "this file system does not take such a name or file: use another one",
    errno.EILSEQ: "this file system does not take such a name: use plain letters",
}


class FLPError(Exception):
    """A problem that the user can fix: one line that says what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        # Names come from the user's files and may contain anything.
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


def explained(error: Exception, otherwise: str = "run again") -> str:
    """An error's text and what to do: for the operating system's errors by number, `otherwise` for others."""
    number = getattr(error, "errno", None)
    if number is None and (named := re.search(r"\(os error (\d+)\)", str(error))):  # as safetensors says it
        number = int(named[1])
    if number is None:
        return f"{error}; {otherwise}"
    text = getattr(error, "strerror", None) or os.strerror(number)
    return f"{text}; {_ADVICE.get(number, otherwise)}"


def first_line(error: Exception) -> str:
    """The first line of an error's text that is not empty, or the name of its type."""
    return next(filter(None, str(error).splitlines()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """An error's type and its text on one line: `ValueError: could not convert …`."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def user_error(error: OSError) -> FLPError | None:
    """An operating system's error as an `FLPError` with advice, or None if there is nothing that a user can do."""
    if error.errno not in _ADVICE:
        return None
    place = "" if error.filename is None else f"{error.filename!s}: "
    return FLPError(place + explained(error))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest known name, in upper or lower case, or an empty string."""
    names = {known_name.casefold(): known_name for known_name in known}
    close = difflib.get_close_matches(name.casefold(), list(names), n=1, cutoff=0.5)
    return f"; did you mean '{names[close[0]]}'?" if close else ""

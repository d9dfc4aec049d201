"""What a job tells those who watch it (`flp watch`): one small file beside its resume state, gone when it is done."""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = "status.json"
EVERY = 5.0  # seconds between two versions of the file


class Status:
    """The file of one process. What cannot be written is left out: nobody's work waits or fails for it.

    Args:
        folder: where the job's resume state lives.
        total: the job's last step, if it counts any.
        about: what is being made: `stage`, `dataset`, the output it `makes`, and more.
    """

    def __init__(self, folder: Path, total: int | None = None, **about: Any) -> None:
        self.file, self.total = folder / NAME, total
        self.news = about | {"host": platform.node(), "pid": os.getpid(), "began": began(os.getpid()), "total": total}
        self.start: tuple[float, int] | None = None
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def note(self, **news: Any) -> None:
        """Tell something more, such as `success`, with the next version."""
        self.news |= news

    def reach(self, step: int) -> None:
        """Tell the step, the speed since the first one told, and what is left; cheap enough for every step."""
        now = time.monotonic()
        if self.start is None:
            self.start = now, step
        elif now - self.written < EVERY:
            return
        seconds, done = now - self.start[0], step - self.start[1]
        rate = done / seconds if done and seconds else None
        left = (self.total - step) / rate if rate and self.total is not None else None
        self.news |= {"step": step, "rate": rate, "left": left}
        self._write()

    def _write(self) -> None:
        """Replace the file, without waiting for the disk: it need not outlive the machine."""
        self.written = time.monotonic()
        temporary = self.file.with_name(f".{NAME}.{secrets.token_hex(4)}.tmp")
        with suppress(OSError):  # also where the folder is gone, for the job is done
            try:
                temporary.write_text(json.dumps(self.news | {"updated": time.time()}), encoding="utf-8")
                os.replace(temporary, self.file)
            finally:
                temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the file, where no resume state is cleared with it."""
        with suppress(OSError):
            self.file.unlink(missing_ok=True)
            self.file.parent.rmdir()


def began(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's ticks, which tells it from a later one of its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None

"""What a job reports to `flp watch`: one small file next to its resume state, removed when the job is done."""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from flp.system.stopping import InterruptedJobError

NAME = "status.json"
EVERY = 5.0  # seconds between two versions of the file


class Status(AbstractContextManager["Status", None]):
    """The file of one process. Failures to write are ignored: no work waits or fails for it.

    As a context manager, it records whether the work failed; an interruption is no failure.

    Args:
        folder: where the job's resume state lives.
        total: the job's last step, if it counts any.
        about: what the job is: `stage`, `dataset`, the output it `makes`, and more.
    """

    def __init__(self, folder: Path, total: int | None = None, **about: Any) -> None:
        self.file, self.total = folder / NAME, total
        pid = os.getpid()
        self.entries = about | {"host": platform.node(), "pid": pid, "began": process_start(pid), "total": total}
        self.start: tuple[float, int] | None = None
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def note(self, **entries: Any) -> None:
        """Add entries, such as `success`, to the next version."""
        self.entries |= entries

    def reach(self, step: int) -> None:
        """Report the step, the speed since the first report, and the time left; cheap enough for every step."""
        now = time.monotonic()
        if self.start is None:
            self.start = now, step
        elif now - self.written < EVERY:
            return
        seconds, done = now - self.start[0], step - self.start[1]
        rate = done / seconds if done and seconds else None
        left = (self.total - step) / rate if rate and self.total is not None else None
        self.entries |= {"step": step, "rate": rate, "left": left}
        self._write()

    def _write(self) -> None:
        """Replace the file without syncing it to disk: it need not survive a crash of the machine."""
        self.written = time.monotonic()
        temporary = self.file.with_name(f".{NAME}.{secrets.token_hex(4)}.tmp")
        with suppress(OSError):  # the folder is gone once the job is done
            try:
                temporary.write_text(json.dumps(self.entries | {"updated": time.time()}), encoding="utf-8")
                os.replace(temporary, self.file)
            finally:
                temporary.unlink(missing_ok=True)

    def fail_on(self, error: BaseException | None) -> None:
        """Record that the job failed, if this error says so."""
        if isinstance(error, Exception) and not isinstance(error, InterruptedJobError):
            self.note(failed=True)
            self._write()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.fail_on(error)

    def close(self) -> None:
        """Remove the file, for jobs without a resume state to clear it with."""
        with suppress(OSError):
            self.file.unlink(missing_ok=True)
            self.file.parent.rmdir()


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in kernel ticks: distinguishes it from a later one with the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None

"""One progress line for long work: rate, where the time goes, what is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_REWRITE = "\r\x1b[K"  # to the line's beginning, and erase it


class Progress:
    """Counts steps and the seconds spent in each section; prints to stderr.

    On a terminal the line is rewritten in place; elsewhere (a log file) a new one comes at most every
    `interval` seconds.

    Args:
        label: what is running.
        total: number of steps.
        unit: what a step is.
        interval: seconds between lines that are not rewritten.
        quiet: only speak, print no progress: for all but one of several that go the same way.
    """

    def __init__(
        self, label: str, total: int, unit: str = "updates", interval: float = 15.0, quiet: bool = False
    ) -> None:
        self.quiet = quiet
        self.label, self.total, self.unit = label, total, unit
        self.tty = sys.stderr.isatty()
        self.interval = 0.2 if self.tty else interval
        self.started = self.printed = time.monotonic()
        self.first = self.step = 0
        self.seconds: dict[str, float] = {}
        self.notes = ""

    def begin(self, step: int) -> None:
        """Say where a resumed run goes on."""
        self.first = self.step = step

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Count the time inside to this section."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def say(self, text: str) -> None:
        """Print a line of its own."""
        sys.stderr.write(f"{_REWRITE if self.tty else ''}{self.label} {text}\n")
        sys.stderr.flush()

    def update(self, step: int) -> None:
        """Report the step reached, and print if it is time to."""
        self.step = step
        now = time.monotonic()
        if now - self.printed >= self.interval:
            self.printed = now
            self._print(_REWRITE if self.tty else "", "" if self.tty else "\n")

    def close(self) -> None:
        """Print the last line."""
        self._print(_REWRITE if self.tty else "", "\n")

    def _print(self, begin: str, end: str) -> None:
        if self.quiet:
            return
        line = self.line()
        sys.stderr.write(f"{begin}{line}{end}")
        sys.stderr.flush()

    def line(self) -> str:
        """`label 500/1000 | 250 updates/s | data 5 % update 75 % evaluation 20 % | 0:02 left | notes`."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        training = self.seconds.get("data", 0.0) + self.seconds.get("update", 0.0) or elapsed
        rate = (self.step - self.first) / max(training, 1e-9)
        spent = " ".join(f"{name} {100 * s / elapsed:.0f} %" for name, s in self.seconds.items())
        done = (self.step - self.first) / max(self.total - self.first, 1)
        left = elapsed * (1 - done) / done if done > 0 else 0.0
        parts = [
            f"{self.label} {self.step}/{self.total}",
            f"{rate:.0f} {self.unit}/s",
            spent,
            f"{int(left // 60)}:{int(left % 60):02d} left" if done < 1 else f"{elapsed:.0f} s in all",
            self.notes,
        ]
        return " | ".join(part for part in parts if part)

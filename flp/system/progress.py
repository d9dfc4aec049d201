"""A progress line for long work, by tqdm: rate, where the time goes, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

Tell = Callable[[int], None]
"""Called with a step that has been reached."""
_LINE = "{desc} |{bar}| {n_fmt}/{total_fmt} | {elapsed} gone, {remaining} left | {details}"


class Progress(tqdm):  # type: ignore[type-arg]
    """Counts steps and the seconds spent in each section; prints to stderr.

    On a terminal the line is rewritten in place; elsewhere (a log file) a new line is printed at most every 15 seconds.

    Args:
        label: what is running.
        total: number of steps, if known.
        unit: what a step is; bytes ("B") are written as 1.5M.
        quiet: print messages but no progress: for all but one of several processes that advance together.
        tell: called with every step reached, even if quiet.
    """

    monitor_interval = 0  # disables tqdm's monitor thread, which would compete with computation

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str = "updates",
        quiet: bool = False,
        tell: Tell = lambda step: None,
    ) -> None:
        self.label, self.notes, self.tty, self.tell = label, "", sys.stderr.isatty(), tell
        self.seconds: dict[str, float] = {}
        super().__init__(
            desc=label,
            total=total,
            disable=quiet,
            bar_format=_LINE if self.tty else _LINE.replace(" |{bar}|", ""),
            leave=self.tty,  # elsewhere the last line is printed, not cleared (`display`)
            mininterval=0.2 if self.tty else 15.0,
            miniters=0,
            smoothing=0,
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            unit_divisor=1024,
            dynamic_ncols=self.tty,
            ncols=None if self.tty else 2**15,  # a log's lines are never cut
        )

    def begin(self, step: int) -> None:
        """Set the step from which a resumed run continues."""
        self.n = self.initial = step
        self.tell(step)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Count the time inside to this section."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def say(self, text: str) -> None:
        """Print a message on a line of its own."""
        (self.write if self.tty else print)(f"{self.label} {text}", file=sys.stderr)

    def update(self, step: float) -> None:  # type: ignore[override]
        """Report the step reached (not, as in tqdm, an increment), and print if it is time to."""
        self.tell(int(step))
        super().update(step - self.n)

    def beat(self, note: str) -> None:
        """Show, if it is time to, which work continues between steps."""
        notes, self.notes = self.notes, note
        super().update(0)
        self.notes = notes

    def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:  # type: ignore[override]
        """Show the line."""
        if self.tty:
            return super().display(msg, pos)
        if self.n != self.initial or self.notes:
            print(self, file=sys.stderr)
        return False

    @property
    def format_dict(self) -> MutableMapping[str, Any]:
        """The line's parts: `label 500/1000 | 00:02 gone, 00:02 left | 250 updates/s | data 5 % update 75 % | notes`.

        The speed is that of training alone, if there is any; the time left includes evaluation and everything else.
        """
        values = super().format_dict
        elapsed, done = values["elapsed"] or 1e-9, self.n - self.initial
        training = self.seconds.get("data", 0.0) + self.seconds.get("update", 0.0) or elapsed
        speed = f"{self.format_sizeof(done / training, divisor=self.unit_divisor)}{self.unit}/s"
        spent = " ".join(f"{name} {100 * s / elapsed:.0f} %" for name, s in self.seconds.items())
        values["details"] = " | ".join(filter(None, (speed, spent, self.notes)))
        return values

    def __del__(self) -> None:
        """Print nothing, so that an error comes last."""

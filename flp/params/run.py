"""One policy of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from flp.system import layout


@dataclass(frozen=True)
class Run:
    """One policy: a task, a seed, and in a sweep the changed value."""

    task: int
    seed: int
    alpha: float
    candidates: int
    variant: str = ""

    @property
    def name(self) -> str:
        """The run's folder inside its job's."""
        return layout.run_name(self.task, self.seed, self.variant)

"""The training log of a session: scalars per run and step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flp.learner.trainable import Logs
from flp.params.run import Run


class TrainingLog:
    """Collects the scalars that agents log.

    Args:
        runs: the runs, in the order of the run axis.

    Attributes:
        rows: one per step and run, with the columns of `log.csv` and `run`.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.rows: list[dict[str, Any]] = []

    def add(self, step: int, logs: Logs) -> None:
        """Add a step's scalars, `[R]` each."""
        columns = {name: value.tolist() for name, value in logs.items()}
        for i, run in enumerate(self.runs):
            self.rows.append({"run": run.name, "step": step, **{name: column[i] for name, column in columns.items()}})

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The rows, for a checkpoint."""
        return {}, {"logs": self.rows}

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.rows = info["logs"]

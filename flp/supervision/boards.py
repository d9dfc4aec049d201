"""Live curves in TensorBoard or Weights & Biases, which are only imported if they are asked for."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import yaml

from flp.params.sections import ReportSettings
from flp.params.yamlfile import flat
from flp.system import layout
from flp.system.errors import FLPError
from flp.system.hashing import hash_of

Row = Mapping[str, Any]


class Board(Protocol):
    """One run's curves."""

    def show(self, step: int, values: dict[str, float]) -> None:
        """Add a point to some curves."""

    def close(self) -> None:
        """Write what is still buffered."""


class Boards:
    """Shows tables that grow row by row, each run's on boards of its own.

    A resumed session shows all its rows again, replacing the earlier ones, so that no step appears twice whatever a
    killed session showed after its last saved state. A board that fails is dropped; training never waits for one.

    Args:
        report: which boards to use.
        output: the folder that the job makes, such as `results/cube-single-play/offline/flp/seed0`.
        parameters: the job's parameters, for the boards' tables of hyperparameters.
        runs: the parameters that differ between the runs, by the runs' names.

    Raises:
        FLPError: a board is not installed.
    """

    def __init__(
        self, report: ReportSettings, output: Path | str, parameters: Row, runs: Mapping[str, Row] | None = None
    ) -> None:
        self.kinds = [kind for name, kind in KINDS.items() if getattr(report, name)]
        for name in KINDS:
            if getattr(report, name) and find_spec(name) is None:
                raise FLPError(f"report.{name} needs {name}: pip install -c constraints.txt -e '.[{name}]'")
        self.output, self.parameters, self.runs = Path(output), parameters, runs or {"": {}}
        self.rows_shown: dict[str, int] = {}
        self.boards: dict[str, list[Board]] | None = None

    def follow(self, table: str, rows: Sequence[Row]) -> None:
        """Show a table's new rows. A row has a `step`, may name its `run` and `phase`, and otherwise holds curves."""
        if not self.kinds:
            return
        try:
            if self.boards is None:
                self.boards = {name: self._open(name, own) for name, own in self.runs.items()}
            for row in rows[self.rows_shown.get(table, 0) :]:
                self._show(table, row)
            self.rows_shown[table] = len(rows)
        except Exception as error:  # a full disk or a service that is down must not stop training
            print(f"warning: {self.output} is no longer shown ({type(error).__name__}: {error})", file=sys.stderr)
            self.kinds = []

    def _open(self, run: str, own: Row) -> list[Board]:
        place = self.output.relative_to(layout.RESULTS) / run
        parameters = texts({**self.parameters, **own})
        return [kind(place, parameters) for kind in self.kinds]

    def _show(self, table: str, row: Row) -> None:
        title = "behavior" if row.get("phase") == "behavior" else table
        values = {f"{title}/{name}": number for name, number in numbers(row).items()}
        assert self.boards is not None
        for board in self.boards[str(row.get("run", ""))]:
            board.show(int(row["step"]), values)

    def close(self) -> None:
        """Write what is still buffered."""
        for board in (board for of_run in (self.boards or {}).values() for board in of_run):
            with suppress(Exception):
                board.close()
        self.boards = None


def numbers(row: Row) -> dict[str, float]:
    """The numbers in a row, those in its lists and mappings included, without the step."""
    values: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, list | Mapping):
            inner = value.items() if isinstance(value, Mapping) else enumerate(value)
            values |= numbers({f"{name}/{key}": item for key, item in inner})
        elif isinstance(value, int | float) and name != "step":
            values[name] = float(value)
    return values


def texts(values: Mapping[str, Any]) -> dict[str, bool | str | float]:
    """Parameters by their paths, in types that boards accept."""
    leaves = {path: value for path, value in flat(values).items() if not isinstance(value, Mapping)}
    return {
        path: value if isinstance(value, bool | str | int | float) else str(value) for path, value in leaves.items()
    }


class TensorBoard:
    """One run's event files, by TensorBoard's own writer."""

    def __init__(self, place: Path, parameters: dict[str, bool | str | float]) -> None:
        tensorboard: Any = import_module("torch.utils.tensorboard")
        folder = layout.BOARDS / place
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        # Lets a running TensorBoard drop the points of the old files, which are all shown again.
        self.writer = tensorboard.SummaryWriter(str(folder), purge_step=0)
        self.writer.add_text("parameters", f"```\n{yaml.safe_dump(parameters, sort_keys=False)}```")
        for summary in tensorboard.summary.hparams(parameters, {"evaluation/success": None}):
            self.writer.file_writer.add_summary(summary)
        self.writer.flush()

    def show(self, step: int, values: dict[str, float]) -> None:
        """Add a point to some curves."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        """Write what is still buffered."""
        self.writer.close()


class WandB:
    """One run of Weights & Biases, by its own client, whose environment variables say where it is stored."""

    def __init__(self, place: Path, parameters: dict[str, bool | str | float]) -> None:
        wandb: Any = import_module("wandb")
        # A run with the same id replaces the earlier one.
        name = hash_of(str(Path.cwd()), str(place), parameters)
        for old in layout.WANDB.glob(f"offline-run-*-{name}"):
            shutil.rmtree(old)
        quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, disable_git=True, save_code=False)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "flp"),
            dir=str(layout.WANDB.parent),
            id=name,
            name=str(place),
            config=parameters,
            reinit="create_new",  # several runs at once
            settings=quiet,
        )
        self.run.define_metric("*", step_metric="step")

    def show(self, step: int, values: dict[str, float]) -> None:
        """Add a point to some curves."""
        self.run.log({"step": step, **values})

    def close(self) -> None:
        """Write what is still buffered."""
        self.run.finish()


Parameters = dict[str, bool | str | float]
KINDS: dict[str, Callable[[Path, Parameters], Board]] = {"tensorboard": TensorBoard, "wandb": WandB}

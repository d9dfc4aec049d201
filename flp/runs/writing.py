"""A session's runs, written to their folders: the results of those that finished, and what is left of failed ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from flp.learner.devices import device_name
from flp.parts.base import Agent
from flp.runs.evaluations import Evaluations
from flp.runs.run_batch import RunBatch
from flp.runs.run_folder import POLICY, Row, is_finished, make_room, parameters_of, save_run, write_trajectories
from flp.runs.training_log import TrainingLog
from flp.system.artifacts import save_tensors, write_json
from flp.system.resume import Resume

FAILED, LAST_GOOD = "failed.json", "last-good.safetensors"


def write_runs(
    batch: RunBatch,
    agent: Agent,
    evaluations: Evaluations,
    log: TrainingLog,
    folder: Path,
    keys: dict[str, str],
    step: int,
    seconds: float,
) -> None:
    """Write every run's folder: its results, or why it failed.

    A run that had already finished, and was only trained again along with the rest of its shard, is left as it is.

    Args:
        batch: the runs.
        agent: their agent, trained.
        evaluations: their evaluations.
        log: their training log.
        folder: the job's folder.
        keys: every run's key by its name.
        step: gradient steps taken.
        seconds: duration of training, of all runs together.
    """
    failed = evaluations.health.failed
    for i, run in enumerate(batch.runs):
        target = folder / run.name
        flow = batch.flow_digests.get(run.name)
        if is_finished(target, keys[run.name], flow):
            continue
        make_room(target, keys[run.name], flow)
        if run.name in failed:
            (target / POLICY).unlink(missing_ok=True)
            write_json(target / FAILED, {"key": keys[run.name], **failed[run.name]})
            continue
        if evaluations.paths:
            paths = {phase: of_run[i] for phase, of_run in evaluations.paths.items()}
            reached = {phase: of_run[i] for phase, of_run in evaluations.reached.items()}
            write_trajectories(target / "trajectories.npz", paths, reached)
        save_run(
            target,
            keys[run.name],
            run,
            parameters_of(agent, i, len(batch.runs)),
            _rows_of(run.name, evaluations.rows),
            _rows_of(run.name, log.rows),
            flow=None if flow is None else (batch.flow_file(run), flow),
            dataset=batch.dataset,
            agent=batch.agent,
            phase=evaluations.phase,
            step=step,
            model=batch.model,
            device=device_name(batch.device),
            seconds=round(seconds / len(batch.runs), 3),  # the run's share
        )
        for name in (FAILED, LAST_GOOD, str(Path(LAST_GOOD).with_suffix(".json"))):
            (target / name).unlink(missing_ok=True)


def _rows_of(name: str, rows: Sequence[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "run"} for row in rows if row["run"] == name]


def save_last_good(batch: RunBatch, resume: Resume, folder: Path, keys: dict[str, str], run: int) -> None:
    """Save a failing run's parameters from the last checkpoint, if there is one and they are finite."""
    saved = resume.load()
    if saved is None:
        return
    runs, name = len(batch.runs), batch.runs[run].name
    tensors = {
        key.replace("learner/", "agent/"): tensor if tensor.dim() == 0 else tensor.chunk(runs)[run]
        for key, tensor in saved[0].items()
        if key.startswith(("learner/", "optimizer/")) and not key.startswith("learner/flow.")
    }
    if all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        path = folder / name / LAST_GOOD
        make_room(folder / name, keys[name])  # the file is not that run's
        save_tensors(path, tensors, kind="checkpoint", key=keys[name], step=saved[1]["step"])
        print(f"{name}: its last good checkpoint (step {saved[1]['step']}) is {path}", file=sys.stderr)

"""What a training session writes down: evaluations, training logs and trajectories, per run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flp.agents.base import Agent
from flp.artifacts import save_tensors, write_json
from flp.devices import device_name
from flp.health import Health
from flp.learner import Logs
from flp.resume import Resume
from flp.rollout import Act, Evaluation, Evaluator
from flp.runs import Batchwork, Row, parameters_of, save_run, write_trajectories

RECORDED = 10  # trajectories kept per run, in mazes
FAILED, LAST_GOOD = "failed.json", "last-good.safetensors"


class Recorder:
    """Evaluates the runs of a session and keeps what there is to report.

    Args:
        work: the runs.
        phase: "offline" or "online".
        workers: processes that step the evaluation's environments.
        health: the runs' health, which withholds the results of failed ones.
        tick: called at every step of an evaluation; may raise to stop it.
    """

    def __init__(
        self, work: Batchwork, phase: str, workers: int, health: Health, tick: Callable[[], None] = lambda: None
    ) -> None:
        self.work, self.phase, self.health, self.tick = work, phase, health, tick
        self.evaluations: list[Row] = []
        self.logs: list[Row] = []
        self.seconds = 0.0
        self.started = time.monotonic()
        self.paths: dict[str, list[list[NDArray[np.float32]]]] = {}
        settings = work.params.evaluation
        self.evaluator = Evaluator(
            work.dataset,
            [run.task for run in work.runs],
            episodes=settings.episodes,
            seed=settings.seed,
            # One worker would only add a process: a single-threaded shard steps its environments itself.
            workers=workers if workers > 1 else 0,
            success_timing=work.params.offline.success_timing,
            record=RECORDED,
            device=work.device,
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What is kept so far, for a checkpoint."""
        spent = self.seconds + time.monotonic() - self.started
        tensors = {
            f"path/{phase}/{run}/{i}": torch.from_numpy(path)
            for phase, paths in self.paths.items()
            for run, of_run in enumerate(paths)
            for i, path in enumerate(of_run)
        }
        return tensors, {"evaluations": self.evaluations, "logs": self.logs, "seconds": spent, "paths": [*self.paths]}

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self.evaluations, self.logs, self.seconds = info["evaluations"], info["logs"], info["seconds"]
        counts = range(self.evaluator.record)
        self.paths = {
            phase: [[tensors[f"path/{phase}/{run}/{i}"].numpy() for i in counts] for run in range(len(self.work.runs))]
            for phase in info["paths"]
        }

    def evaluate(self, agent: Agent, step: int) -> str:
        """Evaluate the policies, unless that is done; return a line about it."""
        if not self.has(self.phase, step):
            act = self._guarded(lambda observations, streams: agent.act(observations, streams)[0])
            self._keep(self.phase, step, self.evaluator.evaluate(act))
        rows = [row for row in self.evaluations if row["phase"] == self.phase and row["step"] == step]
        return f"step {step}: success " + ", ".join(
            f"{row['run']} {'failed' if row['run'] in self.health.failed else format(row['success'], '.0%')}"
            for row in rows
        )

    def evaluate_behavior(self, agent: Agent) -> None:
        """Evaluate the behaviour policy on the same episodes, where the agent has one, unless that is done."""

        def act(observations: Tensor, streams: Any) -> Tensor:
            actions = agent.behave(observations, streams)
            assert actions is not None
            return actions

        if type(agent).behave is not Agent.behave and not self.has("behavior", 0):
            self._keep("behavior", 0, self.evaluator.evaluate(self._guarded(act)))

    def has(self, phase: str, step: int) -> bool:
        """Whether an evaluation is kept already."""
        return any(row["phase"] == phase and row["step"] == step for row in self.evaluations)

    def _guarded(self, act: Act) -> Act:
        def guarded(observations: Tensor, streams: Any) -> Tensor:
            self.tick()
            return self.health.guard(torch.as_tensor(act(observations, streams)))

        return guarded

    def _keep(self, phase: str, step: int, result: Evaluation) -> None:
        if result.trajectories is not None:
            self.paths[phase] = result.trajectories
        for i, run in enumerate(self.work.runs):
            self.evaluations.append(
                {
                    "run": run.name,
                    "phase": phase,
                    "step": step,
                    "success": float(result.success[i].mean()),
                    "episodes": result.success.shape[1],
                    "return": float(result.returns[i].mean()),
                    "length": float(result.lengths[i].mean()),
                }
            )

    def log(self, step: int, logs: Logs) -> None:
        """Keep the training scalars, `[R]` each."""
        columns = {name: value.tolist() for name, value in logs.items()}
        for i, run in enumerate(self.work.runs):
            self.logs.append({"run": run.name, "step": step, **{name: values[i] for name, values in columns.items()}})

    def save(self, agent: Agent, folder: Path, keys: dict[str, str], step: int) -> None:
        """Write every run's folder: its results, or why it failed."""
        for i, run in enumerate(self.work.runs):
            target = folder / run.name
            if run.name in self.health.failed:
                for name in ("policy.json", "policy.safetensors"):
                    (target / name).unlink(missing_ok=True)
                write_json(target / FAILED, {"key": keys[run.name], **self.health.failed[run.name]})
                continue
            if self.paths:
                write_trajectories(target / "trajectories.npz", {phase: p[i] for phase, p in self.paths.items()})
            save_run(
                target,
                keys[run.name],
                run,
                parameters_of(agent, i, len(self.work.runs)),
                _of(run.name, self.evaluations),
                _of(run.name, self.logs),
                dataset=self.work.dataset,
                agent=self.work.agent,
                phase=self.phase,
                step=step,
                device=device_name(self.work.device),
                # Runs train together: each cost its share.
                seconds=round((self.seconds + time.monotonic() - self.started) / len(self.work.runs), 3),
            )
            for name in (FAILED, LAST_GOOD, str(Path(LAST_GOOD).with_suffix(".json"))):
                (target / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the environments."""
        self.evaluator.close()


def _of(name: str, rows: Sequence[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "run"} for row in rows if row["run"] == name]


def keep_last_good(work: Batchwork, resume: Resume, folder: Path, keys: dict[str, str], run: int) -> None:
    """Save a failing run's parameters from the last checkpoint, if there is one and they are finite."""
    saved = resume.load()
    if saved is None:
        return
    runs, name = len(work.runs), work.runs[run].name
    tensors = {
        key.replace("learner/", "agent/"): tensor if tensor.dim() == 0 else tensor.chunk(runs)[run]
        for key, tensor in saved[0].items()
        if key.startswith(("learner/", "optimizer/")) and not key.startswith("learner/flow.")
    }
    if all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        path = folder / name / LAST_GOOD
        save_tensors(path, tensors, kind="checkpoint", key=keys[name], step=saved[1]["step"])
        print(f"{name}: its last good checkpoint (step {saved[1]['step']}) is {path}", file=sys.stderr)

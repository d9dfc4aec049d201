"""What a training session writes down: evaluations, training logs and trajectories, per run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flp.agents.base import Agent
from flp.devices import device_name
from flp.learner import Logs
from flp.rollout import Evaluation, Evaluator
from flp.runs import Batchwork, Row, parameters_of, save_run, write_trajectories

RECORDED = 10  # trajectories kept per run, in mazes


class Recorder:
    """Evaluates the runs of a session and keeps what there is to report.

    Args:
        work: the runs.
        phase: "offline" or "online".
        workers: processes that step the evaluation's environments.
    """

    def __init__(self, work: Batchwork, phase: str, workers: int) -> None:
        self.work, self.phase = work, phase
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

    def state(self) -> dict[str, Any]:
        """What is kept so far, JSON-like, for a checkpoint."""
        spent = self.seconds + time.monotonic() - self.started
        return {"evaluations": self.evaluations, "logs": self.logs, "seconds": spent}

    def restore(self, info: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self.evaluations, self.logs, self.seconds = info["evaluations"], info["logs"], info["seconds"]

    def evaluate(self, agent: Agent, step: int) -> str:
        """Evaluate the policies; return a line about it."""
        result = self.evaluator.evaluate(lambda observations, streams: agent.act(observations, streams)[0])
        self._keep(self.phase, step, result)
        return f"step {step}: success " + ", ".join(
            f"{run.name} {success:.0%}" for run, success in zip(self.work.runs, result.success.mean(1), strict=True)
        )

    def evaluate_behavior(self, agent: Agent) -> None:
        """Evaluate the behaviour policy on the same episodes, where the agent has one."""

        def act(observations: torch.Tensor, streams: Any) -> torch.Tensor:
            actions = agent.behave(observations, streams)
            assert actions is not None
            return actions

        if type(agent).behave is not Agent.behave:
            self._keep("behavior", 0, self.evaluator.evaluate(act))

    def _keep(self, phase: str, step: int, result: Evaluation) -> None:
        if result.trajectories is not None:
            self.paths[phase] = result.trajectories
        # A resumed session repeats an evaluation whose trajectories it needs; its rows are there already.
        if not any(row["phase"] == phase and row["step"] == step for row in self.evaluations):
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
        """Write every run's folder."""
        if self.paths.get(self.phase) is None and self.work_has_paths:
            self.evaluate(agent, step)
        for i, run in enumerate(self.work.runs):
            target = folder / run.name
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

    @property
    def work_has_paths(self) -> bool:
        """Whether trajectories are recorded here (mazes)."""
        return self.evaluator.record > 0

    def close(self) -> None:
        """Close the environments."""
        self.evaluator.close()


def _of(name: str, rows: Sequence[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "run"} for row in rows if row["run"] == name]

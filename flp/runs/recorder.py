"""What a training session writes down: evaluations, training logs and trajectories, per run."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flp.data.environments import EnvironmentSpec
from flp.evaluation.rollout import Act, BackgroundEvaluator, Evaluation, Evaluator
from flp.learner.devices import device_name
from flp.learner.trainable import Logs
from flp.own.task import OwnSpec
from flp.parts.base import Agent
from flp.runs.batchwork import Batchwork
from flp.runs.estimates import Estimate, Estimator
from flp.runs.run_folder import POLICY, Row, is_finished, open_again, parameters_of, save_run, write_trajectories
from flp.supervision.health import Guard, Health
from flp.system.artifacts import save_tensors, write_json
from flp.system.resume import Resume

RECORDED = 10  # trajectories kept per run, in mazes
BEHAVIOR = "behavior"
FAILED, LAST_GOOD = "failed.json", "last-good.safetensors"


@dataclass(frozen=True)
class _Look:
    """An evaluation that is due: whose, and what it watches for."""

    phase: str
    step: int
    agent: Agent
    guard: Guard


class Recorder:
    """Evaluates the runs of a session and keeps what there is to report.

    Args:
        work: the runs.
        phase: "offline" or "online".
        agent: what is trained.
        workers: processes that step the evaluation's environments.
        health: the runs' health, which withholds the results of failed ones.
        tick: called at every step of an evaluation that is waited for; may raise to stop it.
        beside: evaluate copies of the agent while training goes on. The results are the same; they come later.
    """

    def __init__(
        self,
        work: Batchwork,
        phase: str,
        agent: Agent,
        workers: int,
        health: Health,
        tick: Callable[[], None] = lambda: None,
        *,
        beside: bool = False,
    ) -> None:
        self.work, self.phase, self.agent, self.health, self.tick = work, phase, agent, health, tick
        self.evaluations: list[Row] = []
        self.logs: list[Row] = []
        self.paths: dict[str, list[list[NDArray[np.float32]]]] = {}
        settings = work.params.evaluation
        # One worker would only add a process: a single-threaded shard steps its environments itself.
        options: dict[str, Any] = {"workers": workers if workers > 1 else 0, "record": RECORDED, "device": work.device}
        options |= {"episodes": settings.episodes, "seed": settings.seed}
        options |= {"success_timing": work.params.offline.success_timing}
        tasks = [run.task for run in work.runs]
        self.evaluator = Evaluator(work.spec, tasks, **options) if work.spec.simulated else Estimator(work)
        self.background = BackgroundEvaluator(self.evaluator) if beside else None
        self.pending: deque[_Look] = deque()
        self.news: list[str] = []

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What is kept so far and what is being evaluated, for a checkpoint."""
        tensors = {
            f"path/{phase}/{run}/{i}": torch.from_numpy(path)
            for phase, paths in self.paths.items()
            for run, of_run in enumerate(paths)
            for i, path in enumerate(of_run)
        }
        for i, look in enumerate(self.pending):
            tensors |= {f"pending/{i}/{name}": tensor for name, tensor in look.agent.state_dict().items()}
        return tensors, {
            "evaluations": self.evaluations,
            "logs": self.logs,
            "paths": [*self.paths],
            "pending": [[look.phase, look.step, sorted(look.guard.had_failed)] for look in self.pending],
        }

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self.evaluations, self.logs = info["evaluations"], info["logs"]
        counts = range(self.evaluator.record)
        self.paths = {
            phase: [[tensors[f"path/{phase}/{run}/{i}"].numpy() for i in counts] for run in range(len(self.work.runs))]
            for phase in info["paths"]
        }
        for i, (phase, step, failed) in enumerate(info["pending"]):
            agent, prefix = _copy(self.agent), f"pending/{i}/"
            agent.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
            self._start(_Look(phase, step, agent, self.health.watch(failed)))

    @property
    def success(self) -> float | None:
        """Of the last evaluation of the policies, the mean over runs; None before the first, and where it is none."""
        rows = [row for row in self.evaluations if row["phase"] == self.phase and row["success"] is not None]
        last = [row["success"] for row in rows if row["step"] == rows[-1]["step"]]
        return sum(last) / len(last) if last else None

    def evaluate(self, step: int) -> list[str]:
        """Evaluate the policies, unless that is done; return a line about each evaluation that has finished."""
        return self._evaluate(self.phase, step)

    def evaluate_behavior(self) -> list[str]:
        """Evaluate the behaviour policy on the same episodes, where the agent has one; otherwise as `evaluate`."""
        return self._evaluate(BEHAVIOR, 0) if type(self.agent).behave is not Agent.behave else []

    def finish(self) -> Iterator[str]:
        """Wait for what is pending; give lines as `evaluate` does, each when it is known."""
        yield from self._news()
        while self.pending and self.background is not None:
            self.tick()
            self._collect(self.background.wait(timeout=0.1))
            yield from self._news()

    def _evaluate(self, phase: str, step: int) -> list[str]:
        if self.background is not None:
            self._collect(self.background.finished())
        done = [(row["phase"], row["step"]) for row in self.evaluations]
        if (phase, step) not in done + [(look.phase, look.step) for look in self.pending]:
            agent = self.agent if self.background is None else _copy(self.agent)
            self._start(_Look(phase, step, agent, self.health.watch()))
        return self._news()

    def _start(self, look: _Look) -> None:
        if self.background is None:
            self._keep(look, self.evaluator.evaluate(self._act(look)))
        else:
            self.pending.append(look)
            self.background.submit(look.step, self._act(look))

    def _collect(self, results: Sequence[tuple[int, Evaluation | Estimate]]) -> None:
        for _, result in results:
            self._keep(self.pending.popleft(), result)

    def _news(self) -> list[str]:
        news, self.news = self.news, []
        return news

    def _act(self, look: _Look) -> Act:
        def act(observations: Tensor, streams: Any) -> Tensor:
            if self.background is None:
                self.tick()
            chosen = (
                look.agent.behave(observations, streams)
                if look.phase == BEHAVIOR
                else look.agent.act(observations, streams)[0]
            )
            return look.guard(torch.as_tensor(chosen))

        return act

    def _keep(self, look: _Look, result: Evaluation | Estimate) -> None:
        self.health.settle(look.guard, look.step)
        if isinstance(result, Estimate):
            what, rows = "value", result.rows(look.agent, look.phase == BEHAVIOR)
        else:
            if result.trajectories is not None:
                self.paths[look.phase] = result.trajectories
            what, rows = measured(result, self.work.spec)
        said = []
        for run, row in zip(self.work.runs, rows, strict=True):
            self.evaluations.append({"run": run.name, "phase": look.phase, "step": look.step, **row})
            told = format(row[what], ".0%" if what == "success" else ".4g") if row[what] is not None else "unknown"
            said.append(f"{run.name} {'failed' if run.name in self.health.failed else told}")
        if look.phase != BEHAVIOR:
            self.news.append(f"step {look.step}: {what} " + ", ".join(said))

    def log(self, step: int, logs: Logs) -> None:
        """Keep the training scalars, `[R]` each."""
        columns = {name: value.tolist() for name, value in logs.items()}
        for i, run in enumerate(self.work.runs):
            self.logs.append({"run": run.name, "step": step, **{name: values[i] for name, values in columns.items()}})

    def save(self, folder: Path, keys: dict[str, str], step: int, seconds: float) -> None:
        """Write every run's folder: its results, or why it failed. The runs together took `seconds`.

        A run that was finished before, and only went along with the others of its shard, is left as it is.
        """
        if isinstance(self.evaluator, Estimator) and step > 0:
            for run, fitted in zip(self.work.runs, self.evaluator.fitted(self.agent, self.tick), strict=True):
                last = [row for row in self.evaluations if row["run"] == run.name and row["phase"] == self.phase][-1]
                last.update(fitted)
        has_flow = any(map(self.agent.is_shared, self.agent.state_dict()))
        for i, run in enumerate(self.work.runs):
            target = folder / run.name
            if is_finished(target, keys[run.name]):
                continue
            open_again(target)
            if run.name in self.health.failed:
                (target / POLICY).unlink(missing_ok=True)
                write_json(target / FAILED, {"key": keys[run.name], **self.health.failed[run.name]})
                continue
            if self.paths:
                write_trajectories(target / "trajectories.npz", {phase: p[i] for phase, p in self.paths.items()})
            save_run(
                target,
                keys[run.name],
                run,
                parameters_of(self.agent, i, len(self.work.runs)),
                _of(run.name, self.evaluations),
                _of(run.name, self.logs),
                flow=self.work.flow_file(run) if has_flow else None,
                dataset=self.work.dataset,
                agent=self.work.agent,
                phase=self.phase,
                step=step,
                model=self.work.model,
                device=device_name(self.work.device),
                # Runs train together: each cost its share.
                seconds=round(seconds / len(self.work.runs), 3),
            )
            for name in (FAILED, LAST_GOOD, str(Path(LAST_GOOD).with_suffix(".json"))):
                (target / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up what is pending, and close the environments."""
        (self.background or self.evaluator).close()


def measured(result: Evaluation, spec: EnvironmentSpec) -> tuple[str, list[Row]]:
    """What is written of each run's episodes, and which of it counts: success, or the return where there is no such."""
    rows: list[Row] = [
        {
            "success": float(result.success[i].mean()),
            "episodes": result.success.shape[1],
            "return": float(result.returns[i].mean()),
            "length": float(result.lengths[i].mean()),
        }
        for i in range(len(result.success))
    ]
    if isinstance(spec, OwnSpec):
        for row, returns in zip(rows, result.returns, strict=True):
            row["return_std"] = float(returns.std())
            if spec.success == "none":
                row["success"] = None
    return "success" if rows[0]["success"] is not None else "return", rows


def _copy(agent: Agent) -> Agent:
    """A copy that training does not change, without the optimizers' moments."""
    return deepcopy(agent, {id(agent.optimizers): []})


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

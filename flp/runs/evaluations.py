"""The evaluations of a session's policies: those under way, and the results of those finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from flp.evaluation.background import BackgroundEvaluator, ImmediateEvaluator
from flp.evaluation.evaluator import Act, Evaluation, Evaluator, Row
from flp.parts.base import Agent
from flp.runs.estimates import Estimate, Estimator
from flp.runs.run_batch import RunBatch
from flp.supervision.health import Guard, Health

RECORDED = 10  # trajectories recorded per run, in mazes
BEHAVIOR = "behavior"
Judged = Evaluation | Estimate


@dataclass(frozen=True)
class _Pending:
    """An evaluation under way: of which policies, and the guard that notes which of them fail."""

    phase: str
    step: int
    agent: Agent
    guard: Guard


class Evaluations:
    """Evaluates the policies of a session and collects the results.

    Args:
        batch: the runs.
        phase: "offline" or "online".
        agent: the agent in training.
        workers: processes that step the environments.
        health: marks runs whose policy fails.
        tick: called regularly while the session waits for an evaluation; may raise to stop it.
        concurrent: evaluate copies of the agent while training continues. The results are the same; they arrive later.

    Attributes:
        rows: one per evaluation and run, with the columns of `evaluations.csv` and `run`.
        paths: recorded trajectories by phase, `paths[phase][run][episode]` `[T, 2]`.
        reached: which of them reach the goal, `reached[phase][run][episode]`.
        pending: the evaluations under way, oldest first.
    """

    def __init__(
        self,
        batch: RunBatch,
        phase: str,
        agent: Agent,
        workers: int,
        health: Health,
        tick: Callable[[], None] = lambda: None,
        *,
        concurrent: bool = False,
    ) -> None:
        self.batch, self.phase, self.agent, self.health, self.tick = batch, phase, agent, health, tick
        self.rows: list[Row] = []
        self.paths: dict[str, list[list[NDArray[Any]]]] = {}
        self.reached: dict[str, list[list[bool]]] = {}
        self.pending: deque[_Pending] = deque()
        self.evaluator = _evaluator(batch, workers) if batch.spec.simulated else Estimator(batch)
        self.concurrent = concurrent
        self.queue: BackgroundEvaluator[Judged] | ImmediateEvaluator[Judged] = (
            BackgroundEvaluator(self.evaluator) if concurrent else ImmediateEvaluator(self.evaluator, tick)
        )

    @property
    def success(self) -> float | None:
        """Mean over runs at the last evaluation of the policies; None before the first, or if success is undefined."""
        rows = [row for row in self.rows if row["phase"] == self.phase and row["success"] is not None]
        last = [row["success"] for row in rows if row["step"] == rows[-1]["step"]]
        return sum(last) / len(last) if last else None

    def evaluate(self, step: int) -> list[str]:
        """Start evaluating the policies, unless done or under way; return a message per evaluation just finished."""
        return self._evaluate(self.phase, step)

    def evaluate_behavior(self) -> list[str]:
        """As `evaluate`, for the behaviour policy on the same episodes, if the agent has one."""
        return self._evaluate(BEHAVIOR, 0) if type(self.agent).behave is not Agent.behave else []

    def drain(self) -> Iterator[str]:
        """Wait for all evaluations under way; yield their messages as they finish."""
        while self.pending:
            self.tick()
            yield from self._record(self.queue.wait(timeout=0.1))

    def _evaluate(self, phase: str, step: int) -> list[str]:
        messages = self._record(self.queue.finished())
        finished = {(row["phase"], row["step"]) for row in self.rows}
        if (phase, step) not in finished | {(pending.phase, pending.step) for pending in self.pending}:
            agent = _copy(self.agent) if self.concurrent else self.agent
            self._submit(_Pending(phase, step, agent, self.health.watch()))
        return messages + self._record(self.queue.finished())

    def _submit(self, pending: _Pending) -> None:
        self.queue.submit(pending.step, _guarded(pending))
        # Only now: an evaluation interrupted here, in the foreground, starts over and is not part of the state.
        self.pending.append(pending)

    def _record(self, results: Sequence[tuple[int, Judged]]) -> list[str]:
        """Record finished evaluations; return a message about each that is not of the behaviour policy."""
        messages = []
        for _, result in results:
            pending = self.pending.popleft()
            self.health.settle(pending.guard, pending.step)
            if result.trajectories is not None:
                self.paths[pending.phase] = result.trajectories
                self.reached[pending.phase] = (result.success[:, : self.evaluator.record] > 0).tolist()
            rows = result.rows(self.batch.spec, _no_value if pending.phase == BEHAVIOR else pending.agent.value)
            for run, row in zip(self.batch.runs, rows, strict=True):
                self.rows.append({"run": run.name, "phase": pending.phase, "step": pending.step, **row})
            if pending.phase != BEHAVIOR:
                messages.append(f"step {pending.step}: {self._message(rows)}")
        return messages

    def _message(self, rows: Sequence[Row]) -> str:
        """The measure that counts, of every run: success, else the return, else the estimated value."""
        measure = next((name for name in ("success", "return") if rows[0][name] is not None), "value")
        texts = []
        for run, row in zip(self.batch.runs, rows, strict=True):
            value = (
                "unknown" if row[measure] is None else format(row[measure], ".0%" if measure == "success" else ".4g")
            )
            texts.append(f"{run.name} {'failed' if run.name in self.health.failed else value}")
        return f"{measure} {', '.join(texts)}"

    def add_final_estimates(self) -> list[Row]:
        """Without a simulator, add fitted-Q evaluation to the last row of every run that has not failed.

        It trains ten critics per run. Returned are the added columns alone, with `run` and `step`.
        """
        runs = [i for i, run in enumerate(self.batch.runs) if run.name not in self.health.failed]
        if not runs or not isinstance(self.evaluator, Estimator):
            return []
        added: list[Row] = []
        for i, estimate in zip(runs, self.evaluator.fitted(self.agent, runs, self.tick), strict=True):
            name = self.batch.runs[i].name
            last = [row for row in self.rows if row["run"] == name and row["phase"] == self.phase][-1]
            last.update(estimate)
            added.append({"run": name, "step": last["step"], **estimate})
        return added

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The results so far and the policies under evaluation, for a checkpoint."""
        tensors = {
            f"path/{phase}/{run}/{i}": torch.from_numpy(path)
            for phase, paths in self.paths.items()
            for run, of_run in enumerate(paths)
            for i, path in enumerate(of_run)
        }
        for i, pending in enumerate(self.pending):
            tensors |= {f"pending/{i}/{name}": tensor for name, tensor in pending.agent.state_dict().items()}
        return tensors, {
            "evaluations": self.rows,
            "reached": self.reached,
            "pending": [[pending.phase, pending.step, sorted(pending.guard.had_failed)] for pending in self.pending],
        }

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Restore what `state` returned, and start the pending evaluations again."""
        self.rows = info["evaluations"]
        runs, episodes = range(len(self.batch.runs)), range(self.evaluator.record)
        self.paths = {
            phase: [[tensors[f"path/{phase}/{run}/{i}"].numpy() for i in episodes] for run in runs]
            for phase in info["reached"]
        }
        self.reached = info["reached"]
        for i, (phase, step, failed) in enumerate(info["pending"]):
            agent, prefix = _copy(self.agent), f"pending/{i}/"
            agent.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
            self._submit(_Pending(phase, step, agent, self.health.watch(failed)))

    def close(self) -> None:
        """Abandon what is pending, and close the environments."""
        self.queue.close()


def _evaluator(batch: RunBatch, workers: int) -> Evaluator:
    settings = batch.params.evaluation
    return Evaluator(
        batch.spec,
        [run.task for run in batch.runs],
        episodes=settings.episodes,
        seed=settings.seed,
        # A single worker process would gain nothing: a single-threaded shard steps its environments itself.
        workers=workers if workers > 1 else 0,
        success_timing=batch.params.offline.success_timing,
        record=RECORDED,
        device=batch.device,
    )


def _guarded(pending: _Pending) -> Act:
    """The policies of an evaluation, or the behaviour policy, with zeros for the actions of failed runs."""

    def act(observations: Tensor, streams: Any) -> Tensor:
        if pending.phase == BEHAVIOR:
            return pending.guard(torch.as_tensor(pending.agent.behave(observations, streams)))
        return pending.guard(pending.agent.act(observations, streams))

    return act


def _no_value(observations: Tensor, actions: Tensor) -> None:
    """A critic judges the policy's actions, not the behaviour's."""


def _copy(agent: Agent) -> Agent:
    """A copy that training does not modify, without the optimizers' moments."""
    return deepcopy(agent, {id(agent.optimizers): []})

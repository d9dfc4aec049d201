"""A training session: the runs of one shard, trained, evaluated, checkpointed and written to their folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from flp.learner.devices import set_up
from flp.learner.trainable import Logs
from flp.learner.trainer import CHUNK
from flp.runs.evaluations import Evaluations
from flp.runs.job import JobSpec
from flp.runs.run_batch import RunBatch
from flp.runs.shards import Shard
from flp.runs.training_log import TrainingLog
from flp.runs.turns import Turns
from flp.runs.writing import save_last_good, write_runs
from flp.supervision.boards import Boards
from flp.supervision.health import Health, HopelessError
from flp.supervision.status import Status
from flp.system import layout
from flp.system.artifacts import read_entries
from flp.system.errors import FLPError
from flp.system.progress import Progress
from flp.system.resume import Resume, State, join


def evaluates_concurrently(device: torch.device) -> bool:
    """Whether training continues during an evaluation: on a GPU; on a CPU the two would compete for the cores."""
    return device.type == "cuda"


class Part(Protocol):
    """A part of a checkpoint."""

    def state(self) -> State:
        """What this part resumes from."""

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Restore what `state` returned."""


class Session(AbstractContextManager["Session", None]):
    """The runs of one shard in training; close it, or use it as a context manager.

    Args:
        spec: what the job trains.
        shard: the runs.
        turns: when they may compute.
        steps: gradient steps.
        capacity: online transitions to allocate per run.
        capture: replay updates as a CUDA graph.
        starts: checksums of the policies that the runs start from, by the run's name.
    """

    def __init__(
        self,
        spec: JobSpec,
        shard: Shard,
        turns: Turns,
        steps: int,
        *,
        capacity: int = 0,
        capture: bool = True,
        starts: dict[str, str] | None = None,
    ) -> None:
        params, phase = spec.params, spec.phase
        device = set_up(shard.threads, spec.device, params.offline.precision)
        self.spec, self.turns, self.steps = spec, turns, steps
        self.batch = RunBatch(spec.dataset, spec.agent, shard.runs, params, device)
        self.agent, self.replay = self.batch.load(capacity)
        data = layout.DATA.format(dataset=spec.dataset) + ".json"
        self.trainer = self.batch.trainer(self.agent, self.replay, phase, steps, capture=capture)
        made_by = {"flows": self.batch.flow_digests, "data": read_entries(data).get("files"), "policies": starts}
        self.resume = Resume(shard.folder, clock=turns.clock, made_by=made_by)

        label, names = f"{spec.agent} {spec.dataset} {phase}", [run.name for run in shard.runs]
        about = {"stage": spec.stage, "dataset": spec.dataset, "agent": spec.agent}
        self.status = Status(shard.folder, steps, **about, makes=str(spec.folder), runs=names)
        self.progress = Progress(label, steps, quiet=turns.index > 0, tell=self.status.reach)
        self.boards = Boards(
            params.report, spec.folder, self.batch.hyperparameters, {r.name: asdict(r) for r in shard.runs}
        )
        self.health = Health(
            label,
            names,
            params.offline,
            self.replay,
            self.agent,
            partial(save_last_good, self.batch, self.resume, spec.folder, spec.keys),
            rate=self.batch.rate(phase),
            own=not self.batch.spec.of_ogbench,
        )

        self.log = TrainingLog(shard.runs)
        self.evaluations = Evaluations(
            self.batch,
            phase,
            self.agent,
            shard.threads,
            self.health,
            self._tick,
            concurrent=evaluates_concurrently(device),
        )
        self.parts: list[Part] = [self.trainer, self.evaluations, self.log, self.health]

    def state(self) -> State:
        """Everything the session resumes from."""
        return join(*(part.state() for part in self.parts))

    def resume_training(self) -> bool:
        """Continue from the last checkpoint; return whether there is one."""
        saved = self.resume.start()
        if saved is None:
            return False
        for part in self.parts:
            part.restore(*saved)
        self.status.note(success=self.evaluations.success)
        return True

    def evaluate(self, step: int) -> None:
        """Evaluate the policies."""
        self._report(partial(self.evaluations.evaluate, step))

    def evaluate_behavior(self) -> None:
        """Evaluate the behaviour policy, if there is one, when it is this shard's turn."""
        with self.turns(self.trainer.step):
            self._report(self.evaluations.evaluate_behavior)

    def _tick(self) -> None:
        """Called at every step of an evaluation that training waits for."""
        left = len(self.evaluations.pending)
        self.progress.beat(f"evaluating, {left} to go" if left > 1 else "evaluating")
        self.resume.stop_if_asked(self.state)

    def _report(self, evaluate: Callable[[], Iterable[str]]) -> None:
        """Evaluate, and show the results that have arrived."""
        with self.progress.section("evaluation"):
            for message in evaluate():
                self.progress.say(message)
        self.status.note(success=self.evaluations.success)
        self.boards.follow("evaluation", self.evaluations.rows)

    def fit(self, before_update: Callable[[], None] | None = None) -> None:
        """Train to the end and write the runs' folders.

        Raises:
            FLPError: runs have failed; the others are written.
            InterruptedJobError: a signal came; the state is saved.
        """
        every = self.batch.params.evaluation.every

        def at_stop(step: int, logs: Logs) -> None:
            self.health.look(step, logs)
            if step % every == 0 or step == self.steps:
                self.evaluate(step)
            self.log.add(step, logs)
            self.boards.follow("training", self.log.rows)

        def checkpoint() -> None:
            with self.progress.section("checkpoint"):
                self.resume.maybe(self.state)

        stops = (max(CHUNK if before_update is None else 1, self.steps // 100), every)
        with suppress(HopelessError):
            self.trainer.fit(self.steps, stops, at_stop, checkpoint, self.progress, before_update, self.turns)
            self._report(self.evaluations.drain)
            if self.steps > 0:
                with self.turns(self.steps):
                    estimates = self.evaluations.add_final_estimates()
                self.boards.follow("estimates", estimates)
            self.progress.close()
        write_runs(
            self.batch,
            self.agent,
            self.evaluations,
            self.log,
            self.spec.folder,
            self.spec.keys,
            self.steps,
            self.resume.seconds,
        )
        self.resume.clear()
        if self.health.failed:
            raise FLPError(self.health.message())

    def close(self) -> None:
        """Close the environments and the boards."""
        self.evaluations.close()
        self.boards.close()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.status.fail_on(error)
        self.close()

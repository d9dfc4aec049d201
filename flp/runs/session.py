"""A training session, offline or online: runs dealt to shards, trained, evaluated, checkpointed and written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from flp.learner.devices import choose_device, set_up
from flp.learner.trainable import Logs
from flp.learner.trainer import CHUNK
from flp.params.loading import Params
from flp.params.run import Run
from flp.runs.batchwork import Batchwork
from flp.runs.recorder import Recorder, keep_last_good
from flp.runs.run_folder import adopt, clear_others, is_finished
from flp.runs.shards import Shard, Work, plan, run_shards
from flp.runs.turns import Turns
from flp.supervision.boards import Boards
from flp.supervision.foresight import foresee_training
from flp.supervision.health import Health, HopelessError
from flp.supervision.status import Status
from flp.system.artifacts import made_with, write_json
from flp.system.errors import FLPError
from flp.system.forced import discard_if_forced
from flp.system.locks import alone
from flp.system.progress import Progress
from flp.system.resume import Resume, State, join


@dataclass(frozen=True)
class Assignment:
    """What a job is to make; it goes to every shard's process.

    Attributes:
        stage: the stage's name, such as "offline-train".
        dataset: the dataset's name.
        agent: the algorithm's name.
        params: the dataset's parameters.
        device: the `--device`.
        folder: where the runs' folders go.
        keys: every run's key by its name.
    """

    stage: str
    dataset: str
    agent: str
    params: Params
    device: str
    folder: Path
    keys: dict[str, str]

    @property
    def phase(self) -> str:
        """Either `offline` or `online`."""
        return self.stage.partition("-")[0]


def carry_out(
    assignment: Assignment,
    runs: list[Run],
    key: str,
    work: Work,
    threads: int,
    *,
    capacity: int = 0,
    lenders: Sequence[Path] = (),
) -> None:
    """Train the runs that are not there yet, in shards, and write the job's manifest.

    Args:
        assignment: what to make.
        runs: every run of the job.
        key: the job's key.
        work: trains one shard.
        threads: CPU threads of the job.
        capacity: online transitions to keep per run.
        lenders: folders of other jobs whose finished runs are taken over, where their keys are these runs'.
    """
    a, folder, keys = assignment, assignment.folder, assignment.keys
    device = choose_device(a.device)
    with alone(str(folder)):
        if not discard_if_forced(folder, [folder / name for name in keys]):
            adopt(folder, keys, lenders)
        clear_others(folder, list(keys))
        missing = [run for run in runs if not is_finished(folder / run.name, keys[run.name])]
        if missing:
            shards = plan(a.stage, runs, missing, keys, threads, device.type)
            foresee_training(a.params, a.dataset, a.agent, [shard.runs for shard in shards], capacity, device)
            run_shards(work, shards, threads, together=device.type == "cpu")
        manifest = {"key": key, "dataset": a.dataset, "agent": a.agent, "runs": keys}
        write_json(folder / "manifest.json", manifest | made_with())


def evaluates_beside(device: torch.device) -> bool:
    """Whether training goes on during an evaluation: on a GPU, for on a CPU the two would share the cores."""
    return device.type == "cuda"


class Part(Protocol):
    """What a checkpoint consists of."""

    def state(self) -> State:
        """What this part goes on from."""

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Put back what `state` gave."""


class Session(AbstractContextManager["Session", None]):
    """The runs of one shard in training; close it, or use it as a context manager.

    Args:
        assignment: what is made.
        shard: the runs.
        turns: when they may compute.
        steps: gradient steps.
        capacity: online transitions to make room for, per run.
        capture: replay updates as a CUDA graph.
    """

    def __init__(
        self, assignment: Assignment, shard: Shard, turns: Turns, steps: int, *, capacity: int = 0, capture: bool = True
    ) -> None:
        params, phase = assignment.params, assignment.phase
        device = set_up(shard.threads, assignment.device, params.offline.precision)
        self.assignment, self.turns, self.steps = assignment, turns, steps
        self.work = Batchwork(assignment.dataset, assignment.agent, shard.runs, params, device)
        self.agent, self.replay = self.work.load(capacity)
        self.trainer = self.work.trainer(self.agent, self.replay, phase, steps, capture=capture)
        self.resume = Resume(shard.folder, clock=turns.clock)
        label = f"{assignment.agent} {assignment.dataset} {phase}"
        names = [run.name for run in shard.runs]
        about = {"stage": assignment.stage, "dataset": assignment.dataset, "agent": assignment.agent}
        self.status = Status(shard.folder, steps, **about, makes=str(assignment.folder), runs=names)
        self.progress = Progress(label, steps, quiet=turns.index > 0, tell=self.status.reach)
        rescue = partial(keep_last_good, self.work, self.resume, assignment.folder, assignment.keys)
        own = not self.work.spec.of_ogbench
        self.health = Health(
            label, names, params.offline, self.replay, self.agent, rescue, rate=self.work.rate(phase), own=own
        )
        beside = evaluates_beside(device)
        self.boards = Boards(params.report, assignment.folder, self.work.shown, {r.name: asdict(r) for r in shard.runs})
        self.recorder = Recorder(self.work, phase, self.agent, shard.threads, self.health, self._tick, beside=beside)
        self.parts: list[Part] = [self.trainer, self.recorder, self.health]

    def state(self) -> State:
        """Everything the session goes on from."""
        return join(*(part.state() for part in self.parts))

    def go_on(self) -> bool:
        """Continue from the last checkpoint; return whether there is one."""
        saved = self.resume.start()
        if saved is None:
            return False
        for part in self.parts:
            part.restore(*saved)
        self.status.note(success=self.recorder.success)
        return True

    def evaluate(self, step: int) -> None:
        """Evaluate the policies."""
        self._say(partial(self.recorder.evaluate, step))

    def evaluate_behavior(self) -> None:
        """Evaluate the behaviour policy, where there is one, when it is this shard's turn."""
        with self.turns(self.trainer.step):
            self._say(self.recorder.evaluate_behavior)

    def _tick(self) -> None:
        """What every step of an evaluation that is waited for does."""
        left = len(self.recorder.pending)
        self.progress.beat(f"evaluating, {left} to go" if left > 1 else "evaluating")
        self.resume.stop_if_asked(self.state)

    def _say(self, evaluate: Callable[[], Iterable[str]]) -> None:
        with self.progress.section("evaluation"):
            for line in evaluate():
                self.progress.say(line)
        self.status.note(success=self.recorder.success)
        self.boards.follow("evaluation", self.recorder.evaluations)

    def fit(self, before_update: Callable[[], None] | None = None) -> None:
        """Train to the end and write the runs down.

        Raises:
            FLPError: runs have failed; the others are written.
            InterruptedJobError: a signal came; the state is saved.
        """
        every = self.work.params.evaluation.every

        def at_stop(step: int, logs: Logs) -> None:
            self.health.look(step, logs)
            if step % every == 0 or step == self.steps:
                self.evaluate(step)
            self.recorder.log(step, logs)
            self.boards.follow("training", self.recorder.logs)

        def checkpoint() -> None:
            with self.progress.section("checkpoint"):
                self.resume.maybe(self.state)

        stops = (max(CHUNK if before_update is None else 1, self.steps // 100), every)
        with suppress(HopelessError):
            self.trainer.fit(self.steps, stops, at_stop, checkpoint, self.progress, before_update, self.turns)
            self._say(self.recorder.finish)
            self.progress.close()
        self.recorder.save(self.assignment.folder, self.assignment.keys, self.steps, self.resume.seconds)
        self.resume.clear()
        if self.health.failed:
            raise FLPError(self.health.message())

    def close(self) -> None:
        """Close the environments and the boards."""
        self.recorder.close()
        self.boards.close()

    def __exit__(self, *exception: object) -> None:
        self.close()

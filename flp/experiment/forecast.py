"""How long an experiment will take: its work (`workload`) times its pieces' seconds, dealt to the cores as jobs are.

What finished runs took counts before what was measured, and that before what a usual core takes.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Any

from flp.experiment.keys import Keys
from flp.experiment.workload import Job, jobs, known_spec
from flp.params.loading import Params
from flp.params.sections import Flow, Offline
from flp.supervision.speeds import Book, Piece, Pieces
from flp.system import layout
from flp.system.artifacts import read_entries

START = 5.0  # seconds of a core in which a process imports what it needs
_REPORT = 10.0, 0.1  # seconds of the page, and for each run on it
_JUDGING = 0.07  # the tests of a flow, in the time of its training
TRAINS = ("offline_train", "online_finetune")
_ON_GPU = {"pretrain_flow", "invert_to_latent", *TRAINS}


class Forecast:
    """What is to be expected.

    Args:
        keys: the experiment.
        book: what is known of the pieces.
        cores: CPU cores.
        gpu: whether learning happens on a GPU, one job at a time.
        recorded: let finished runs of the same sizes and settings count.
    """

    def __init__(self, keys: Keys, book: Book, cores: int, *, gpu: bool = False, recorded: bool = False) -> None:
        self.keys, self.book, self.cores, self.gpu, self.recorded = keys, book, cores, gpu, recorded
        self.jobs = jobs(keys)
        self.sources: Counter[str] = Counter()
        self.unknown: list[str] = []
        self.seconds = {job.name: self._seconds(job) for job in self.jobs}

    @cached_property
    def parts(self) -> dict[str, float]:
        """Seconds of every stage, and of every algorithm in it, had it the cores for itself."""
        heads = dict.fromkeys(job.part for job in self.jobs)
        return {head: self._makespan([job for job in self.jobs if job.part == head]) for head in heads}

    @cached_property
    def total(self) -> float:
        """Seconds of all of it, in the order of the graph."""
        return self._makespan(self.jobs)

    def _makespan(self, todo: list[Job]) -> float:
        """Seconds until all are done, where each begins as soon as it has its inputs and its cores."""
        waiting, running, now = list(todo), list[tuple[float, str, int, bool]](), 0.0
        left, cores, gpus = {job.name for job in todo}, self.cores, 1
        while waiting or running:
            for job in list(waiting):
                threads, gpu = min(job.threads, self.cores), self._on_gpu(job)
                if threads <= cores and gpu <= gpus and left.isdisjoint(job.needs):
                    waiting.remove(job)
                    cores, gpus = cores - threads, gpus - gpu
                    heapq.heappush(running, (now + self.seconds[job.name], job.name, threads, gpu))
                if cores == 0:
                    break
            now, name, threads, gpu = heapq.heappop(running)
            left.remove(name)
            cores, gpus = cores + threads, gpus + gpu
        return now

    def _on_gpu(self, job: Job) -> bool:
        return self.gpu and job.stage in _ON_GPU

    def _seconds(self, job: Job) -> float:
        """Seconds of one job."""
        if job.stage == "report":
            return START + _REPORT[0] + _REPORT[1] * job.runs
        spec = known_spec(self.keys.params, job.dataset)
        if spec is None:
            self.unknown.append(job.name)
            return 0.0
        params, threads = self.keys.agent_params(job.dataset, job.agent), min(job.threads, self.cores)
        pieces = Pieces(spec, params)
        if job.stage in TRAINS:
            return self._training(job, params, pieces, threads)
        if job.stage == "pretrain_flow":
            if self.recorded and (took := flow_took(job, params, pieces)) is not None:
                return START + self._tell("recorded", took)
            return START + job.updates * self._of(pieces.flow())
        made = job.stage == "download_dataset"
        if not (job.rows or made):
            self.unknown.append(job.name)
        each = self._of(pieces.generation() if made else pieces.inversion()) if job.rows else 0.0
        judged = 0.0 if made else _JUDGING * params.flow.steps * self._of(pieces.flow())
        return START + judged + job.rows * each * (1.0 if self._on_gpu(job) else self._crowd(threads) / threads)

    def _training(self, job: Job, params: Params, pieces: Pieces, threads: int) -> float:
        """Seconds of a job's runs: dealt to processes that take turns on the threads, or on a GPU stacked in one."""
        processes = 1 if self.gpu else dealt(job.runs, threads)
        stacked = ceil(job.runs / processes)
        # Runs whose time passes one after the other.
        in_turn = stacked if self.gpu else max(stacked, job.runs / threads)
        started = START * (1 + (processes > 1) * processes / threads)
        if self.recorded and (took := runs_took(job, params, pieces, gpu=self.gpu)) is not None:
            return started + self._tell("recorded", took) * in_turn * job.weight / job.runs
        trained = job.updates * self._of(pieces.update(job.agent, stacked)) * job.weight / job.runs
        if params.offline.compile and job.updates:
            trained += self._of(pieces.compilation(job.agent))
        workers = threads if self.gpu else 1
        played = self._evaluations(job, params, pieces, stacked, workers)
        if self.gpu:  # which trains beside evaluations
            return started + max(trained, played) + self._steps(job, pieces, stacked, workers)
        once = trained + played + self._steps(job, pieces, stacked, workers)
        busy = sum(min(other.threads, self.cores) for other in self.jobs if other.stage == job.stage)
        return started + once * in_turn / stacked * self._crowd(min(self.cores, busy))

    def _evaluations(self, job: Job, params: Params, pieces: Pieces, runs: int, workers: int) -> float:
        """Seconds of so many runs' evaluations, their episodes played to the end; models' estimates are not counted."""
        spec, episodes = pieces.spec, params.evaluation.episodes
        if not spec.simulated:
            return 0.0
        played = runs * episodes / workers * (spec.horizon * self._of(pieces.step()) + self._of(pieces.reset()))
        return job.evaluations * (spec.horizon * self._of(pieces.act(job.agent, runs, episodes)) + played)

    def _steps(self, job: Job, pieces: Pieces, runs: int, workers: int) -> float:
        """Seconds of the steps between updates."""
        if not job.steps:
            return 0.0
        return job.steps * (self._of(pieces.act(job.agent, runs)) + runs / workers * self._of(pieces.step()))

    def _crowd(self, busy: int) -> float:
        """How many times longer a core takes when so many are busy."""
        return 1 + (self.book.crowding - 1) * (busy - 1) / max(1, self.cores - 1)

    def _of(self, piece: Piece) -> float:
        return self._tell(self.book.how(piece), self.book.seconds(piece))

    def _tell(self, how: str, seconds: float) -> float:
        self.sources[how] += 1
        return seconds


def dealt(runs: int, threads: int) -> int:
    """Processes that runs are dealt to: one for a thread alone, else up to two for each."""
    return 1 if threads == 1 else min(runs, 2 * threads)


def runs_took(job: Job, params: Params, pieces: Pieces, *, gpu: bool = False) -> float | None:
    """Seconds of a run, by finished ones of the same sizes and settings; None where there are none."""
    pattern = layout.OFFLINE if job.stage == "offline_train" else layout.ONLINE
    wanted = pieces.update(job.agent)

    def took(manifest: dict[str, Any]) -> float | None:
        offline = Offline.model_validate(manifest["model"]["offline"])
        like = Pieces(pieces.spec, params.model_copy(update={"offline": offline})).update(job.agent)
        if like != wanted or manifest["variant"] or (manifest["device"] != "cpu") != gpu:
            return None
        share = job.updates / manifest["step"] if job.updates else 1.0
        return share * float(manifest["seconds"])

    return _recorded(pattern.format(dataset=job.dataset, agent=job.agent, seeds="*") + "/*/policy.json", took)


def flow_took(job: Job, params: Params, pieces: Pieces) -> float | None:
    """Seconds of a flow's training, by finished ones of the same sizes; None where there are none."""

    def took(manifest: dict[str, Any]) -> float | None:
        flow = Flow.model_validate(manifest["parameters"])
        if Pieces(pieces.spec, params.model_copy(update={"flow": flow})).flow() != pieces.flow():
            return None
        return job.updates / flow.steps * float(manifest["seconds"])

    return _recorded(layout.FLOW.format(dataset=job.dataset, seed="*") + ".json", took)


def _recorded(pattern: str, took: Callable[[dict[str, Any]], float | None]) -> float | None:
    """The mean of what manifests tell, those left out that are of another version, or none of ours."""
    found = []
    for file in Path().glob(pattern):
        with suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
            found.append(took(read_entries(file)))
    told = [seconds for seconds in found if seconds is not None]
    return mean(told) if told else None

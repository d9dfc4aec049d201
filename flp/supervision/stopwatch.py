"""The pipeline's operations timed on this machine: its own code and sizes, on random numbers, without any data.

Everything is timed as the pipeline runs it: on a CPU on one thread, except a large flow's training and inversion. There
processor time counts, so that other programs, which come and go, do not distort a measurement.
"""

from __future__ import annotations

import io
import itertools
import resource
import time
from collections.abc import Callable
from contextlib import closing, redirect_stderr
from statistics import median

import numpy as np
import torch
from torch._inductor.utils import fresh_cache

from flp.data.environments import EnvironmentSpec, seeded_reset
from flp.data.episodes import Collector, Recipe
from flp.flow.behavior import Flow
from flp.flow.inversion import invert
from flp.flow.matching import FlowLearner, Pairs
from flp.learner import devices
from flp.learner.compiled import Compiled
from flp.learner.trainer import CHUNK, Trainer
from flp.params.loading import Params
from flp.randomness.streams import RunStreams
from flp.supervision.synthetic import random_tensor, random_trainer, untrained_agent, untrained_flow
from flp.system.errors import FLPError

ROWS, EPISODE = 20_000, 200
INVERTED = 1024  # actions at a time: enough to be as fast as with invert.batch_size


class Stopwatch:
    """Times the operations on one dataset.

    Args:
        spec: the dataset's sizes and environment.
        device: the training device.
        slice_: seconds to spend on an operation, at least; a single call may take longer.
    """

    def __init__(self, spec: EnvironmentSpec, device: torch.device, slice_: float) -> None:
        self.spec, self.device, self.slice = spec, device, slice_
        self.sizes = spec.observation_dim, spec.action_dim

    def update(self, params: Params, agent: str, precision: str, *, compile_: bool, runs: int) -> tuple[float, float]:
        """Seconds of an update of this many runs at once, and of the first call, which compiles.

        Raises:
            FLPError: the update cannot be compiled here.
        """
        if self.device.type == "cuda":
            devices.release_memory()  # of what was measured before
        offline = params.offline.model_copy(update={"precision": precision, "compile": compile_})
        learner = untrained_agent(agent, offline, self._flow(params, runs), self.sizes, runs)
        trainer = random_trainer(learner, offline, self.sizes, runs, self.device, rows=ROWS, episode=EPISODE)
        with devices.threads(1), devices.matmul_precision(precision), fresh_cache(), redirect_stderr(io.StringIO()):
            first = self._timed(lambda: trainer.run_chunk(1))
            if isinstance(trainer.step_fn, Compiled) and trainer.step_fn.failure:
                raise FLPError(trainer.step_fn.failure)
            return self._learning(trainer), first

    def flow(self, params: Params, threads: int) -> float:
        """Seconds of a step of flow matching."""
        observations, actions = (random_tensor(ROWS, size, device=self.device) for size in self.sizes)
        pairs = Pairs(observations, actions, torch.arange(ROWS, device=self.device))
        learner = FlowLearner(self._flow(params).field, params.flow.learning_rate, draws=params.flow.draws)
        with devices.threads(threads):
            trainer = Trainer(learner, pairs, RunStreams([0], self.device), params.flow.batch_size)
            return self._learning(trainer) / (1 if self.device.type == "cuda" else threads)

    def inversion(self, params: Params, threads: int) -> float:
        """Seconds of an action's inversion and the way back; on a CPU, of all threads together."""
        flow, size = self._flow(params).freeze(), min(INVERTED, params.invert.batch_size)
        count = size * threads
        observations, actions = (random_tensor(count, width, device=self.device) for width in self.sizes)
        with devices.threads(1):
            return self._repeated(lambda: invert(flow, observations, actions, size, threads)) / count

    def act(self, params: Params, agent: str, runs: int, episodes: int) -> float:
        """Seconds of a choice of actions, for every episode of every run."""
        learner = untrained_agent(agent, params.offline, self._flow(params, runs), self.sizes, runs)
        streams = RunStreams(list(range(runs)), self.device)
        observations = random_tensor(runs, episodes, self.spec.observation_dim, device=self.device)
        with devices.threads(1), torch.inference_mode():
            return self._repeated(lambda: learner.act(observations, streams).cpu())

    def steps(self, params: Params) -> tuple[float, float]:
        """Seconds of a step of the environment, and of a reset."""
        with closing(self.spec.make(1, params.offline.success_timing)) as env:
            seeded_reset(env, 0)  # compiles the model
            actions = np.random.default_rng(0).uniform(-1, 1, (64, self.spec.action_dim))
            reset = self._timed(lambda: seeded_reset(env, 1))

            def play() -> None:
                for action in actions:
                    env.step(action.astype(np.float32))

            return self._repeated(play) / len(actions), reset

    def generation(self, params: Params, noise: float) -> float:
        """Seconds of a generated row."""
        settings = params.download
        collector = Collector(Recipe(self.spec.dataset, EPISODE, settings.seed, noise, settings.policy))
        numbers = itertools.count()
        return self._repeated(lambda: collector.episode(next(numbers))) / EPISODE

    def _learning(self, trainer: Trainer) -> float:
        """Seconds of an update: on a GPU of a captured one, elsewhere in chunks as long as the slice allows."""
        one = self._timed(lambda: trainer.run_chunk(1))
        count = CHUNK if self.device.type == "cuda" else max(1, min(CHUNK, int(self.slice / 3 / one)))
        if self.device.type == "cuda":
            trainer.run_chunk(CHUNK)
            trainer.run_chunk(CHUNK)
        return self._repeated(lambda: trainer.run_chunk(count), warm=False) / count

    def _repeated(self, work: Callable[[], object], *, warm: bool = True) -> float:
        """Median seconds of a call, over as many as fill the slice."""
        if warm:
            work()
        times, start = list[float](), time.perf_counter()
        while not times or time.perf_counter() - start < self.slice:
            times.append(self._timed(work))
        return median(times)

    def _timed(self, work: Callable[[], object]) -> float:
        """Seconds of a call: wall time on a GPU, else processor time, the compiler's processes included."""
        self._synchronize()
        start = self._now()
        work()
        self._synchronize()
        return self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            return time.perf_counter()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + usage.ru_utime + usage.ru_stime

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _flow(self, params: Params, runs: int = 1) -> Flow:
        return untrained_flow(params.flow, self.sizes, runs, self.device)

"""Pieces of the pipeline's work timed on this machine: its own code and sizes, on random numbers, without any data.

Everything is timed as the pipeline runs it: on a CPU on one thread, but for a large flow's training and for inversion.
There it is a core's time that counts, so that programs beside it, which come and go, neither spoil nor favour a piece.
"""

from __future__ import annotations

import io
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr
from statistics import median

import numpy as np
import torch
from torch._inductor.utils import fresh_cache

from flp.agents import make_agent
from flp.data.environments import EnvironmentSpec, seeded_reset
from flp.data.episodes import Collector, Recipe
from flp.flow.behavior import Flow
from flp.flow.inversion import invert
from flp.flow.matching import FlowLearner, Pairs
from flp.flow.velocity import VelocityField
from flp.learner.compiled import Compiled
from flp.learner.replay import Replay
from flp.learner.trainer import CHUNK, Trainer
from flp.params.loading import Params
from flp.parts.base import Agent, Spec
from flp.randomness.streams import RunStreams
from flp.system.errors import FLPError

ROWS, EPISODE = 20_000, 200
INVERTED = 1024  # actions at a time: enough to be as quick as invert.batch_size is


class Stopwatch:
    """Times the pieces of one dataset's work.

    Args:
        spec: the dataset's sizes and environment.
        device: where learning happens.
        slice_: seconds to spend on a piece, at least; one call of it may take longer.
    """

    def __init__(self, spec: EnvironmentSpec, device: torch.device, slice_: float) -> None:
        self.spec, self.device, self.slice = spec, device, slice_

    def update(self, params: Params, agent: str, precision: str, *, compile_: bool, runs: int) -> tuple[float, float]:
        """Seconds of an update of so many runs at once, and of the first call, which compiles.

        Raises:
            FLPError: the update cannot be compiled here.
        """
        learner = self._agent(params, agent, runs)
        compiled = Compiled(learner.update) if compile_ else None
        autocast = torch.bfloat16 if precision == "bfloat16" else None
        streams, size = RunStreams(list(range(runs)), self.device), params.offline.batch_size
        replay = self._replay(params, learner, runs)
        trainer = Trainer(learner, replay, streams, size, autocast=autocast, step_fn=compiled)
        with _one_thread(), _products(precision), fresh_cache():
            said = io.StringIO()
            with redirect_stderr(said):
                first = self._timed(lambda: trainer.run_chunk(1))
            if compiled is not None and compiled.call is compiled.update:
                raise FLPError(said.getvalue().strip().removeprefix("warning: offline.compile: ").partition(";")[0])
            return self._learning(trainer), first

    def flow(self, params: Params, threads: int) -> float:
        """Seconds of a step of flow matching."""
        flow, rows = self._flow(params), torch.arange(ROWS, device=self.device)
        pairs = Pairs(self._normal(ROWS, self.spec.observation_dim), self._normal(ROWS, self.spec.action_dim), rows)
        learner = FlowLearner(flow.field, params.flow.learning_rate, draws=params.flow.draws)
        with _one_thread(threads):
            trainer = Trainer(learner, pairs, RunStreams([0], self.device), params.flow.batch_size)
            return self._learning(trainer) / (1 if self.device.type == "cuda" else threads)

    def inversion(self, params: Params, threads: int) -> float:
        """Seconds of an action's inversion and return, on a CPU of all threads together."""
        flow, size = self._flow(params).freeze(), min(INVERTED, params.invert.batch_size)
        count = size * threads
        observations, actions = (self._normal(count, dim) for dim in (self.spec.observation_dim, self.spec.action_dim))
        with _one_thread():
            return self._repeated(lambda: invert(flow, observations, actions, size, threads)) / count

    def act(self, params: Params, agent: str, runs: int, episodes: int) -> float:
        """Seconds of a choice of actions, for every episode of every run."""
        learner, streams = self._agent(params, agent, runs), RunStreams(list(range(runs)), self.device)
        observations = self._normal(runs * episodes, self.spec.observation_dim).view(runs, episodes, -1)
        with _one_thread(), torch.inference_mode():
            return self._repeated(lambda: learner.act(observations, streams).cpu())

    def steps(self, params: Params) -> tuple[float, float]:
        """Seconds of a step in the environment, and of a reset."""
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
        numbers = iter(range(10**9))
        return self._repeated(lambda: collector.episode(next(numbers))) / EPISODE

    def _learning(self, trainer: Trainer) -> float:
        """Seconds of an update: on a GPU of one that is replayed, elsewhere of chunks as long as the slice allows."""
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
        """Seconds of a call: of a GPU, or of cores, those of a compiler's processes too."""
        self._settle()
        start = self._now()
        work()
        self._settle()
        return self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            return time.perf_counter()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + usage.ru_utime + usage.ru_stime

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    def _flow(self, params: Params, runs: int = 1) -> Flow:
        init, settings = RunStreams(list(range(runs)), place=self.device), params.flow
        field = VelocityField(init, self.spec.observation_dim, self.spec.action_dim, settings.hidden, settings.encoder)
        return Flow(field, settings.solver, settings.solver_steps, settings.solver_grading)

    def _agent(self, params: Params, agent: str, runs: int) -> Agent:
        offline = params.offline
        spec = Spec(
            streams=RunStreams(list(range(runs)), place=self.device),
            observation_dim=self.spec.observation_dim,
            action_dim=self.spec.action_dim,
            offline=offline,
            alpha=torch.full((runs,), offline.alpha, device=self.device),
            candidates=(offline.candidates,) * runs,
            flow=self._flow(params, runs),
        )
        return make_agent(agent, spec)

    def _replay(self, params: Params, agent: Agent, runs: int) -> Replay:
        ends = torch.arange(ROWS) % EPISODE == EPISODE - 1
        of_run = torch.zeros(runs, dtype=torch.int64, device=self.device)
        return Replay(
            self._normal(ROWS, self.spec.observation_dim),
            (transitions := torch.arange(ROWS)[~ends].to(self.device)),
            self._normal(1, len(transitions), self.spec.action_dim).clamp(-1, 1),
            -torch.ones(1, len(transitions), device=self.device),
            torch.ones(1, len(transitions), device=self.device),
            of_run,
            of_run,
            discount=params.offline.discount,
            n_step=params.offline.n_step,
            returns=agent.uses_returns,
            next_actions=agent.uses_next_actions,
        )


@contextmanager
def _one_thread(threads: int = 1) -> Iterator[None]:
    """The block on so many threads, one if not said."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _products(precision: str) -> Iterator[None]:
    """Float32 products on a GPU as `offline.precision` says."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

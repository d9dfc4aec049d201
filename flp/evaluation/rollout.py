"""Evaluation: every run plays the same seeded episodes, all in lockstep, with one policy forward per step."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flp.data.environments import EnvironmentSpec, spec_of
from flp.evaluation.pool import EnvironmentPool, Step
from flp.learner import devices
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams
from flp.system.errors import FLPError

Act = Callable[[Tensor, RunStreams], "Tensor | NDArray[Any]"]
"""A policy of all R runs: `(observations [R, E, o] float32, streams) -> actions [R, E, a]` in [-1, 1]."""
Watch = Callable[[NDArray[np.float32], NDArray[np.float32], Step, NDArray[np.bool_]], None]
"""Shown every step of the S = R·E episodes: observations `[S, o]`, actions `[S, a]`, what came of them, who played."""


@dataclass(frozen=True)
class Evaluation:
    """What R runs did in E episodes each.

    Attributes:
        success: [R, E] float32, 1 where the last step of an episode was a success.
        returns: [R, E] float64, undiscounted.
        lengths: [R, E] int64, steps.
        trajectories: `trajectories[run][episode]` is [length + 1, 2] float32, the robot's xy positions; None
            unless recorded.
    """

    success: NDArray[np.float32]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    trajectories: list[list[NDArray[np.float32]]] | None = None


class Evaluator(AbstractContextManager["Evaluator", None]):
    """Evaluates policies again and again on the same episodes, keeping the environments alive.

    Episode e of task k starts from a seed made of `seed`, k and e alone, and a run's noise from `seed` and its task,
    drawn on the CPU, so that it is the same on every device: the numbers of a run depend neither on the runs beside
    it nor on the number of workers. Finished episodes stay in the policy's input as padding: its shape is the same
    at every step.

    Args:
        dataset: a spec, or one of OGBench's names: it decides the environment.
        tasks: the task of each of the R runs.
        episodes: E, per run, each in an environment of its own: 1 to 7 MB.
        seed: of the episodes and of the policies' noise.
        workers: processes that step environments, some 100 MB each (mazes) or 500 MB (manipulation); 0 steps them in
            this process.
        success_timing: as in `make_environment`.
        record: number of episodes per run whose xy positions are kept (mazes only).
        device: where the policy computes; its observations and noise are put there.
        watch: shown every step.
    """

    def __init__(
        self,
        dataset: EnvironmentSpec | str,
        tasks: Sequence[int],
        *,
        episodes: int = 50,
        seed: int = 0,
        workers: int = 0,
        success_timing: str = "pre",
        record: int = 0,
        device: torch.device | str = "cpu",
        watch: Watch | None = None,
    ) -> None:
        self.spec = spec_of(dataset)
        if episodes < 1:
            raise FLPError(f"an evaluation needs episodes >= 1, not {episodes}")
        self.tasks, self.episodes, self.seed = list(tasks), episodes, seed
        self.record = min(record, episodes) if self.spec.in_plane else 0
        self.device, self.watch = torch.device(device), watch
        layout = [task for task in self.tasks for _ in range(episodes)]
        self.pool = EnvironmentPool(self.spec, layout, workers=workers, success_timing=success_timing)
        self._playing = threading.Lock()
        self._interrupted = False

    def evaluate(self, act: Act) -> Evaluation:
        """Play all episodes with one policy.

        Raises:
            FLPError: the policy gave actions of a wrong shape, or NaN; or an environment failed.
        """
        # OpenMP's threads spin while they wait and take cores from the environments: on a busy machine of four cores,
        # two threads made an evaluation of a maze four times as long. Nor do sums then depend on the number of threads.
        with self._playing, devices.threads(1), torch.inference_mode():
            return self._play(act)

    def _play(self, act: Act) -> Evaluation:
        R, E = len(self.tasks), self.episodes
        streams = RunStreams([seed_of("evaluation noise", self.seed, task) for task in self.tasks], "cpu", self.device)
        seeds = [seed_of("evaluation", self.seed, task, episode) for task in self.tasks for episode in range(E)]
        observations = self.pool.reset(range(R * E), seeds)
        active = np.ones(R * E, np.bool_)
        returns, success, lengths = np.zeros(R * E), np.zeros(R * E, np.float32), np.zeros(R * E, np.int64)
        positions = [observations[:, :2].copy()]
        while active.any():
            if self._interrupted:
                raise FLPError(f"the evaluation of {self.spec.dataset} was interrupted")
            actions = self._actions(act, observations.reshape(R, E, -1), streams)
            step = self.pool.step(actions, active)
            if self.watch is not None:
                self.watch(observations, actions, step, active)
            ended = active & (step.terminated | step.truncated)
            observations = np.where(active[:, None], step.observations, observations)
            returns += np.where(active, step.rewards, 0.0)
            lengths += active
            success = np.where(ended, step.success, success)
            active = active & ~ended
            if self.record:
                positions.append(observations[:, :2].copy())
        return Evaluation(
            success.reshape(R, E),
            returns.reshape(R, E),
            lengths.reshape(R, E),
            self._trajectories(positions, lengths) if self.record else None,
        )

    def _trajectories(
        self, positions: list[NDArray[np.float32]], lengths: NDArray[np.int64]
    ) -> list[list[NDArray[np.float32]]]:
        """The recorded episodes' positions, without what came after their ends."""
        paths, E = np.stack(positions, 1), self.episodes
        starts = range(0, len(paths), E)
        return [[paths[i, : lengths[i] + 1].copy() for i in range(start, start + self.record)] for start in starts]

    def _actions(self, act: Act, observations: NDArray[np.float32], streams: RunStreams) -> NDArray[np.float32]:
        """One forward of the policy, checked and clipped; [R·E, a]."""
        chosen = torch.as_tensor(act(torch.tensor(observations, device=self.device), streams))
        expected = (*observations.shape[:2], self.pool.action_dim)
        if tuple(chosen.shape) != expected:
            raise FLPError(f"the policy gave actions of shape {tuple(chosen.shape)}, expected {expected}")
        actions: NDArray[np.float32] = chosen.float().cpu().numpy()
        broken = np.flatnonzero(~np.isfinite(actions).all((1, 2)))
        if broken.size:
            raise FLPError(
                f"the policy gave NaN or infinite actions in run(s) {broken.tolist()} of "
                f"{self.spec.dataset}; its training has diverged"
            )
        return np.clip(actions, -1.0, 1.0).reshape(-1, self.pool.action_dim)

    def interrupt(self) -> None:
        """Stop an evaluation under way in another thread, at its next step; it raises `FLPError`."""
        self._interrupted = True

    def close(self) -> None:
        """Close the pool."""
        self.pool.close()

    def __exit__(self, *exception: object) -> None:
        self.close()


def evaluate(act: Act, dataset: EnvironmentSpec | str, tasks: Sequence[int], **options: Any) -> Evaluation:
    """Evaluate a policy once; the options are those of `Evaluator`."""
    with Evaluator(dataset, tasks, **options) as evaluator:
        return evaluator.evaluate(act)


class Judge(Protocol):
    """Who judges policies: an `Evaluator`, or one that estimates."""

    device: torch.device

    def evaluate(self, act: Act) -> Any:
        """Judge one policy."""

    def interrupt(self) -> None:
        """Stop what is under way in another thread."""

    def close(self) -> None:
        """Let go of what is open."""


class BackgroundEvaluator(AbstractContextManager["BackgroundEvaluator", None]):
    """Evaluates snapshots while the caller goes on training.

    The environments are stepped by their own processes and the policy computes in a thread, which gives the
    interpreter away during its matrix products; on a GPU it computes in a stream of its own. The results are those of
    `evaluator.evaluate`.

    Args:
        evaluator: what evaluates; it is closed with this object and must not be used elsewhere meanwhile.
    """

    def __init__(self, evaluator: Judge) -> None:
        self.evaluator = evaluator
        torch.get_num_threads()  # settles the caller's number before another thread changes its own
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="evaluation")
        self._submitted: deque[tuple[int, Future[Any]]] = deque()
        on_gpu = evaluator.device.type == "cuda"
        self._stream = torch.cuda.Stream(evaluator.device) if on_gpu else None  # type: ignore[no-untyped-call]

    def submit(self, step: int, act: Act) -> None:
        """Queue an evaluation; `act` must use a copy of the policy that training does not change."""
        if self._stream is not None:
            torch.cuda.current_stream(self.evaluator.device).synchronize()  # the copy is whole before it is read
        self._submitted.append((step, self._executor.submit(self._evaluate, act)))

    def _evaluate(self, act: Act) -> Any:
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            return self.evaluator.evaluate(act)

    def finished(self) -> list[tuple[int, Any]]:
        """Return the new `(step, evaluation)` pairs, in the order of submission.

        Raises:
            Exception: whatever stopped an evaluation.
        """
        results: list[tuple[int, Any]] = []
        while self._submitted and self._submitted[0][1].done():
            if results and self._submitted[0][1].exception():
                break  # hand over what is there; the next call raises
            step, future = self._submitted.popleft()
            results.append((step, future.result()))
        return results

    def wait(self, timeout: float | None = None) -> list[tuple[int, Any]]:
        """Wait for everything that was submitted, or some seconds, then as `finished`."""
        wait([future for _, future in self._submitted], timeout)
        return self.finished()

    def close(self) -> None:
        """Give up what was submitted and is unfinished, and close the evaluator."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self.evaluator.interrupt()
        self._executor.shutdown()
        self.evaluator.close()

    def __exit__(self, *exception: object) -> None:
        self.close()

"""Evaluation: every run plays the same seeded episodes, all in lockstep, with one policy forward per step."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from flp.data.environments import specification
from flp.errors import FLPError
from flp.pool import EnvironmentPool
from flp.streams import RunStreams, seed_of

Act = Callable[[Tensor, RunStreams], "Tensor | NDArray[Any]"]
"""A policy of all R runs: `(observations [R, E, o] float32, streams) -> actions [R, E, a]` in [-1, 1]."""


class EpisodeStreams(RunStreams):
    """Per-run noise for the episodes of one wave, `[R, E, ...]`; every draw must lead with E.

    Noise is drawn on the CPU for all episodes and then cut to the wave's, so that an episode meets the same
    numbers on every device and however many episodes are played at a time.

    Args:
        seeds: one seed per run.
        rows: which of the episodes are in this wave; those beyond the last are idle and get any numbers.
        episodes: number of episodes of an evaluation.
        device: where the numbers are wanted.
    """

    def __init__(self, seeds: list[int], rows: range, episodes: int, device: torch.device | str) -> None:
        super().__init__(seeds, "cpu", device)
        self.rows = torch.tensor([min(row, episodes - 1) for row in rows], device=device)
        self.episodes = episodes

    def _cut(self, draw: Callable[..., Tensor], shape: tuple[int, ...], *leading: int) -> Tensor:
        if not shape or shape[0] != len(self.rows):
            raise ValueError(f"a draw of shape {shape} does not lead with the {len(self.rows)} episodes")
        return draw(*leading, self.episodes, *shape[1:])[:, self.rows]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, `[R, E, ...]` for a shape `E, ...`."""
        return self._cut(super().normal, shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), `[R, E, ...]` for a shape `E, ...`."""
        return self._cut(super().uniform, shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high), `[R, E, ...]` for a shape `E, ...`."""
        return self._cut(super().integers, shape, high)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let the policy compute in this thread alone.

    OpenMP's threads spin while they wait, beside environments that want their cores: on a busy machine of four cores,
    two threads for the policy made an evaluation of a maze four times as long. Nor do sums then depend on threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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


class Evaluator:
    """Evaluates policies again and again on the same episodes, keeping the environments alive.

    Episode e of task k starts from a seed made of `seed`, k and e alone, and a run's noise from `seed` and
    its task, so the numbers of a run depend neither on the runs beside it nor on the number of workers.
    Finished episodes stay in the policy's input as padding: its shape is the same at every step.

    Args:
        dataset: decides the environment.
        tasks: the task of each of the R runs.
        episodes: E, per run.
        seed: of the episodes and of the policies' noise.
        workers: processes that step environments; 0 steps them in this process.
        slots: environments per run; with fewer than `episodes`, which is the default, episodes are played in
            waves. An environment takes 1 to 7 MB, a worker some 100 MB (mazes) or 500 MB (manipulation).
        success_timing: as in `make_environment`.
        record: number of episodes per run whose xy positions are kept (mazes only).
        device: where the policy computes; its observations and noise are put there.
        progress: whether to show a progress bar.
        pool: environments to use, `slots` for each run in turn; it stays open.
    """

    def __init__(
        self,
        dataset: str,
        tasks: Sequence[int],
        *,
        episodes: int = 50,
        seed: int = 0,
        workers: int = 0,
        slots: int | None = None,
        success_timing: str = "pre",
        record: int = 0,
        device: torch.device | str = "cpu",
        progress: bool = False,
        pool: EnvironmentPool | None = None,
    ) -> None:
        self.spec = specification(dataset)
        if episodes < 1 or (slots is not None and slots < 1):
            raise FLPError(f"an evaluation needs episodes and slots >= 1, not {episodes} and {slots}")
        self.tasks, self.episodes, self.seed = list(tasks), episodes, seed
        self.width = self._width(slots)
        self.record = 0 if self.spec.family == "manipulation" else min(record, episodes)
        self.device, self.progress = torch.device(device), progress
        layout = [task for task in self.tasks for _ in range(self.width)]
        self._owns_pool = pool is None
        self.pool = pool or EnvironmentPool(dataset, layout, workers=workers, success_timing=success_timing)
        found = self.pool.dataset, self.pool.tasks, self.pool.success_timing
        if found != (dataset, layout, success_timing):
            raise FLPError(
                f"the pool does not fit: it needs {dataset}, success timing '{success_timing}' and "
                f"{self.width} slots for each of the tasks {self.tasks}"
            )
        self._playing = threading.Lock()
        self._interrupted = False

    def _width(self, slots: int | None) -> int:
        """Episodes per wave: as even as the slots allow, and the same whatever the other runs are."""
        waves = -(-self.episodes // (slots or self.episodes))
        return -(-self.episodes // waves)

    def evaluate(self, act: Act) -> Evaluation:
        """Play all episodes with one policy.

        Raises:
            FLPError: the policy gave actions of a wrong shape, or NaN; or an environment failed.
        """
        R, E = len(self.tasks), self.episodes
        result = Evaluation(
            success=np.zeros((R, E), np.float32),
            returns=np.zeros((R, E)),
            lengths=np.zeros((R, E), np.int64),
            trajectories=[[] for _ in range(R)] if self.record else None,
        )
        bar = tqdm(total=R * E, unit="episode", desc=self.spec.dataset, disable=not self.progress)
        with self._playing, bar, one_thread(), torch.inference_mode():
            for start in range(0, E, self.width):
                self._play_wave(act, range(start, start + self.width), result, bar)
        return result

    def _play_wave(self, act: Act, rows: range, result: Evaluation, bar: Any) -> None:
        """Play the episodes `rows` of every run; rows beyond the last episode stay idle."""
        R, E = len(self.tasks), len(rows)
        kept = slice(rows.start, min(rows.stop, self.episodes))
        noise_seeds = [seed_of("evaluation noise", self.seed, task) for task in self.tasks]
        streams = EpisodeStreams(noise_seeds, rows, self.episodes, self.device)
        active = np.broadcast_to(np.array(rows) < self.episodes, (R, E)).reshape(-1)
        seeds = [seed_of("evaluation", self.seed, task, row) for task in self.tasks for row in rows]
        playing = np.flatnonzero(active)
        observations = self.pool.reset(playing, [seeds[slot] for slot in playing])
        observations[~active] = 0.0
        returns, success, lengths = np.zeros(R * E), np.zeros(R * E, np.float32), np.zeros(R * E, np.int64)
        positions = [observations[:, :2].copy()]
        while active.any():
            if self._interrupted:
                raise FLPError(f"the evaluation of {self.spec.dataset} was interrupted")
            step = self.pool.step(self._actions(act, observations.reshape(R, E, -1), streams), active)
            ended = active & (step.terminated | step.truncated)
            observations = np.where(active[:, None], step.observations, observations)
            returns += np.where(active, step.rewards, 0.0)
            lengths += active
            success = np.where(ended, step.success, success)
            active = active & ~ended
            if rows.start < self.record:
                positions.append(observations[:, :2].copy())
            bar.update(int(ended.sum()))
        count = kept.stop - kept.start
        result.returns[:, kept] = returns.reshape(R, E)[:, :count]
        result.success[:, kept] = success.reshape(R, E)[:, :count]
        result.lengths[:, kept] = lengths.reshape(R, E)[:, :count]
        if result.trajectories is not None:
            paths = np.stack(positions, 1).reshape(R, E, -1, 2)
            for run, path in enumerate(paths):
                for e in range(min(kept.stop, self.record) - kept.start):
                    result.trajectories[run].append(path[e, : lengths[run * E + e] + 1].copy())

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
        """Close the pool, unless it was given."""
        if self._owns_pool:
            self.pool.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def evaluate(act: Act, dataset: str, tasks: Sequence[int], **options: Any) -> Evaluation:
    """Evaluate a policy once; the options are those of `Evaluator`."""
    with Evaluator(dataset, tasks, **options) as evaluator:
        return evaluator.evaluate(act)


class BackgroundEvaluator:
    """Evaluates snapshots while the caller goes on training.

    The environments are stepped by their own processes and the policy computes in a thread, which gives the
    interpreter away during its matrix products; on a GPU it computes in a stream of its own. The results are those of
    `evaluator.evaluate`.

    Args:
        evaluator: what evaluates; it is closed with this object and must not be used elsewhere meanwhile.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        torch.get_num_threads()  # settles the caller's number before another thread changes its own
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="evaluation")
        self._submitted: deque[tuple[int, Future[Evaluation]]] = deque()
        on_gpu = evaluator.device.type == "cuda"
        self._stream = torch.cuda.Stream(evaluator.device) if on_gpu else None  # type: ignore[no-untyped-call]

    def submit(self, step: int, act: Act) -> None:
        """Queue an evaluation; `act` must use a copy of the policy that training does not change."""
        if self._stream is not None:
            torch.cuda.current_stream(self.evaluator.device).synchronize()  # the copy is whole before it is read
        self._submitted.append((step, self._executor.submit(self._evaluate, act)))

    def _evaluate(self, act: Act) -> Evaluation:
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            return self.evaluator.evaluate(act)

    def finished(self) -> list[tuple[int, Evaluation]]:
        """Return the new `(step, evaluation)` pairs, in the order of submission.

        Raises:
            Exception: whatever stopped an evaluation.
        """
        results: list[tuple[int, Evaluation]] = []
        while self._submitted and self._submitted[0][1].done():
            if results and self._submitted[0][1].exception():
                break  # hand over what is there; the next call raises
            step, future = self._submitted.popleft()
            results.append((step, future.result()))
        return results

    def wait(self, timeout: float | None = None) -> list[tuple[int, Evaluation]]:
        """Wait for everything that was submitted, or some seconds, then as `finished`."""
        wait([future for _, future in self._submitted], timeout)
        return self.finished()

    def close(self) -> None:
        """Give up what was submitted and is unfinished, and close the evaluator."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self.evaluator.interrupt()
        self._executor.shutdown()
        self.evaluator.close()

    def __enter__(self) -> BackgroundEvaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

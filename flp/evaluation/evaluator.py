"""Evaluation: all runs play the same seeded episodes in lockstep, with one policy forward pass per step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flp.data.environments import EnvironmentSpec, spec_of
from flp.evaluation.pool import EnvironmentPool, Step
from flp.learner import devices
from flp.own.task import OwnSpec
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams
from flp.system.errors import FLPError

Act = Callable[[Tensor, RunStreams], "Tensor | NDArray[Any]"]
"""A policy of all R runs: `(observations [R, E, o] float32, streams) -> actions [R, E, a]` in [-1, 1]."""
Watch = Callable[[NDArray[np.float32], NDArray[np.float32], Step, NDArray[np.bool_]], None]
"""Called at every step of the S = R·E episodes: observations `[S, o]`, actions `[S, a]`, the step, active `[S]`."""
Value = Callable[[Tensor, Tensor], Tensor | None]
"""A critic's value `[R, n]` of actions `[R, n, a]` at observations `[R, n, o]`; None where there is no critic."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """Results of R runs in E episodes each.

    Attributes:
        success: `[R, E]` float32, 1 where the last step of an episode was a success.
        returns: `[R, E]` float64, undiscounted.
        lengths: `[R, E]` int64, in steps.
        trajectories: `trajectories[run][episode]` is `[length + 1, 2]` float32, the robot's xy positions; None unless
            recorded.
    """

    success: NDArray[np.float32]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    trajectories: list[list[NDArray[np.float32]]] | None = None

    def rows(self, spec: EnvironmentSpec, value: Value) -> list[Row]:
        """Each run's columns of `evaluations.csv`; success is None in a task that does not define it.

        Args:
            spec: the environment; a user's task also gets `return_std`.
            value: unused: returns are measured, not estimated.
        """
        rows: list[Row] = [
            {
                "success": float(success.mean()) if spec.has_success else None,
                "episodes": len(success),
                "return": float(returns.mean()),
                "length": float(lengths.mean()),
            }
            for success, returns, lengths in zip(self.success, self.returns, self.lengths, strict=True)
        ]
        if isinstance(spec, OwnSpec):
            for row, returns in zip(rows, self.returns, strict=True):
                row["return_std"] = float(returns.std())
        return rows


class Evaluator(AbstractContextManager["Evaluator", None]):
    """Evaluates policies repeatedly on the same episodes, keeping the environments alive.

    The seed of episode e of task k derives from `seed`, k and e alone; a run's noise derives from `seed` and its task
    and is drawn on the CPU, so it is the same on every device. A run's results therefore depend neither on the other
    runs nor on the number of workers. Finished episodes stay in the policy's input as padding, which keeps its shape
    constant.

    Args:
        dataset: the environment, by spec or by the name of an OGBench dataset.
        tasks: the task of each of the R runs.
        episodes: E, per run, each in its own environment (1 to 7 MB).
        seed: seed of the episodes and of the policies' noise.
        workers: processes that step environments, about 100 MB each (mazes) or 500 MB (manipulation); 0 steps them in
            this process.
        success_timing: as in `make_environment`.
        record: number of episodes per run whose xy positions are recorded (mazes only).
        device: device of the policy, its observations and its noise.
        watch: called at every step.
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
            FLPError: the policy returned actions of the wrong shape, or NaN; or an environment failed.
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
        """The recorded episodes' positions up to their ends."""
        paths, E = np.stack(positions, 1), self.episodes
        starts = range(0, len(paths), E)
        return [[paths[i, : lengths[i] + 1].copy() for i in range(start, start + self.record)] for start in starts]

    def _actions(self, act: Act, observations: NDArray[np.float32], streams: RunStreams) -> NDArray[np.float32]:
        """One forward pass of the policy, checked and clipped, `[R·E, a]`."""
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
        """Make an evaluation running in another thread raise `FLPError` at its next step."""
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

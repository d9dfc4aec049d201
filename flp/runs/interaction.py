"""Online interaction: R environments, one per run, stepped together during fine-tuning."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flp.evaluation.pool import EnvironmentPool
from flp.learner.trainable import Batch
from flp.parts.base import Agent
from flp.randomness.seeds import seed_of
from flp.runs.run_batch import RunBatch
from flp.supervision.health import Health


class Interaction:
    """One environment per run; every step yields one transition per run.

    An environment's state is its episode's seed and the actions taken since: a resumed session replays them and
    continues exactly where the killed one was.

    Args:
        batch: the runs.
        workers: processes that step the environments.
        health: the runs' health; failed runs get zero actions.
    """

    def __init__(self, batch: RunBatch, workers: int, health: Health) -> None:
        self.batch, self.health = batch, health
        self.streams = batch.streams("online acting")
        tasks = [run.task for run in batch.runs]
        # A single environment is stepped in this process: a worker would only add latency.
        self.pool = EnvironmentPool(
            batch.spec,
            tasks,
            workers=min(workers, len(tasks)) if min(workers, len(tasks)) > 1 else 0,
            success_timing=batch.params.offline.success_timing,
            names=[run.name for run in batch.runs],
        )
        self.episodes = [0] * len(tasks)
        self.taken: list[list[np.ndarray[Any, Any]]] = [[] for _ in tasks]
        self.ended: dict[int, int] = {}  # run → length of its episode, for episodes that the last step ended
        self.observations = self._reset(range(len(tasks)))

    def _reset(self, runs: range | list[int]) -> np.ndarray[Any, Any]:
        seeds = [
            seed_of(
                "online episode", self.batch.dataset, self.batch.runs[r].task, self.batch.runs[r].seed, self.episodes[r]
            )
            for r in runs
        ]
        observations: np.ndarray[Any, Any] = self.pool.reset(list(runs), seeds)
        for r in runs:
            self.taken[r] = []
        return observations

    def step(self, agent: Agent) -> Batch:
        """Act once in every environment; return the transitions, each array `[R, …]` on the device."""
        observations = self._tensor(self.observations)
        with torch.no_grad():
            actions, stored = agent.explore(observations[:, None], self.streams)
        taken = np.clip(self.health.guard(actions[:, 0]).float().cpu().numpy(), -1, 1)  # as in evaluations
        stored = stored if agent.uses_latents else stored.clamp(-1, 1)
        everyone = np.ones(len(taken), bool)
        step = self.pool.step(taken, everyone)
        for r, action in enumerate(taken):
            self.taken[r].append(action)
        transition = {
            "observations": observations,
            "actions": stored[:, 0],
            "next_observations": self._tensor(step.observations),
            "rewards": self._tensor(step.rewards),
            "masks": 1.0 - self._tensor(step.terminated),
        }
        self.observations = step.observations
        ended = np.flatnonzero(step.terminated | step.truncated).tolist()
        self.ended = {r: len(self.taken[r]) for r in ended}
        if ended:
            for r in ended:
                self.episodes[r] += 1
            self.observations = self._of(ended, self._reset(ended))
        return transition

    def _of(self, runs: list[int], observations: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The current observations, those of these runs replaced."""
        return np.where(np.isin(np.arange(len(observations)), runs)[:, None], observations, self.observations)

    def _tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(np.array(array), dtype=torch.float32).to(self.batch.device)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The streams, each run's episode number, its actions so far and what they led to."""
        tensors = {"online/streams": self.streams.state(), "online/observations": torch.from_numpy(self.observations)}
        for r, actions in enumerate(self.taken):
            if actions:
                tensors[f"online/actions{r}"] = torch.from_numpy(np.stack(actions))
        return tensors, {"episodes": list(self.episodes)}

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Restore what `state` returned, by replaying the episodes' actions.

        Where they no longer lead to the same observation, a new episode begins, with a warning.
        """
        self.streams.restore(tensors["online/streams"])
        self.episodes = list(info["episodes"])
        self.observations = self._reset(range(len(self.episodes)))
        actions = [tensors.get(f"online/actions{r}", torch.empty(0)).numpy() for r in range(len(self.episodes))]
        over = np.zeros(len(actions), bool)
        for t in range(max(map(len, actions))):
            active = np.array([t < len(a) for a in actions]) & ~over
            now = np.stack(
                [a[min(t, len(a) - 1)] if len(a) else np.zeros(self.pool.action_dim, np.float32) for a in actions]
            )
            step = self.pool.step(now, active)
            self.observations = np.where(active[:, None], step.observations, self.observations)
            over |= active & (step.terminated | step.truncated)
        self.taken = [list(a) for a in actions]
        same = (self.observations == tensors["online/observations"].numpy()).all(1)
        if other := np.flatnonzero(over | ~same).tolist():
            self._begin_again(other)

    def _begin_again(self, runs: list[int]) -> None:
        """Begin these runs' next episodes: their last ones cannot be continued."""
        names = ", ".join(self.batch.runs[r].name for r in runs)
        print(
            f"warning: the environment does not repeat the episode of {names}, as one that was changed, that draws "
            "unseeded numbers, or on another kind of processor: a new episode begins",
            file=sys.stderr,
        )
        for r in runs:
            self.episodes[r] += 1
        self.observations = self._of(runs, self._reset(runs))

    def close(self) -> None:
        """Close the environments."""
        self.pool.close()

"""Transitions on the device: the dataset once for all runs, and each run's own online transitions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flp.learner.returns import last_of, monte_carlo
from flp.learner.trainable import Batch


class Transitions(dict[str, Tensor]):
    """A batch. An agent that asks for `next_actions` and `has_next_action` gets them too, and others do not pay.

    `next_actions` `[R, B, a]` are the actions stored after these; `has_next_action` `[R, B]` is 0 where those belong
    to another trajectory or are not there.
    """

    def __init__(self, entries: Batch, replay: Replay, indices: Tensor) -> None:
        super().__init__(entries)
        self._replay, self._indices = replay, indices

    def __missing__(self, name: str) -> Tensor:
        if name not in ("next_actions", "has_next_action"):
            raise KeyError(name)
        self.update(self._replay.successors(self._indices))
        return self[name]


class Replay:
    """A merged offline and online buffer with uniform sampling, R runs wide.

    States are stored once and a successor is the next row, so nothing is held twice. Rewards differ by task,
    latents by seed, online transitions by run.

    Args:
        observations: every row of the dataset, `[rows, o]`, float32.
        transitions: rows that have a successor, `[n]`, int64.
        actions: actions or latents of those transitions, `[S, n, a]`: one per seed, or S = 1 for all.
        rewards: `[T, n]`, one per task.
        masks: `[T, n]`, 0 where the episode ends by success, else 1.
        action_of_run: index into S, `[R]`.
        task_of_run: index into T, `[R]`.
        capacity: online transitions to make room for; later ones overwrite the oldest online ones.
        returns: γ of the Monte-Carlo `returns` `[R, B]` that batches are to have too; None for agents without use for
            them. Those of an online episode are −∞ until it has ended.
    """

    def __init__(
        self,
        observations: Tensor,
        transitions: Tensor,
        actions: Tensor,
        rewards: Tensor,
        masks: Tensor,
        action_of_run: Tensor,
        task_of_run: Tensor,
        capacity: int = 0,
        returns: float | None = None,
    ) -> None:
        self.observations, self.transitions = observations, transitions
        self.actions, self.rewards, self.masks = actions, rewards, masks
        self.action_of_run, self.task_of_run = action_of_run[:, None], task_of_run[:, None]
        self.offline_size, self.capacity, self.added = len(transitions), capacity, 0
        runs = len(task_of_run)
        new = observations.new_zeros
        self.online: Batch = {
            "observations": new(runs, capacity, observations.shape[-1]),
            "actions": new(runs, capacity, actions.shape[-1]),
            "next_observations": new(runs, capacity, observations.shape[-1]),
            "rewards": new(runs, capacity),
            "masks": new(runs, capacity),
        }
        self.discount = returns
        self.returns: Tensor | None = None
        if returns is not None:
            known = monte_carlo(rewards.cpu(), masks.cpu(), last_of(transitions.cpu()), returns)
            self.returns = known.to(rewards.device)
            self.online["returns"] = new(runs, capacity)

    def __len__(self) -> int:
        """Transitions that can be sampled, per run."""
        return self.offline_size + min(self.added, self.capacity)

    def average_reward(self) -> Tensor:
        """The dataset's mean reward by each run's task, `[R]`."""
        return self.rewards.mean(1)[self.task_of_run[:, 0]]

    def add(self, transition: Batch) -> None:
        """Store one transition per run, each entry `[R, ...]`."""
        if self.capacity == 0:
            raise ValueError("this replay has no room for online transitions")
        slot = self.added % self.capacity
        for name, value in transition.items():
            self.online[name][:, slot] = value
        if self.returns is not None:
            self.online["returns"][:, slot] = -torch.inf
        self.added += 1

    def end(self, lengths: dict[int, int]) -> None:
        """Note that these runs' episodes, of so many transitions, ended with the one added last."""
        if self.discount is None:
            return
        for run, length in lengths.items():
            count = min(length, self.capacity)
            slots = torch.arange(self.added - count, self.added) % self.capacity
            rewards, masks = (self.online[name][run, slots].cpu()[None] for name in ("rewards", "masks"))
            (known,) = monte_carlo(rewards, masks, torch.arange(count) == count - 1, self.discount)
            self.online["returns"][run, slots] = known.to(self.rewards.device)

    def batch(self, indices: Tensor) -> Batch:
        """Gather transitions by indices `[R, B]` into `len(self)`: each entry `[R, B, ...]`."""
        if self.added == 0:
            return Transitions(self._offline(indices), self, indices)
        is_online = indices >= self.offline_size
        offline = self._offline(indices.clamp(max=self.offline_size - 1))
        runs = torch.arange(len(indices), device=indices.device)[:, None]
        slots = (indices - self.offline_size).clamp(min=0)
        merged = {}
        for name, old in offline.items():
            pick = is_online.unsqueeze(-1) if old.dim() == 3 else is_online
            merged[name] = torch.where(pick, self.online[name][runs, slots], old)
        return Transitions(merged, self, indices)

    def successors(self, indices: Tensor) -> Batch:
        """The actions that follow those of `batch(indices)`, and whether the same trajectory goes on there."""
        last = self.offline_size - 1
        after = (indices + 1).clamp(max=last)
        goes_on = self.transitions[after] == self.transitions[indices.clamp(max=last)] + 1
        actions = self.actions[self.action_of_run, after]
        if self.added > 0:
            is_online = indices >= self.offline_size
            runs = torch.arange(len(indices), device=indices.device)[:, None]
            slots = (indices - self.offline_size).clamp(min=0)
            after = (slots + 1) % self.capacity
            # The next transition is of the same trajectory if it starts where this one ended.
            same = (self.online["observations"][runs, after] == self.online["next_observations"][runs, slots]).all(-1)
            goes_on = torch.where(is_online, same & (after != self.added % self.capacity), goes_on)
            actions = torch.where(is_online.unsqueeze(-1), self.online["actions"][runs, after], actions)
        return {"next_actions": actions, "has_next_action": goes_on.to(self.rewards.dtype)}

    def _offline(self, indices: Tensor) -> Batch:
        rows = self.transitions[indices]
        entries = {
            "observations": self.observations[rows],
            "actions": self.actions[self.action_of_run, indices],
            "next_observations": self.observations[rows + 1],
            "rewards": self.rewards[self.task_of_run, indices],
            "masks": self.masks[self.task_of_run, indices],
        }
        if self.returns is not None:
            entries["returns"] = self.returns[self.task_of_run, indices]
        return entries

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The online part, for a checkpoint."""
        size = min(self.added, self.capacity)
        return {f"replay.{name}": value[:, :size].clone() for name, value in self.online.items()}, {
            "replay.added": self.added
        }

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self.added = info["replay.added"]
        for name, value in self.online.items():
            kept = tensors[f"replay.{name}"]
            value[:, : kept.shape[1]] = kept.to(value.device)

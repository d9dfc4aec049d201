"""Transitions on the device: the dataset once for all runs, and each run's own online transitions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flp.learner.returns import is_last, monte_carlo, n_step_return
from flp.learner.trainable import Batch


class Replay:
    """A merged offline and online buffer with uniform sampling, R runs wide.

    Observations are stored once, a successor being the next row. Rewards differ by task, latents by seed, online
    transitions by run.

    Args:
        observations: every row of the dataset, `[rows, o]`, float32.
        transitions: rows that have a successor, `[n]`, int64.
        actions: actions or latents of those transitions, `[S, n, a]`: one per seed, or S = 1 for all.
        rewards: `[T, n]`, one per task.
        masks: `[T, n]`, 0 where the episode ends by success, else 1.
        action_of_run: index into S, `[R]`.
        task_of_run: index into T, `[R]`.
        capacity: online transitions to make room for; later ones overwrite the oldest.
        discount: γ of the returns; a 0-d tensor if it changes.
        n_step: n of the n-step returns that are the batches' `rewards`; their `masks` hold the remaining discount.
        returns: whether batches include Monte-Carlo `returns` `[R, B]`; −∞ while an online episode is under way.
        next_actions: whether batches include `next_actions` `[R, B, a]`, those stored in the next states, and
            `has_next_action` `[R, B]`, 0 where the next state belongs to another trajectory or is missing.
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
        *,
        discount: Tensor | float = 0.0,
        n_step: int = 1,
        returns: bool = False,
        next_actions: bool = False,
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
        self.discount, self.n_step, self.next_actions = discount, n_step, next_actions
        last = is_last(transitions.cpu())
        self.last = last.to(transitions.device)
        self.returns: Tensor | None = None
        if returns:
            self.returns = monte_carlo(rewards.cpu(), masks.cpu(), last, float(discount)).to(rewards.device)
            self.online["returns"] = new(runs, capacity)

    def __len__(self) -> int:
        """Transitions that can be sampled, per run."""
        return self.offline_size + min(self.added, self.capacity)

    def average_reward(self) -> Tensor:
        """The dataset's mean reward by each run's task, `[R]`."""
        return self.rewards.mean(1)[self.task_of_run[:, 0]]

    def average_value(self, discount: float) -> Tensor:
        """The value of a policy that earns the average reward r̄ of each run's task, `[R]`: an initial critic value.

        It is the lower of r̄ / (1 − γ), without terminations, and r̄ / (1 − γ m̄), with the data's rate of terminations (m̄
        is the mean mask): an optimistic initial value would persist wherever no data correct it.
        """
        reward, mask = self.average_reward(), self.masks.mean(1)[self.task_of_run[:, 0]]
        return torch.minimum(reward / (1 - discount), reward / (1 - discount * mask))

    def add(self, transition: Batch) -> None:
        """Store one transition per run, each entry `[R, ...]`; raises `ValueError` without capacity."""
        if self.capacity == 0:
            raise ValueError("this replay has no room for online transitions")
        slot = self.added % self.capacity
        for name, value in transition.items():
            self.online[name][:, slot] = value
        if self.returns is not None:
            self.online["returns"][:, slot] = -torch.inf
        self.added += 1

    def end(self, lengths: dict[int, int]) -> None:
        """Fill in the returns of runs whose episode, of the given length, ended with the transition added last."""
        if self.returns is None:
            return
        for run, length in lengths.items():
            count = min(length, self.capacity)
            slots = torch.arange(self.added - count, self.added) % self.capacity
            rewards, masks = (self.online[name][run, slots].cpu()[None] for name in ("rewards", "masks"))
            (returns,) = monte_carlo(rewards, masks, torch.arange(count) == count - 1, float(self.discount))
            self.online["returns"][run, slots] = returns.to(self.rewards.device)

    def batch(self, indices: Tensor) -> Batch:
        """Gather transitions by indices `[R, B]` into `len(self)`: each entry `[R, B, ...]`."""
        entries = self._offline(indices) if self.added == 0 else self._merged(indices)
        return entries | self.successors(indices) if self.next_actions else entries

    def _merged(self, indices: Tensor) -> Batch:
        is_online = indices >= self.offline_size
        offline = self._offline(indices.clamp(max=self.offline_size - 1))
        online = self._online((indices - self.offline_size).clamp(min=0))
        merged = {}
        for name, old in offline.items():
            pick = is_online.unsqueeze(-1) if old.dim() == 3 else is_online
            merged[name] = torch.where(pick, online[name], old)
        return merged

    def successors(self, indices: Tensor) -> Batch:
        """The actions in the next states of `batch(indices)`, and whether the same trajectory continues there."""
        last = self.offline_size - 1
        *_, end = self._summed(indices.clamp(max=last))
        after, continues = self._followed(end)
        actions = self.actions[self.action_of_run, after]
        if self.added > 0:
            is_online = indices >= self.offline_size
            *_, end = self._summed_online((indices - self.offline_size).clamp(min=0))
            after, same = self._followed_online(end)
            continues = torch.where(is_online, same, continues)
            actions = torch.where(is_online.unsqueeze(-1), self._of_run("actions", after), actions)
        return {"next_actions": actions, "has_next_action": continues.to(self.rewards.dtype)}

    def _offline(self, indices: Tensor) -> Batch:
        totals, weights, end = self._summed(indices)
        entries = {
            "observations": self.observations[self.transitions[indices]],
            "actions": self.actions[self.action_of_run, indices],
            "next_observations": self.observations[self.transitions[end] + 1],
            "rewards": totals,
            "masks": weights,
        }
        if self.returns is not None:
            entries["returns"] = self.returns[self.task_of_run, indices]
        return entries

    def _online(self, slots: Tensor) -> Batch:
        totals, weights, end = self._summed_online(slots)
        entries = {
            "observations": self._of_run("observations", slots),
            "actions": self._of_run("actions", slots),
            "next_observations": self._of_run("next_observations", end),
            "rewards": totals,
            "masks": weights,
        }
        if self.returns is not None:
            entries["returns"] = self._of_run("returns", slots)
        return entries

    def _summed(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`n_step_return` of the dataset's transitions."""

        def earned(at: Tensor) -> tuple[Tensor, Tensor]:
            return self.rewards[self.task_of_run, at], self.masks[self.task_of_run, at]

        return n_step_return(indices, earned, self._followed, self.discount, self.n_step)

    def _followed(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The transitions after these, and whether they belong to the same trajectory."""
        return (indices + 1).clamp(max=self.offline_size - 1), ~self.last[indices]

    def _summed_online(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`n_step_return` of online transitions."""

        def earned(at: Tensor) -> tuple[Tensor, Tensor]:
            return self._of_run("rewards", at), self._of_run("masks", at)

        return n_step_return(slots, earned, self._followed_online, self.discount, self.n_step)

    def _followed_online(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """The slots after these, and whether their transitions continue the same trajectories."""
        after = (slots + 1) % self.capacity
        # A transition belongs to the same trajectory if it starts where this one ended.
        same = (self._of_run("observations", after) == self._of_run("next_observations", slots)).all(-1)
        return after, same & (after != self.added % self.capacity)

    def _of_run(self, name: str, slots: Tensor) -> Tensor:
        """Each run's online entries in slots `[R, B]`."""
        runs = torch.arange(len(slots), device=slots.device)[:, None]
        return self.online[name][runs, slots]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The online part, for a checkpoint."""
        size = min(self.added, self.capacity)
        return {f"replay.{name}": value[:, :size].clone() for name, value in self.online.items()}, {
            "replay.added": self.added
        }

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.added = info["replay.added"]
        for name, value in self.online.items():
            saved = tensors[f"replay.{name}"]
            value[:, : saved.shape[1]] = saved.to(value.device)

"""Training that fails loudly: implausible values are warned of, and a diverged run is marked as failed.

The runs of a batch are independent, so a failed one keeps running without effect on the others, and only its own
results are withheld. All checks happen where training stops to log, so that updates never wait for the host.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from flp.learner.replay import Replay
from flp.learner.trainable import Learner, Logs
from flp.params.sections import OfflineSettings
from flp.parts.base import Agent

_Q_MEANS = ("q", "actor_q", "v")  # over a batch
_Q_LOGS = (*_Q_MEANS, "q_max")
# Q is suspicious if it exceeds what rewards allow by this share of the range, and has exploded at this multiple.
# A batch's mean should stay well below the best value of a single state, so that its limit is tighter.
_SUSPICIOUS, _SUSPICIOUS_MEAN, _EXPLODED = 0.5, 0.005, 10.0
_AT_CLAMP = 0.02  # nats
_FAR = 4.0  # standard deviations of the prior, beyond which the flow was not trained
_YOUNG = 1000  # updates during which a policy need not have moved
_UNMOVED = 0.01  # nats: a mean of 0.14 in one dimension, in standard deviations of the prior


class HopelessError(Exception):
    """Every run of the batch has failed: there is nothing left to train."""


class Guard:
    """Zeros the actions of failed runs, and records which runs fail.

    Args:
        failed: the runs that have failed.
    """

    def __init__(self, failed: Iterable[int]) -> None:
        self.had_failed = frozenset(failed)
        self.failed = set(self.had_failed)

    def __call__(self, actions: Tensor) -> Tensor:
        """Actions `[R, …]`, zeroed for failed runs and for runs with NaN or infinite ones, which have failed too."""
        whole = actions.isfinite().flatten(1).all(1)
        self.failed.update((~whole).nonzero().flatten().tolist())
        if not self.failed:
            return actions
        lost = torch.tensor(sorted(self.failed), device=actions.device)
        return actions.index_fill(0, lost, 0.0)


class Health:
    """The health of the runs of a batch.

    Args:
        label: what is trained, such as `flp cube-single-play offline`.
        names: the runs' names.
        offline: the hyperparameters, for the limits.
        replay: the transitions, for the rewards.
        agent: what is trained.
        on_failure: called with a run's number when it fails, while the last checkpoint still exists.
        rate: the parameter that sets the step size.
        own: whether it is a user's task, whose rewards may have any sign and whose episodes need not end in success.
    """

    def __init__(
        self,
        label: str,
        names: Sequence[str],
        offline: OfflineSettings,
        replay: Replay,
        agent: Agent,
        on_failure: Callable[[int], None] = lambda run: None,
        *,
        rate: str = "offline.learning_rate",
        own: bool = False,
    ) -> None:
        self.label, self.names, self.agent, self.on_failure = label, list(names), agent, on_failure
        self.latent_dim = replay.actions.shape[-1] if agent.uses_latents else None
        self.log_std_range = offline.log_std_min, offline.log_std_max
        self.half_way = max(offline.steps / 2, _YOUNG) if offline.kl_budget is None else math.inf  # else α follows
        least = "take offline.aggregation: min" if agent.aggregation != "min" else ""
        self.remedy = _either(f"lower {rate}", agent.restraint)
        self.calmer = _either(f"lower {rate} or offline.target_rate", least, agent.restraint)
        tasks = replay.task_of_run[:, 0]
        worst = replay.rewards.amin(1).clamp(max=-1)[tasks]
        best = replay.rewards.amax(1).clamp(min=0)[tasks]
        self.lowest: list[float] = (worst / (1 - offline.discount)).tolist()
        self.highest: list[float] = (best / (1 - offline.discount) + 0.0).tolist()  # never -0
        constant = replay.rewards.amin(1) == replay.rewards.amax(1)
        self.own, self.replay, self.discount = own, replay, offline.discount
        self.unreached = (constant if own else replay.masks.amin(1) > 0)[tasks].tolist()
        self.failed: dict[str, dict[str, Any]] = {}
        self.warned: set[str] = set()
        self.step = self.good = 0

    def start(self) -> None:
        """Warn of tasks that the data never solve."""
        runs = [name for name, unreached in zip(self.names, self.unreached, strict=True) if unreached]
        if runs and self.own:
            self._say("every transition of the dataset earns the same reward: there may be nothing to learn from")
        elif runs:
            self._say(
                f"no transition of the dataset achieves the task of {', '.join(runs)}: every reward is negative and "
                "there may be nothing to learn from; take a larger dataset (download.episodes) or other offline.tasks"
            )

    def look(self, step: int, logs: Logs) -> None:
        """Check the means of the logs since the last stop, and all parameters.

        Raises:
            HopelessError: every run has failed.
        """
        self.step = step
        self._widen_limits()
        columns = {name: value.tolist() for name, value in logs.items()}
        whole = _finite_runs(self.agent, len(self.names))
        for i, name in enumerate(self.names):
            row = {column: values[i] for column, values in columns.items()}
            broken = [column for column, value in row.items() if not math.isfinite(value)]
            if broken or not whole[i]:
                what = f"{broken[0]} is {row[broken[0]]}" if broken else "a parameter is NaN or infinite"
                self.fail(i, what, self.remedy)
            elif name not in self.failed:
                self._judge(i, row)
        if len(self.failed) < len(self.names):
            self.good = step
        else:
            raise HopelessError

    def _widen_limits(self) -> None:
        """Rewards earned online may lie beyond all those of the dataset."""
        if count := min(self.replay.added, self.replay.capacity):
            rewards = self.replay.online["rewards"][:, :count] / (1 - self.discount)
            self.lowest = list(map(min, self.lowest, rewards.amin(1).tolist()))
            self.highest = list(map(max, self.highest, rewards.amax(1).tolist()))

    def _judge(self, i: int, row: dict[str, float]) -> None:
        values = [row[name] for name in _Q_LOGS if name in row]
        low, high = self.lowest[i], self.highest[i]
        if values:
            beyond = max(max(values) - high, low - min(values), 0.0)
            worst = max(values) if max(values) - high > low - min(values) else min(values)
            says = f"Q is {worst:.4g}, where rewards and discount allow {low:.4g} to {high:.4g}"
            if beyond > 1 + _EXPLODED * (high - low):
                self.fail(i, says, self.calmer)
                return
            if beyond > 1 + _SUSPICIOUS * (high - low):
                self._warn(i, "q", says, self.calmer)
            mean = max((row[name] for name in _Q_MEANS if name in row), default=low)
            if mean > high + 1 + _SUSPICIOUS_MEAN * (high - low):
                says = f"Q is {mean:.4g} on average, where rewards and discount allow {low:.4g} to {high:.4g}"
                self._warn(i, "q", says, self.calmer)
        if "policy_std" in row:
            self._judge_policy(i, row)

    def _judge_policy(self, i: int, row: dict[str, float]) -> None:
        log_std = math.log(max(row["policy_std"], 1e-30))
        low, high = self.log_std_range
        if log_std < low + _AT_CLAMP:
            says = f"the policy has collapsed: its standard deviation is at its lower clamp, e^{low:g}"
            self._warn(i, "low std", says, self.agent.restraint)
        if log_std > high - _AT_CLAMP:
            says = f"the policy's standard deviation is at its upper clamp, e^{high:g}"
            self._warn(i, "high std", says, self.agent.restraint)
        if self.latent_dim is None:
            return
        radius, divergence = math.sqrt(self.latent_dim) + _FAR, self.latent_dim * _FAR**2
        if row.get("latent_norm", 0.0) > radius or row.get("kl", 0.0) > divergence:
            says = (
                f"the policy's latents (|z| {row.get('latent_norm', 0.0):.3g}, KL {row.get('kl', 0.0):.3g}) lie beyond "
                f"the prior's range (|z| {radius:.3g}, KL {divergence:.3g}), where the flow only extrapolates"
            )
            self._warn(i, "latents", says, self.agent.restraint)
        if self.step >= self.half_way and row.get("kl", math.inf) < _UNMOVED:
            says = f"the policy is still the behaviour (KL {row['kl']:.1g} nats): Q hardly weighs beside the KL"
            self._warn(i, "unmoved", says, "lower offline.alpha, or let offline.kl_budget choose it")

    def guard(self, actions: Tensor) -> Tensor:
        """Actions `[R, …]`, with zeros for failed runs; a run that gives NaN or infinite ones has failed."""
        guard = self.watch()
        actions = guard(actions)
        self.settle(guard, self.step)
        return actions

    def watch(self, failed: Iterable[int] | None = None) -> Guard:
        """A guard for a policy that acts independently for a while, for instance in another thread.

        Args:
            failed: the runs that had failed by then, by default those that have failed now.
        """
        return Guard([i for i, name in enumerate(self.names) if name in self.failed] if failed is None else failed)

    def settle(self, guard: Guard, step: int) -> None:
        """Mark as failed the runs whose actions at a step were not finite."""
        for run in sorted(guard.failed - guard.had_failed):
            says = "its policy gives NaN or infinite actions"
            self.fail(run, says, self.remedy, step)

    def fail(self, run: int, what: str, remedy: str, step: int | None = None) -> None:
        """Mark a run as failed, at this step or an earlier one; the first reason counts."""
        name, step = self.names[run], self.step if step is None else step
        if name in self.failed:
            return
        self.failed[name] = {
            "step": step,
            "reason": what,
            "remedy": remedy,
            "last_good_step": self.good,
        }
        others = "; the other runs continue" if len(self.failed) < len(self.names) else ""
        self._say(f"{name} has failed at step {step}: {what}{others}", "error")
        self.on_failure(run)

    def message(self) -> str:
        """One line about the failed runs."""
        runs = [
            f"{name} (step {failure['step']}, last good at {failure['last_good_step']}: {failure['reason']}; "
            f"{failure['remedy']})"
            for name, failure in self.failed.items()
        ]
        rest = len(self.names) - len(runs)
        kept = f"; the other {rest} are finished and kept" if rest else ""
        return f"{self.label}: {len(runs)} of {len(self.names)} runs failed: {', '.join(runs)}{kept}"

    def _warn(self, run: int, kind: str, what: str, remedy: str) -> None:
        mark = f"{self.names[run]} {kind}"
        if mark not in self.warned:
            self.warned.add(mark)
            self._say(f"{self.names[run]} at step {self.step}: {what}; {remedy}")

    def _say(self, text: str, kind: str = "warning") -> None:
        print(f"{kind}: {self.label}: {text}", file=sys.stderr, flush=True)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a resumed session must know."""
        return {}, {"failed": self.failed, "warned": sorted(self.warned), "good": self.good}

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self.failed, self.warned, self.good = info["failed"], set(info["warned"]), info["good"]
        self.step = self.good  # the last one looked at, where a run was still good


def _either(*remedies: str) -> str:
    """Remedies as one phrase, `a, b, or c`; empty ones are dropped, but the first is never empty."""
    *first, last = filter(None, remedies)
    return f"{', '.join(first)}, or {last}" if first else last


def _finite_runs(learner: Learner, runs: int) -> list[bool]:
    """Whether each run's parameters and optimizer states are all finite."""
    tensors = [*learner.state_dict().values(), *learner.optimizer_state().values()]
    checks = [
        tensor.unflatten(0, (runs, -1)).flatten(1).isfinite().all(1)
        for tensor in tensors
        if tensor.dim() > 0 and tensor.is_floating_point() and tensor.numel() > 0
    ]
    whole: list[bool] = torch.stack(checks).all(0).tolist()
    return whole

"""The inner loop: chunks of updates whose randomness is drawn ahead.

A chunk is `CHUNK` updates. Their indices and noise are drawn per run from its own stream before the chunk, so that the
updates are pure tensor code without host synchronisation: on CUDA a whole chunk is captured once and replayed, on a
CPU the same code runs eagerly. A chunk is drawn whole, wherever training stops: how often it stops changes no number.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from flp.learner.captured import Captured, Updates
from flp.learner.trainable import Batch, Learner, Logs
from flp.randomness.streams import RunStreams
from flp.system.progress import Progress

# Fixed, because the order in which a run's stream is read must not depend on machine or neighbours.
CHUNK = 10


Drawn = tuple[Tensor, dict[str, Tensor]]
"""Indices `[count, R, B]` and noise `[count, R, ...]` of updates."""


class Source(Protocol):
    """Where batches come from; transitions from number `offline_size` on were met online."""

    offline_size: int

    def __len__(self) -> int:
        """Transitions that can be sampled."""

    def batch(self, indices: Tensor) -> Batch:
        """Transitions by indices `[R, B]`."""


class Trainer:
    """Updates a learner on batches from a source.

    Args:
        learner: the agent or flow.
        source: where batches come from.
        streams: one random stream per run, on the training device.
        batch_size: transitions per update and run.
        capture: replay updates as a CUDA graph; ignored on a CPU.
        autocast: dtype of matrix products, or None for the parameters' own.
        observation_noise: standard deviations `[o]` of Gaussian noise added to s, but not to s′; or None.
        step_fn: replaces the learner's `update`, such as by its compiled form.
        prepare: called before updates with the number of steps before their chunk, for what depends on it.
    """

    def __init__(
        self,
        learner: Learner,
        source: Source,
        streams: RunStreams,
        batch_size: int,
        *,
        capture: bool = True,
        autocast: torch.dtype | None = None,
        observation_noise: Tensor | None = None,
        step_fn: Callable[[Batch, dict[str, Tensor]], Logs] | None = None,
        prepare: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.learner, self.source, self.streams, self.batch_size = learner, source, streams, batch_size
        self.autocast, self.step_fn = autocast, step_fn or learner.update
        self.observation_noise, self.prepare = observation_noise, prepare
        self.step = self.logged = 0
        self.totals: Logs = {}
        self.pending: Drawn | None = None  # updates drawn but not taken
        self.execute: Updates = self.run_eagerly
        if capture and streams.device.type == "cuda":
            self.execute = Captured(self.run_eagerly)

    def fit(
        self,
        steps: int,
        stops: tuple[int, ...],
        at_stop: Callable[[int, Logs], None],
        checkpoint: Callable[[], None],
        progress: Progress,
        before_update: Callable[[], None] | None = None,
        turn: Callable[[int], AbstractContextManager[None]] = lambda step: nullcontext(),
    ) -> None:
        """Train up to step `steps`.

        Args:
            steps: the last step.
            stops: intervals; training stops at every multiple of any of them, and at the end.
            at_stop: called with the step and the means of the logs since the last stop. A state saved while it
                runs resumes at this stop.
            checkpoint: called between chunks; saves if it is time to.
            progress: the progress line, which stays open.
            before_update: called before every single update: updates are then taken one by one.
            turn: entered with the current step before anything is computed (see `flp.runs.shards`).
        """
        chunk = CHUNK if before_update is None else 1
        progress.begin(self.step)
        while self.step < steps or self.logged:
            # A state that was saved at a stop still has its logs: that stop is the next one.
            stop = next_stop(self.step + (self.logged == 0), stops, steps)
            while self.step < stop:
                with turn(self.step):
                    if before_update is not None:
                        before_update()
                    with progress.section("data"):
                        indices, noise = self._next_updates(chunk, stop - self.step)
                    with progress.section("update"):
                        count, logs = len(indices), self.run_updates(indices, noise)
                        self.totals = {k: v * count + self.totals.get(k, 0.0) for k, v in logs.items()}
                        self.logged += count
                progress.update(self.step)
                if self.step < stop:
                    checkpoint()
            means = {name: total / self.logged for name, total in self.totals.items()}
            with turn(self.step):
                at_stop(self.step, means)
            self.totals, self.logged = {}, 0
            progress.update(self.step)
            checkpoint()

    def run_to(self, steps: int, checkpoint: Callable[[], None] = lambda: None) -> None:
        """Train up to step `steps` without logs or stops; `checkpoint` is called between chunks."""
        while self.step < steps:
            self.run_chunk(min(CHUNK, steps - self.step))
            checkpoint()

    def run_chunk(self, count: int = CHUNK) -> Logs:
        """Draw `count` updates and take them."""
        return self.run_updates(*self.draw_chunk(count))

    def _next_updates(self, chunk: int, limit: int) -> Drawn:
        """At most `limit` updates: what is pending of the last chunk, or a new chunk."""
        indices, noise = self.pending or self.draw_chunk(chunk)
        rest = {name: value[limit:].clone() for name, value in noise.items()}
        self.pending = (indices[limit:].clone(), rest) if limit < len(indices) else None
        return indices[:limit], {name: value[:limit] for name, value in noise.items()}

    def draw_chunk(self, count: int) -> Drawn:
        """Indices `[count, R, B]` and noise `[count, R, ...]` of the next updates."""
        indices = self._indices(count).transpose(0, 1).contiguous()
        noise = self.learner.draw(self.streams, count, self.batch_size)
        if self.observation_noise is not None:
            shape = (count, self.batch_size, len(self.observation_noise))
            noise["observations"] = self.observation_noise * self.streams.normal(*shape).transpose(0, 1)
        return indices, {name: value.contiguous() for name, value in noise.items()}

    def _indices(self, count: int) -> Tensor:
        """Uniform indices `[R, count, B]`, or half of them offline and half online."""
        size, old = len(self.source), self.source.offline_size
        if not (self.learner.balanced and size > old):
            return self.streams.integers(size, count, self.batch_size)
        half = max(self.batch_size // 2, 1)
        offline = self.streams.integers(old, count, self.batch_size - half)
        return torch.cat([offline, old + self.streams.integers(size - old, count, half)], -1)

    def run_updates(self, indices: Tensor, noise: dict[str, Tensor]) -> Logs:
        """Take updates; return the means of their scalars per run, each `[R]`, still on the device."""
        self.prepare(self.step - self.step % CHUNK)
        logs = self.execute(indices, noise)
        self.step += len(indices)
        return logs

    def run_eagerly(self, indices: Tensor, noise: dict[str, Tensor]) -> Logs:
        """The updates themselves, one after the other, as pure tensor code."""
        total: Logs = {}
        device, autocast = indices.device.type, self.autocast
        for k in range(len(indices)):
            batch, drawn = self.source.batch(indices[k]), {name: value[k] for name, value in noise.items()}
            if self.observation_noise is not None:
                batch["observations"] = batch["observations"] + drawn.pop("observations")
            # Without autocast's cache, which would keep casts of parameters from before their update.
            with torch.autocast(device, autocast, enabled=autocast is not None, cache_enabled=False):
                logs = self.step_fn(batch, drawn)
            total = {name: value + total[name] if total else value for name, value in logs.items()}
        return {name: value / len(indices) for name, value in total.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that training resumes from: parameters, optimizers, streams, pending updates and logs, the step."""
        tensors = {f"learner/{k}": v for k, v in self.learner.state_dict().items()}
        tensors |= {f"optimizer/{k}": v for k, v in self.learner.optimizer_state().items()}
        tensors |= {f"total/{k}": v for k, v in self.totals.items()}
        if self.pending is not None:
            indices, noise = self.pending
            tensors |= {"drawn": indices} | {f"noise/{name}": value for name, value in noise.items()}
        # Files do not keep the order of tensors, which is that of the log's columns.
        info = {"step": self.step, "logged": self.logged, "totals": list(self.totals)}
        return tensors | {"streams": self.streams.state()}, info

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Restore what `state` returned."""

        def group(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}

        self.learner.load_state_dict(group("learner/"))
        self.learner.load_optimizer_state(group("optimizer/"))
        self.totals = {name: tensors[f"total/{name}"].to(self.streams.device) for name in info["totals"]}
        noise = {k: v.to(self.streams.device) for k, v in group("noise/").items()}
        self.pending = (tensors["drawn"].to(self.streams.device), noise) if "drawn" in tensors else None
        self.streams.restore(tensors["streams"])
        self.step, self.logged = info["step"], info["logged"]


def next_stop(step: int, stops: tuple[int, ...], steps: int) -> int:
    """The first multiple of any of the intervals `stops` from `step` on, at most `steps`."""
    return min(steps, *(-(-step // every) * every for every in stops))

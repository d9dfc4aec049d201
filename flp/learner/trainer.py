"""The inner loop: chunks of updates, their randomness drawn ahead, captured into a graph on a GPU.

A chunk is `CHUNK` updates. Their indices and noise are drawn per run from its own stream before the chunk, so
the updates themselves are pure tensor code without host synchronisation: on CUDA a whole chunk is captured
once and replayed; on CPU the same code runs eagerly. A chunk is drawn whole, wherever training stops to look: how
often that is changes no number.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from flp.learner.trainable import Batch, Learner, Logs
from flp.randomness.streams import RunStreams
from flp.system.progress import Progress

# Fixed, for the order in which a run's stream is read must not depend on machine or neighbours.
CHUNK = 10


Drawn = tuple[Tensor, dict[str, Tensor]]
"""Indices `[count, R, B]` and noise `[count, R, ...]` of updates."""


class Source(Protocol):
    """Where batches come from; what comes after the first `offline_size` transitions was met online."""

    offline_size: int

    def __len__(self) -> int:
        """Transitions that can be sampled."""

    def batch(self, indices: Tensor) -> Batch:
        """Transitions by indices `[R, B]`."""


class Trainer:
    """Runs updates of a learner on batches from a source.

    Args:
        learner: the agent or flow.
        source: where batches come from.
        streams: one random stream per run, on the training device.
        batch_size: transitions per update and run.
        capture: replay updates as a CUDA graph; ignored on CPU.
        autocast: dtype of matrix products, or None for the parameters' own.
        observation_noise: standard deviations `[o]` of Gaussian noise on the states s of batches, not on s′; or None.
        update: takes the learner's step in its stead, such as its compiled form.
        prepare: called before updates with the steps taken so far, for what changes with them.
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
        update: Callable[[Batch, dict[str, Tensor]], Logs] | None = None,
        prepare: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.learner, self.source, self.streams, self.batch_size = learner, source, streams, batch_size
        self.autocast, self.update = autocast, update or learner.update
        self.observation_noise, self.prepare = observation_noise, prepare
        self.step = self.logged = 0
        self.totals: Logs = {}
        self.left: Drawn | None = None  # of the chunk that was drawn last
        self.updates: Callable[[Tensor, dict[str, Tensor]], Logs] = self._updates
        if capture and streams.device.type == "cuda":
            self.updates = _Captured(self._updates)

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
            stops: intervals; at every multiple of one of them, and at the end, training stops to look.
            at_stop: called with the step and the means of the logs since the last stop. A state saved while it
                runs comes back to this stop.
            checkpoint: called between chunks; saves if it is time to.
            progress: the progress line, which stays open.
            before_update: called before every single update: updates are then taken one by one.
            turn: entered with the step reached before anything is computed (see `flp.runs.shards`).
        """
        chunk = CHUNK if before_update is None else 1
        progress.begin(self.step)
        while self.step < steps or self.logged:
            # A session stopped at a stop comes back with its logs still under way.
            least = self.step + (self.logged == 0)
            stop = min(steps, *(-(-least // every) * every for every in stops))
            while self.step < stop:
                with turn(self.step):
                    if before_update is not None:
                        before_update()
                    with progress.section("data"):
                        indices, noise = self._next(chunk, stop - self.step)
                    with progress.section("update"):
                        count, logs = len(indices), self.take(indices, noise)
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

    def chunk(self, count: int = CHUNK) -> Logs:
        """Draw what `count` updates need, and take them."""
        return self.take(*self.draw(count))

    def _next(self, chunk: int, most: int) -> Drawn:
        """What is left of the last chunk that was drawn, or a new one; at most so many updates of it."""
        indices, noise = self.left or self.draw(chunk)
        rest = {name: value[most:].clone() for name, value in noise.items()}
        self.left = (indices[most:].clone(), rest) if most < len(indices) else None
        return indices[:most], {name: value[:most] for name, value in noise.items()}

    def draw(self, count: int) -> Drawn:
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
        half = self.batch_size // 2
        offline = self.streams.integers(old, count, self.batch_size - half)
        return torch.cat([offline, old + self.streams.integers(size - old, count, half)], -1)

    def take(self, indices: Tensor, noise: dict[str, Tensor]) -> Logs:
        """Take the updates; return per-run means of their scalars, each `[R]`, still on the device."""
        self.prepare(self.step)
        logs = self.updates(indices, noise)
        self.step += len(indices)
        return logs

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything training goes on from: parameters, optimizers, streams, logs under way, the step."""
        tensors = {f"learner/{k}": v for k, v in self.learner.state_dict().items()}
        tensors |= {f"optimizer/{k}": v for k, v in self.learner.optimizer_state().items()}
        tensors |= {f"total/{k}": v for k, v in self.totals.items()}
        if self.left is not None:
            tensors |= {"drawn": self.left[0]} | {f"noise/{name}": value for name, value in self.left[1].items()}
        return tensors | {"streams": self.streams.state()}, {"step": self.step, "logged": self.logged}

    def restore(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Put back what `state` gave."""

        def group(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}

        self.learner.load_state_dict(group("learner/"))
        self.learner.load_optimizer_state(group("optimizer/"))
        self.totals = {k: v.to(self.streams.device) for k, v in group("total/").items()}
        noise = {k: v.to(self.streams.device) for k, v in group("noise/").items()}
        self.left = (tensors["drawn"].to(self.streams.device), noise) if "drawn" in tensors else None
        self.streams.restore(tensors["streams"])
        self.step, self.logged = info["step"], info["logged"]

    def _updates(self, indices: Tensor, noise: dict[str, Tensor]) -> Logs:
        total: Logs = {}
        device, autocast = indices.device.type, self.autocast
        for k in range(len(indices)):
            batch, drawn = self.source.batch(indices[k]), {name: value[k] for name, value in noise.items()}
            if self.observation_noise is not None:
                batch["observations"] = batch["observations"] + drawn.pop("observations")
            # Without its cache: that keeps the casts of parameters which the update has since changed.
            with torch.autocast(device, autocast, enabled=autocast is not None, cache_enabled=False):
                logs = self.update(batch, drawn)
            total = {name: value + total[name] if total else value for name, value in logs.items()}
        return {name: value / len(indices) for name, value in total.items()}


class _Captured:
    """A function of tensors replayed as a CUDA graph, one graph per shape of its arguments.

    The first call with a shape runs the function for real (it changes parameters, so that call counts); the
    second captures it. Captured work is not executed while capturing, so the graph is replayed right after.
    """

    def __init__(self, function: Callable[[Tensor, dict[str, Tensor]], Logs]) -> None:
        self.function = function
        self.graphs: dict[object, tuple[torch.cuda.CUDAGraph, Tensor, dict[str, Tensor], Logs]] = {}
        self.seen: set[object] = set()
        # On the current device, which PyTorch's own stream for captures need not be on.
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, indices: Tensor, noise: dict[str, Tensor]) -> Logs:
        shape = tuple(indices.shape)
        if shape not in self.seen:
            self.seen.add(shape)
            # A side stream, as capture demands of the warm-up.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                logs = self.function(indices, noise)
            torch.cuda.current_stream().wait_stream(self.stream)
            return logs
        if shape not in self.graphs:
            static_indices = indices.clone()
            static_noise = {name: value.clone() for name, value in noise.items()}
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on computing: a policy may be under evaluation.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                outputs = self.function(static_indices, static_noise)
            self.graphs[shape] = (graph, static_indices, static_noise, outputs)
        graph, static_indices, static_noise, outputs = self.graphs[shape]
        static_indices.copy_(indices)
        for name, value in noise.items():
            static_noise[name].copy_(value)
        graph.replay()
        return {name: value.clone() for name, value in outputs.items()}

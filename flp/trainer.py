"""The inner loop: chunks of updates, their randomness drawn ahead, captured into a graph on a GPU.

A chunk is `CHUNK` updates. Their indices and noise are drawn per run from its own stream before the chunk, so
the updates themselves are pure tensor code without host synchronisation: on CUDA a whole chunk is captured
once and replayed; on CPU the same code runs eagerly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from flp.streams import RunStreams

# Fixed, for the order in which a run's stream is read must not depend on machine or neighbours.
CHUNK = 10

Batch = dict[str, Tensor]
Logs = dict[str, Tensor]


class Learner(Protocol):
    """What can be trained: draws its randomness ahead, updates without synchronising with the host."""

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Random numbers of some updates, each `[updates, R, batch, ...]`."""

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One gradient step; per-run scalars `[R]`."""


class Source(Protocol):
    """Where batches come from."""

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
    ) -> None:
        self.learner, self.source, self.streams, self.batch_size = learner, source, streams, batch_size
        self.autocast = autocast
        self.step = 0
        self.updates: Callable[[Tensor, dict[str, Tensor]], Logs] = self._updates
        if capture and streams.device.type == "cuda":
            self.updates = _Captured(self._updates)

    def run(self, until: int) -> Logs:
        """Train up to and including step `until`; return the logs' means over the chunk that ran last."""
        logs: Logs = {}
        while self.step < until:
            count = min(CHUNK, until - self.step)
            logs = self.chunk(count)
        return logs

    def chunk(self, count: int = CHUNK) -> Logs:
        """Take `count` updates; return per-run means of their scalars, each `[R]`, still on the device."""
        indices = self.streams.integers(len(self.source), count, self.batch_size).transpose(0, 1).contiguous()
        noise = self.learner.draw(self.streams, count, self.batch_size)
        noise = {name: value.contiguous() for name, value in noise.items()}
        logs = self.updates(indices, noise)
        self.step += count
        return logs

    def _updates(self, indices: Tensor, noise: dict[str, Tensor]) -> Logs:
        total: Logs = {}
        for k in range(len(indices)):
            with torch.autocast(indices.device.type, self.autocast, enabled=self.autocast is not None):
                logs = self.learner.update(
                    self.source.batch(indices[k]), {name: value[k] for name, value in noise.items()}
                )
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

    def __call__(self, indices: Tensor, noise: dict[str, Tensor]) -> Logs:
        shape = tuple(indices.shape)
        if shape not in self.seen:
            self.seen.add(shape)
            # A side stream, as capture demands of the warm-up.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                logs = self.function(indices, noise)
            torch.cuda.current_stream().wait_stream(stream)
            return logs
        if shape not in self.graphs:
            static_indices = indices.clone()
            static_noise = {name: value.clone() for name, value in noise.items()}
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self.function(static_indices, static_noise)
            self.graphs[shape] = (graph, static_indices, static_noise, outputs)
        graph, static_indices, static_noise, outputs = self.graphs[shape]
        static_indices.copy_(indices)
        for name, value in noise.items():
            static_noise[name].copy_(value)
        graph.replay()
        return {name: value.clone() for name, value in outputs.items()}

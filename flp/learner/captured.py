"""Updates captured as CUDA graphs, which spare a GPU the launch of every kernel by the host."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flp.learner.trainable import Logs

Updates = Callable[[Tensor, dict[str, Tensor]], Logs]
"""From indices and noise to logs."""


class Captured:
    """A function of tensors replayed as a CUDA graph, one graph per shape of its indices.

    The first call with a shape runs the function itself (which changes parameters, so that this call counts); the
    second captures it. Capturing executes nothing, so the graph is replayed right after it.
    """

    def __init__(self, function: Updates) -> None:
        self.function = function
        self.graphs: dict[object, tuple[torch.cuda.CUDAGraph, Tensor, dict[str, Tensor], Logs]] = {}
        self.seen: set[object] = set()
        # On the current device; PyTorch's default stream for captures may be on another.
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, indices: Tensor, noise: dict[str, Tensor]) -> Logs:
        """Call the function or replay it."""
        shape = tuple(indices.shape)
        if shape not in self.seen:
            self.seen.add(shape)
            # On a side stream: capture requires it of the warm-up.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                logs = self.function(indices, noise)
            torch.cuda.current_stream().wait_stream(self.stream)
            return logs
        if shape not in self.graphs:
            static_indices = indices.clone()
            static_noise = {name: value.clone() for name, value in noise.items()}
            graph = torch.cuda.CUDAGraph()
            # Other threads may keep computing: a policy may be under evaluation.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                outputs = self.function(static_indices, static_noise)
            self.graphs[shape] = (graph, static_indices, static_noise, outputs)
        graph, static_indices, static_noise, outputs = self.graphs[shape]
        static_indices.copy_(indices)
        for name, value in noise.items():
            static_noise[name].copy_(value)
        graph.replay()
        return {name: value.clone() for name, value in outputs.items()}

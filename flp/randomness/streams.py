"""One random stream per run, so that a run's numbers do not depend on which runs it is trained with."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor


class RunStreams:
    """R independent generators drawing tensors with a leading run axis.

    Args:
        seeds: one seed per run.
        device: where the numbers are drawn; CPU and CUDA streams differ in their values.
        place: where the numbers are moved to, if not where they are drawn: initial weights are drawn on the CPU, so
            that they are the same on every device.
    """

    def __init__(
        self, seeds: list[int], device: torch.device | str = "cpu", place: torch.device | str | None = None
    ) -> None:
        self.source = torch.device(device)
        self.device = torch.device(place) if place is not None else self.source
        self.generators = [torch.Generator(self.source).manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, `[runs, *shape]`, float32."""
        return self._stack([torch.randn(shape, generator=g, device=self.source) for g in self.generators])

    def normals(self, counts: Sequence[int], *shape: int) -> Tensor:
        """Standard normal vectors, `[runs, *shape[:-1], max(counts), shape[-1]]`, of which run r draws counts[r].

        The rest is zero, so that how a run reads its stream does not depend on its neighbours.
        """
        if len(set(counts)) == 1:
            return self.normal(*shape[:-1], counts[0], shape[-1])
        drawn = []
        for run, count in enumerate(counts):
            vectors = self.only(run).normal(*shape[:-1], count, shape[-1])[0]
            drawn.append(F.pad(vectors, (0, 0, 0, max(counts) - count)))
        return torch.stack(drawn)

    def only(self, run: int) -> RunStreams:
        """The stream of one run, which shares its generator: drawing from either advances both."""
        alone = copy(self)
        alone.generators = self.generators[run : run + 1]
        return alone

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), `[runs, *shape]`, float32."""
        return self._stack([torch.rand(shape, generator=g, device=self.source) for g in self.generators])

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high), `[runs, *shape]`, int64."""
        return self._stack([torch.randint(high, shape, generator=g, device=self.source) for g in self.generators])

    def _stack(self, drawn: list[Tensor]) -> Tensor:
        return torch.stack(drawn).to(self.device)

    def state(self) -> Tensor:
        """The generators' states, `[runs, bytes]` uint8 on the CPU, for a checkpoint."""
        return torch.stack([g.get_state() for g in self.generators])

    def restore(self, state: Tensor) -> None:
        """Restore what `state` returned; raises `ValueError` if the number of runs differs."""
        if len(state) != len(self.generators):
            raise ValueError(f"{len(state)} stream states for {len(self.generators)} runs")
        for generator, s in zip(self.generators, state.cpu(), strict=True):
            generator.set_state(s.clone())  # a view into the middle of a tensor crashes PyTorch

"""The random numbers that an agent draws when it acts, as inputs: recorded once, then fed to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flp.library.policy import Policy
from flp.randomness.streams import RunStreams
from flp.system.errors import FLPError


@dataclass(frozen=True)
class Noise:
    """A tensor that an agent draws when it acts: `shape` follows the batch axis, `per` rows for each observation."""

    kind: str
    shape: tuple[int, ...]
    per: int

    def drawn(self, given: Tensor) -> Tensor:
        """An input `[batch, *shape]` as the agent draws it, with a run axis."""
        return (given if self.per == 1 else given.flatten(0, 1))[None]

    def given(self, drawn: Tensor) -> Tensor:
        """What an agent drew as an input."""
        return drawn[0] if self.per == 1 else drawn[0].view(-1, self.per, *drawn.shape[2:])


class RecordingStreams(RunStreams):
    """The stream of one run, which records what is drawn from it."""

    def __init__(self, seed: int) -> None:
        super().__init__([seed])
        self.drawn: list[tuple[str, Tensor]] = []

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return self._record("standard normal", super().normal(*shape))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return self._record("uniform in [0, 1)", super().uniform(*shape))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high)."""
        return self._record(f"integers in [0, {high})", super().integers(high, *shape))

    def _record(self, kind: str, drawn: Tensor) -> Tensor:
        self.drawn.append((kind, drawn))
        return drawn


class ReplayingStreams(RunStreams):
    """A stream of one run that returns given tensors in order instead of drawing."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__([0])
        self.left = list(tensors)

    def normal(self, *shape: int) -> Tensor:
        """The next tensor."""
        return self.left.pop(0)

    def uniform(self, *shape: int) -> Tensor:
        """The next tensor."""
        return self.left.pop(0)

    def integers(self, high: int, *shape: int) -> Tensor:
        """The next tensor."""
        return self.left.pop(0)


def noise_of(policy: Policy) -> list[Noise]:
    """The tensors that the policy draws to act.

    Raises:
        FLPError: their sizes are not proportional to the number of observations.
    """
    draws = []
    for batch in (2, 3):
        streams = RecordingStreams(0)
        policy.act(torch.zeros(1, batch, policy.observation_dim), streams)
        draws.append([(kind, tuple(drawn.shape[1:])) for kind, drawn in streams.drawn])
    tensors = []
    for (kind, two), (_, three) in zip(*draws, strict=True):
        if not two or two[0] * 3 != three[0] * 2 or two[1:] != three[1:]:
            raise FLPError(
                f"{policy.agent} cannot be exported: its noise {list(two)} is not in proportion to observations"
            )
        per = two[0] // 2
        tensors.append(Noise(kind, (per, *two[1:]) if per > 1 else two[1:], per))
    return tensors


def inputs_of(
    policy: Policy, noise: Sequence[Noise], observations: NDArray[np.float32], seed: int
) -> tuple[NDArray[np.float32], list[NDArray[Any]]]:
    """The policy's actions, and the exported file's inputs for them: the observations and the noise that it drew."""
    streams = RecordingStreams(seed)
    actions: NDArray[np.float32] = policy.act(torch.from_numpy(observations)[None], streams)[0].numpy()
    drawn = [form.given(tensor).contiguous().numpy() for form, (_, tensor) in zip(noise, streams.drawn, strict=True)]
    return actions, [observations, *drawn]

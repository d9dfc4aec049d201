"""Implicit diffusion Q-learning: in-sample values, and the best of N draws of a diffusion model (IDQL, jaxrl5)."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from flp.learner.polyak import polyak_update
from flp.learner.trainable import Batch, Logs
from flp.parts.base import Spec
from flp.parts.diffusion import DiffusionAgent
from flp.parts.selection import take_best
from flp.randomness.streams import RunStreams


class IDQL(DiffusionAgent):
    """R diffusion models from whose draws the target critics select; it acts by the models' moving averages."""

    restraint = "lower offline.baselines.idql.expectile"

    def __init__(self, spec: Spec) -> None:
        own = spec.offline.baselines.idql
        super().__init__(spec, own)
        self.candidates, self.ema_rate = (own.candidates,) * len(spec.streams), own.ema_rate
        self.value_every = own.value_every
        self.count_updates(spec.streams.device)
        self.average = deepcopy(self.diffusion).requires_grad_(False)

    def is_due(self) -> Tensor | None:
        """Whether the next update takes a step of V and Q: every `value_every`-th does."""
        return None if self.value_every == 1 else (self.updates + 1) % self.value_every == 0

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of the behaviour model and, every `value_every` updates, of V and then of Q."""
        moves = self.moves()
        logs = self.update_behavior(batch, noise)
        polyak_update(self.average, self.diffusion, self.ema_rate)
        self.updates += 1
        return logs | self.update_values(batch, moves)

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """Draw N actions and take the one with the largest min Q_φ⁻."""
        batch, n = observations.shape[1], self.candidates[0]  # the same for every run
        repeated = observations.repeat_interleave(n, 1)
        noise = streams.normal(batch, n, len(self.average.alphas), self.action_dim).flatten(1, 2)
        actions = self.average.sample(repeated, noise)
        return take_best(self.values.q(repeated, actions), actions, n)

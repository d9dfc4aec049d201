"""A policy of two steps from noise to action: a consistency model (Song et al. 2023) as Consistency-AC has it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flp.learner.trainable import Batch
from flp.networks.mish import MishMLP, MishTime
from flp.randomness.streams import RunStreams

LEAST, MOST = 0.002, 80.0  # sizes of noise: the data's, and where drawing begins
_BETWEEN = 2.0  # where it goes on
_SPREAD = 0.25  # variance that the data is taken to have
_FEWEST, _MANY = 2, 150  # levels that are told apart, at first and at last
_CURVE = 7  # levels lie evenly in their seventh roots
_WEIGHT = 100.0  # of the loss, over the distance of two levels
_TIME = 16  # numbers that tell the network its level


def level_count(updates: Tensor, period: int) -> Tensor:
    """N after so many updates: from 2 to 150 with the root of time, anew every `period` updates; float64."""
    done = (updates % period).double() / period
    return (done * (_MANY**2 - _FEWEST**2) + _FEWEST**2).sqrt().ceil()


def level(i: Tensor, count: Tensor) -> Tensor:
    """The i-th of N levels, from the least noise to the most; in float64, for i float64."""
    low, high = LEAST ** (1 / _CURVE), MOST ** (1 / _CURVE)
    levels: Tensor = (low + i / (count - 1) * (high - low)) ** _CURVE
    return levels


class Consistency(nn.Module):
    """f_θ(s, x, t): the action of which x is a copy with noise of size t, one function per run."""

    def __init__(self, streams: RunStreams, observation_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.time = MishTime(streams, _TIME)
        self.net = MishMLP(streams, observation_dim + action_dim + _TIME, hidden, action_dim)

    def forward(self, observations: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """f = c_skip(t) x + c_out(t) F(s, x, t), which is x itself at the least noise.

        Args:
            observations: s, `[R, B, o]`.
            x: noisy actions, `[R, B, a]`.
            t: their levels, `[R, B, 1]`, or `[R, 1, 1]` for one of all.
        """
        beyond = t - LEAST
        skip = _SPREAD / (beyond.square() + _SPREAD)
        out = math.sqrt(_SPREAD) * beyond / (t.square() + _SPREAD).sqrt()
        time = self.time(t).expand(-1, x.shape[1], -1)
        raw: Tensor = self.net(torch.cat([observations, x, time], -1)).squeeze(1)
        return skip * x + out * raw

    def sample(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions `[R, B, a]` in [-1, 1] from noise `[R, B, 2, a]` of the start and of the step between."""
        start, between = noise.unbind(2)
        x: Tensor = self(observations, MOST * start, start.new_full((len(start), 1, 1), MOST))
        x = x + math.sqrt(_BETWEEN**2 - LEAST**2) * between
        x = self(observations, x, x.new_full((len(x), 1, 1), _BETWEEN))
        return x.clamp(-1, 1)

    def loss(self, batch: Batch, teacher: Consistency, z: Tensor, u: Tensor, count: Tensor) -> Tensor:
        """How far f is from the teacher's at the level before, noise and data the same, per run `[R]`.

        Args:
            batch: observations and actions.
            teacher: who is believed.
            z: noise, `[R, B, a]`.
            u: uniform in [0, 1), `[R, B, 1]`: it draws the level.
            count: N.
        """
        observations, actions = batch["observations"], batch["actions"]
        i = (u.double() * (count - 1)).floor()
        near, far = level(i, count).to(z.dtype), level(i + 1, count).to(z.dtype)
        with torch.no_grad():
            taught = teacher(observations, actions + near * z, near)
        error: Tensor = self(observations, actions + far * z, far) - taught
        return (_WEIGHT / (far - near) * error.square()).mean((1, 2))

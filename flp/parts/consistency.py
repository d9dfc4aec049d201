"""A policy of two steps from noise to action: a consistency model (Song et al., 2023), as in Consistency-AC."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flp.learner.trainable import Batch
from flp.networks.mish import MishMLP, MishTime
from flp.randomness.streams import RunStreams

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # ε and T: the smallest and the largest noise level
SIGMA_BETWEEN = 2.0  # τ of the second sampling step
SIGMA_DATA = 0.5  # standard deviation that the data are assumed to have
RHO = 7  # noise levels are evenly spaced in their ρ-th roots
STEPS_MIN, STEPS_MAX = 2, 150  # s₀ and s₁, noise levels at the beginning and at the end of the schedule
_LOSS_WEIGHT = 100.0  # over the distance of two levels
_TIME_FEATURES = 16  # width of the embedded noise level


def discretization_steps(updates: Tensor, period: int) -> Tensor:
    """N(k) = ⌈√(k/K (s₁² − s₀²) + s₀²)⌉ after k updates, K = `period`, after which it restarts: 0-d, float64."""
    done = (updates % period).double() / period
    return (done * (STEPS_MAX**2 - STEPS_MIN**2) + STEPS_MIN**2).sqrt().ceil()


def noise_level(i: Tensor, steps: Tensor) -> Tensor:
    """t_i = (ε^(1/ρ) + i / (N − 1) · (T^(1/ρ) − ε^(1/ρ)))^ρ, for i = 0 to N − 1; float64 if i is."""
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    levels: Tensor = (low + i / (steps - 1) * (high - low)) ** RHO
    return levels


class Consistency(nn.Module):
    """f_θ(s, x, t): the action of which x is a copy with noise of standard deviation t, one function per run."""

    __call__: Callable[..., Tensor]

    def __init__(self, streams: RunStreams, observation_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.time = MishTime(streams, _TIME_FEATURES)
        self.net = MishMLP(streams, observation_dim + action_dim + _TIME_FEATURES, hidden, action_dim)

    def forward(self, observations: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """f = c_skip(t) x + c_out(t) F(s, x, t), which is x itself at t = ε.

        Args:
            observations: s, `[R, B, o]`.
            x: noisy actions, `[R, B, a]`.
            t: their noise levels, `[R, B, 1]`, or `[R, 1, 1]` for a common one.

        Returns:
            Actions `[R, B, a]`.
        """
        beyond = t - SIGMA_MIN
        skip = SIGMA_DATA**2 / (beyond.square() + SIGMA_DATA**2)
        out = SIGMA_DATA * beyond / (t.square() + SIGMA_DATA**2).sqrt()
        time = self.time(t).expand(-1, x.shape[1], -1)
        raw = self.net(torch.cat([observations, x, time], -1)).squeeze(1)
        return skip * x + out * raw

    def sample(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions `[R, B, a]` in [-1, 1] from noise `[R, B, 2, a]`, of the start and of the second step."""
        start, between = noise.unbind(2)
        x = self(observations, SIGMA_MAX * start, start.new_full((len(start), 1, 1), SIGMA_MAX))
        x = x + math.sqrt(SIGMA_BETWEEN**2 - SIGMA_MIN**2) * between
        x = self(observations, x, x.new_full((len(x), 1, 1), SIGMA_BETWEEN))
        return x.clamp(-1, 1)

    def loss(self, batch: Batch, teacher: Consistency, z: Tensor, u: Tensor, steps: Tensor) -> Tensor:
        """λ(t) ‖f(s, a + t_{i+1} z, t_{i+1}) − f⁻(s, a + t_i z, t_i)‖² with a teacher f⁻, per run `[R]`.

        Args:
            batch: observations and actions.
            teacher: f⁻.
            z: noise, `[R, B, a]`.
            u: uniform in [0, 1), `[R, B, 1]`, from which i is drawn.
            steps: N, 0-d.
        """
        observations, actions = batch["observations"], batch["actions"]
        i = (u.double() * (steps - 1)).floor()
        near, far = noise_level(i, steps).to(z.dtype), noise_level(i + 1, steps).to(z.dtype)
        with torch.no_grad():
            taught = teacher(observations, actions + near * z, near)
        error = self(observations, actions + far * z, far) - taught
        return (_LOSS_WEIGHT / (far - near) * error.square()).mean((1, 2))

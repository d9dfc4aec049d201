"""The behaviour flow f_ω: a velocity field, its matching loss, and its ODE solved both ways.

dx/dt = v_ω(s, x, t) carries latents z ~ N(0, I) at t = 0 to actions at t = 1. Decoding and inversion use the
same solver: stored latents, the prior and the decoder agree only if the inverse follows the same ODE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from flp.nets import MLP
from flp.streams import RunStreams

Velocity = Callable[[Tensor, float], Tensor]


class VelocityField(nn.Module):
    """v_ω(s, x, t), one per run, on the concatenation [s, x, t] (FQL, ActorVectorField)."""

    def __init__(self, streams: RunStreams, observation_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.net = MLP(streams, observation_dim + action_dim + 1, hidden, action_dim)

    def forward(self, observations: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Map `[R, B, o]`, `[R, B, a]` and times `[R, B, 1]` to velocities `[R, B, a]`."""
        velocity: Tensor = self.net(torch.cat([observations, x, t], -1))
        return velocity.squeeze(1)


def flow_matching_loss(field: VelocityField, observations: Tensor, actions: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Eq. 3 with the linear path x_t = (1 − t) x_0 + t x_1, per run: `[R]`.

    Args:
        observations: `[R, B, o]`.
        actions: x_1, `[R, B, a]`.
        noise: x_0 ~ N(0, I), `[R, B, a]`.
        t: uniform in [0, 1), `[R, B, 1]`.
    """
    x_t = torch.lerp(noise, actions, t)
    velocity = field(observations, x_t, t)
    # FQL averages over the action dimensions too; the paper's norm is this times the dimension.
    loss: Tensor = (velocity - (actions - noise)).square().mean((1, 2))
    return loss


def graded(steps: int, grading: float = 1.0) -> list[float]:
    """Times 0 = t_0 < … < t_steps = 1 with t_i = 1 − (1 − i / steps)^grading.

    With a grading above 1 the steps shorten towards t = 1, where a flow that ends in narrow modes bends most.
    """
    return [1 - (1 - i / steps) ** grading for i in range(steps + 1)]


def integrate(velocity: Velocity, x: Tensor, times: Sequence[float], solver: str) -> Tensor:
    """Solve dx/dt = velocity(x, t) through the given times, a step from each to the next.

    Args:
        velocity: the right-hand side.
        x: the state at the first time.
        times: rising, or falling to solve backwards.
        solver: "euler" (order 1), "midpoint" or "heun" (2), "rk4" (4).

    Raises:
        ValueError: unknown solver.
    """
    for t, after in pairwise(times):
        h = after - t
        k1 = velocity(x, t)
        if solver == "euler":
            x = x + h * k1
        elif solver == "midpoint":
            x = x + h * velocity(x + h / 2 * k1, t + h / 2)
        elif solver == "heun":
            x = x + h / 2 * (k1 + velocity(x + h * k1, after))
        elif solver == "rk4":
            k2 = velocity(x + h / 2 * k1, t + h / 2)
            k3 = velocity(x + h / 2 * k2, t + h / 2)
            k4 = velocity(x + h * k3, after)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        else:
            raise ValueError(f"unknown solver {solver!r}")
    return x


class Flow(nn.Module):
    """f_ω and its inverse: a velocity field with the solver that makes it a map.

    Args:
        field: the velocity field.
        solver: see `integrate`.
        steps: solver steps between t = 0 and t = 1.
        grading: how much they shorten towards t = 1; see `graded`.
    """

    def __init__(self, field: VelocityField, solver: str, steps: int, grading: float = 1.0) -> None:
        super().__init__()
        self.field, self.solver, self.steps, self.grading = field, solver, steps, grading
        self.times = graded(steps, grading)

    def freeze(self) -> Flow:
        """Take the flow out of every optimizer's and every gradient's reach; return it."""
        return self.requires_grad_(False).eval()

    def _velocity(self, observations: Tensor) -> Velocity:
        def velocity(x: Tensor, t: float) -> Tensor:
            out: Tensor = self.field(observations, x, x.new_full((*x.shape[:-1], 1), t))
            return out

        return velocity

    def forward(self, observations: Tensor, latents: Tensor) -> Tensor:
        """f_ω: latents `[R, B, a]` at t = 0 to actions `[R, B, a]` at t = 1, unclipped."""
        return integrate(self._velocity(observations), latents, self.times, self.solver)

    def inverse(self, observations: Tensor, actions: Tensor) -> Tensor:
        """f_ω⁻¹: actions `[R, B, a]` at t = 1 to latents `[R, B, a]` at t = 0, by the same solver."""
        return integrate(self._velocity(observations), actions, self.times[::-1], self.solver)

    def decode(self, observations: Tensor, latents: Tensor) -> Tensor:
        """Actions for the environment: f_ω, clipped to [-1, 1] at the very end."""
        actions: Tensor = self(observations, latents)
        return actions.clamp(-1, 1)

    def log_density(self, observations: Tensor, actions: Tensor) -> Tensor:
        """log π_β(a | s), `[R, B]`, by the change of variables along the ODE.

        log p(a) = log N(f⁻¹(a); 0, I) − ∫₀¹ div v dt, the divergence computed exactly, one backward pass per
        action dimension, and integrated beside the state by the same solver.
        """
        dim = actions.shape[-1]
        velocity = self._velocity(observations)

        def augmented(state: Tensor, t: float) -> Tensor:
            with torch.enable_grad():
                x = state[..., :dim].detach().requires_grad_()
                v = velocity(x, t)
                divergence = torch.zeros_like(v[..., 0])
                for i in range(dim):
                    (gradient,) = torch.autograd.grad(v[..., i].sum(), x, retain_graph=i + 1 < dim)
                    divergence = divergence + gradient[..., i]
            return torch.cat([v, divergence.unsqueeze(-1)], -1).detach()

        start = torch.cat([actions, torch.zeros_like(actions[..., :1])], -1)
        end = integrate(augmented, start, self.times[::-1], self.solver)
        latents, log_volume = end[..., :dim], end[..., dim]
        log_prior: Tensor = -0.5 * (latents.square() + math.log(2 * math.pi)).sum(-1)
        # Going backwards, log_volume = −∫₀¹ div v dt.
        return log_prior + log_volume

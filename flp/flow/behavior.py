"""The behaviour flow f_ω: the ODE of a velocity field, solved both ways, and its density.

dx/dt = v_ω(s, x, t) transports latents z ~ N(0, I) at t = 0 to actions at t = 1. Decoding and inversion use the
same solver: stored latents, the prior and the decoder agree only if the inverse follows the same ODE.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from flp.flow.solver import Velocity, graded, integrate
from flp.flow.velocity import VelocityField


class Flow(nn.Module):
    """f_ω and its inverse: a velocity field with the solver that makes it a map.

    Args:
        field: the velocity field.
        solver: see `integrate`.
        steps: solver steps between t = 0 and t = 1.
        grading: how strongly they shorten towards t = 1; see `graded`.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, field: VelocityField, solver: str, steps: int, grading: float = 1.0) -> None:
        super().__init__()
        self.field, self.solver, self.steps, self.grading = field, solver, steps, grading
        self.times = graded(steps, grading)

    def freeze(self) -> Flow:
        """Exclude the flow from gradients and return it."""
        return self.requires_grad_(False).eval()

    def _velocity(self, observations: Tensor) -> Velocity:
        features = self.field.encode(observations)

        def velocity(x: Tensor, t: float) -> Tensor:
            return self.field.velocity(features, x, x.new_full((*x.shape[:-1], 1), t))

        return velocity

    def forward(self, observations: Tensor, latents: Tensor) -> Tensor:
        """f_ω: latents `[R, B, a]` at t = 0 to actions `[R, B, a]` at t = 1, unclipped."""
        return integrate(self._velocity(observations), latents, self.times, self.solver)

    def inverse(self, observations: Tensor, actions: Tensor) -> Tensor:
        """f_ω⁻¹: actions `[R, B, a]` at t = 1 to latents `[R, B, a]` at t = 0, by the same solver."""
        return integrate(self._velocity(observations), actions, self.times[::-1], self.solver)

    def decode(self, observations: Tensor, latents: Tensor) -> Tensor:
        """Actions for the environment, `[R, B, a]`: f_ω, clipped to [-1, 1] after the last step."""
        return self(observations, latents).clamp(-1, 1)

    def log_density(self, observations: Tensor, actions: Tensor) -> Tensor:
        """log π_β(a | s), `[R, B]`, by the change of variables along the ODE.

        log p(a) = log N(f⁻¹(a); 0, I) − ∫₀¹ div v dt, with the exact divergence, one backward pass per
        action dimension, integrated along with the state by the same solver.
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
        # Integrated backwards, log_volume = −∫₀¹ div v dt.
        return log_prior + log_volume

"""Score-regularised policy optimisation: a policy moved by a diffusion model's score and by Q (SRPO, SRPO.py).

FQL's authors made it anew from IDQL's values and behaviour model, for the official code gave them nothing; so here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flp.learner.optimizers import Adam, descend
from flp.learner.trainable import Batch, Logs
from flp.networks.relu import ReLUMLP
from flp.parts.base import Spec
from flp.parts.diffusion import DiffusionAgent
from flp.randomness.streams import RunStreams


class SRPO(DiffusionAgent):
    """R deterministic policies a = tanh μ_θ(s)."""

    restraint = "lower offline.baselines.srpo.expectile"

    def __init__(self, spec: Spec) -> None:
        o, own = spec.offline, spec.offline.baselines.srpo
        super().__init__(spec, own)
        self.beta, self.normalize_gradient, self.actor_start = own.beta, own.normalize_gradient, own.actor_start
        self.actor = ReLUMLP(spec.streams, spec.observation_dim, own.actor_hidden or o.hidden, spec.action_dim)
        self.count_updates(spec.streams.device)
        self.optimizers.append(Adam(self.actor.parameters(), o.learning_rate, decay_steps=own.cosine_steps or o.steps))

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Noise and uniform levels, of denoising and of the policy's actions."""
        z = streams.normal(updates, batch_size, self.action_dim).transpose(0, 1)
        u = streams.uniform(updates, batch_size, 1).transpose(0, 1)
        return super().draw(streams, updates, batch_size) | {"policy_z": z, "policy_u": u}

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of the behaviour model, of V, of Q and, from `actor_start` on, of the policy."""
        logs = self.update_behavior(batch, noise) | self.update_values(batch)
        self.updates += 1
        moves = None if self.actor_start == 0 else self.updates > self.actor_start
        actor_loss, actor_logs = self.actor_loss(batch, noise)
        descend(self.optimizers[3], actor_loss, moves)
        return logs | actor_logs

    def policy(self, observations: Tensor) -> Tensor:
        """tanh μ_θ(s), `[R, B, a]`."""
        mean: Tensor = self.actor(observations).squeeze(1)
        return mean.tanh()

    def actor_loss(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        """⟨σ_k² (ε_φ − z) − β ∇Q, a⟩ with its left side held fixed, per run `[R]`: of use for its gradient alone."""
        actions = self.policy(batch["observations"])
        q, slope = self.slope(batch["observations"], actions)
        pull = self.pull(batch["observations"], actions, noise["policy_z"], noise["policy_u"])
        loss = ((pull - self.beta * slope) * actions).sum(-1).mean(1)
        return loss, {"actor_loss": loss.detach(), "actor_q": q.mean(1)}

    @torch.no_grad()
    def pull(self, observations: Tensor, actions: Tensor, z: Tensor, u: Tensor) -> Tensor:
        """σ_k² (ε_φ(s, α_k a + σ_k z, k) − z) at the level k of a uniform u: away from the data, `[R, B, a]`."""
        k = self.diffusion.level(u)
        x = self.diffusion.diffuse(actions, z, k)
        predicted: Tensor = self.diffusion.model(observations, x, k.to(x.dtype))
        return self.diffusion.noise[k].square() * (predicted - z)

    def slope(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the target critics `[R, B]`, and its gradient in the action `[R, B, a]`."""
        actions = actions.detach().requires_grad_()
        q = self.values.target_critic(observations, actions).mean(1)
        (slope,) = torch.autograd.grad(q.sum(), [actions])
        if self.normalize_gradient:
            slope = slope / slope.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-8)
        return q.detach(), slope

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """The policy, which has no noise."""
        return self.policy(observations)

"""Score-regularised policy optimisation: a policy trained by a diffusion model's score and by Q (SRPO, SRPO.py).

As FQL's authors rebuilt it, with IDQL's values and behaviour model, because the official code did not work for them.
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
        """Adds `policy_z` ~ N(0, I) `[updates, R, B, a]` and `policy_u` ~ U[0, 1) `[updates, R, B, 1]`."""
        z = streams.normal(updates, batch_size, self.action_dim).transpose(0, 1)
        u = streams.uniform(updates, batch_size, 1).transpose(0, 1)
        return super().draw(streams, updates, batch_size) | {"policy_z": z, "policy_u": u}

    def is_due(self) -> Tensor | None:
        """Whether the next update takes a step of the policy: those after the first `actor_start` do."""
        return None if self.actor_start == 0 else self.updates >= self.actor_start

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of the behaviour model, of V, of Q and, after `actor_start` updates, of the policy."""
        moves = self.moves()
        logs = self.update_behavior(batch, noise) | self.update_values(batch)
        self.updates += 1
        actor_loss, actor_logs = self.actor_loss(batch, noise)
        descend(self.optimizers[3], actor_loss, moves)
        return logs | actor_logs

    def policy(self, observations: Tensor) -> Tensor:
        """tanh μ_θ(s), `[R, B, a]`."""
        return self.actor(observations).squeeze(1).tanh()

    def actor_loss(self, batch: Batch, noise: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        """⟨σ_k² (ε_φ − z) − β ∇Q, a⟩ with a constant left side, per run `[R]`: only its gradient has a meaning."""
        actions = self.policy(batch["observations"])
        q, q_gradient = self.q_gradient(batch["observations"], actions)
        score_gradient = self.score_gradient(batch["observations"], actions, noise["policy_z"], noise["policy_u"])
        loss = ((score_gradient - self.beta * q_gradient) * actions).sum(-1).mean(1)
        return loss, {"actor_loss": loss.detach(), "actor_q": q.mean(1)}

    @torch.no_grad()
    def score_gradient(self, observations: Tensor, actions: Tensor, z: Tensor, u: Tensor) -> Tensor:
        """σ_k² (ε_φ(s, √ᾱ_k a + σ_k z, k) − z), away from the data, `[R, B, a]`; u `[R, B, 1]` gives the timestep k."""
        k = self.diffusion.timestep(u)
        x = self.diffusion.diffuse(actions, z, k)
        predicted = self.diffusion.model(observations, x, k.to(x.dtype))
        return self.diffusion.sigma[k].square() * (predicted - z)

    def q_gradient(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The target ensemble's mean `[R, B]`, and its gradient in the action `[R, B, a]`."""
        actions = actions.detach().requires_grad_()
        q = self.values.target_critic(observations, actions).mean(1)
        (gradient,) = torch.autograd.grad(q.sum(), [actions])
        if self.normalize_gradient:
            gradient = gradient / gradient.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-8)
        return q.detach(), gradient

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """The policy, which is deterministic."""
        return self.policy(observations)

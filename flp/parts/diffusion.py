"""What IDQL and SRPO share: a diffusion model of the behaviour, and in-sample values of ReLU networks.

It behaves like the official code of IDQL (jaxrl5, agents/ddpm_iql_simple): one network after the other is updated,
each from those before it, and the target critic follows the critic after its update.
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from flp.learner.optimizers import Adam, descend
from flp.learner.polyak import polyak_update
from flp.learner.trainable import Batch, Logs
from flp.networks.denoiser import Denoiser
from flp.networks.relu import ReLUCritic, ReLUValue
from flp.networks.values import aggregate
from flp.params import baselines
from flp.parts.base import Agent, Spec
from flp.parts.common import InSampleValues, td_loss
from flp.randomness.streams import RunStreams

_LEAST, _MOST = 0.1, 10.0  # rates of noise at the ends of the variance-preserving schedule


def retained(steps: int) -> list[float]:
    """α_k, the share of the variance that the k-th of `steps` steps retains (IDQL, vp_beta_schedule)."""
    return [math.exp(-_LEAST / steps - 0.5 * (_MOST - _LEAST) * (2 * k + 1) / steps**2) for k in range(steps)]


class Diffusion(nn.Module):
    """Actions by denoising (DDPM, Ho et al. 2020) with the predicted noise ε_φ(s, x, k), one model per run."""

    def __init__(self, spec: Spec, own: baselines.Diffusion) -> None:
        super().__init__()
        self.alphas = retained(own.diffusion_steps)
        self.model = Denoiser(spec.streams, spec.observation_dim, spec.action_dim, own.width, own.blocks)
        products = torch.tensor(self.alphas, dtype=torch.float64).cumprod(0)
        self.alpha_bars: list[float] = products.tolist()
        self.signal: Tensor
        self.noise: Tensor
        # Not saved: they are the same for all runs.
        for name, table in {"signal": products.sqrt(), "noise": (1 - products).sqrt()}.items():
            self.register_buffer(name, table.float().to(spec.streams.device), persistent=False)

    def level(self, uniform: Tensor) -> Tensor:
        """k of a uniform number in [0, 1)."""
        return (uniform * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)

    def diffuse(self, actions: Tensor, epsilon: Tensor, k: Tensor) -> Tensor:
        """√ᾱ_k a + √(1 − ᾱ_k) ε, `[R, B, a]`, for levels `[R, B, 1]`."""
        return self.signal[k] * actions + self.noise[k] * epsilon

    def loss(self, batch: Batch, epsilon: Tensor, u: Tensor, masks: Tensor | None = None) -> Tensor:
        """‖ε_φ(s, √ᾱ_k a + √(1 − ᾱ_k) ε, k) − ε‖² at the level k of a uniform u, per run `[R]`."""
        k = self.level(u)
        x = self.diffuse(batch["actions"], epsilon, k)
        predicted = self.model(batch["observations"], x, k.to(x.dtype), masks)
        loss: Tensor = (predicted - epsilon).square().sum(-1).mean(1)
        return loss

    def sample(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions `[R, B, a]` in [-1, 1] from `[R, B, steps, a]`: entry 0 is the start, entry k > 0 level k's noise."""
        x, *added = noise.unbind(2)
        for k in reversed(range(len(self.alphas))):
            alpha, alpha_bar = self.alphas[k], self.alpha_bars[k]
            epsilon = self.model(observations, x, x.new_full((*x.shape[:-1], 1), k))
            x = (x - (1 - alpha) / math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(alpha)
            if k > 0:
                x = x + math.sqrt(1 - alpha) * added[k - 1]
            x = x.clamp(-1, 1)
        return x


class RectifiedValues(InSampleValues):
    """V(s) and Q(s, a) of implicit Q-learning as IDQL has them; the target critics are what is asked."""

    def __init__(self, spec: Spec, own: baselines.Diffusion) -> None:
        nn.Module.__init__(self)
        o, hidden = spec.offline, own.value_hidden or spec.offline.hidden
        self.expectile, self.discount = own.expectile, spec.discount
        self.value = ReLUValue(spec.streams, spec.observation_dim, hidden, normalize=own.value_layer_norm)
        self.critic = ReLUCritic(spec.streams, spec.observation_dim, spec.action_dim, hidden, members=o.critics)
        self.target_critic = deepcopy(self.critic).requires_grad_(False)

    def critic_loss(self, batch: Batch, q: Tensor | None = None) -> tuple[Tensor, Logs]:
        """(Q − (r + γ · mask · V(s′)))², mean over the ensemble, per run `[R]`; q is the ensemble's Q(s, a)."""
        with torch.no_grad():
            y = batch["rewards"] + self.discount * batch["masks"] * self.value(batch["next_observations"])
        return td_loss(self.critic, batch, y, q)

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q_φ⁻(s, a), `[R, B]`."""
        return aggregate(self.target_critic(observations, actions), "min")


class DiffusionAgent(Agent):
    """Base of agents with such a behaviour model and such values; `own` is the algorithm's section."""

    def __init__(self, spec: Spec, own: baselines.Diffusion) -> None:
        super().__init__()
        o = spec.offline
        self.action_dim, self.target_rate = spec.action_dim, o.target_rate
        self.dropout, self.masks = own.dropout, (own.blocks, own.width)
        self.diffusion = Diffusion(spec, own)
        self.values = RectifiedValues(spec, own)
        decay_steps = own.cosine_steps or o.steps
        self.optimizers = [
            Adam(self.diffusion.parameters(), o.learning_rate, decay_steps=decay_steps, weight_decay=own.weight_decay),
            Adam(self.values.value.parameters(), o.learning_rate),
            Adam(self.values.critic.parameters(), o.learning_rate),
        ]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Noise and uniform levels of denoising; what dropout drops."""
        drawn = {
            "epsilon": streams.normal(updates, batch_size, self.action_dim),
            "u": streams.uniform(updates, batch_size, 1),
        }
        if self.dropout > 0:
            kept = streams.uniform(updates, batch_size, *self.masks) >= self.dropout
            drawn["masks"] = kept / (1 - self.dropout)
        return {name: value.transpose(0, 1) for name, value in drawn.items()}

    def update_behavior(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of the behaviour model."""
        loss = self.diffusion.loss(batch, noise["epsilon"], noise["u"], noise.get("masks"))
        descend(self.optimizers[0], loss)
        return {"diffusion_loss": loss.detach()}

    def update_values(self, batch: Batch, moves: Tensor | None = None) -> Logs:
        """One step of V, then of Q with the new V, then of the target with the new Q; none where `moves` is false."""
        value_loss, value_logs = self.values.value_loss(batch)
        descend(self.optimizers[1], value_loss, moves)
        critic_loss, critic_logs = self.values.critic_loss(batch)
        descend(self.optimizers[2], critic_loss, moves)
        rate = self.target_rate if moves is None else self.target_rate * moves
        polyak_update(self.values.target_critic, self.values.critic, rate)
        return value_logs | critic_logs

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q_φ⁻(s, a)."""
        return self.values.q(observations, actions)

"""What IDQL and SRPO share: a diffusion model of the behaviour, and in-sample values of ReLU networks.

As in IDQL's official code (jaxrl5, agents/ddpm_iql_simple), networks are updated one after the other, each with the
new parameters of those before it, and the target critic moves after the critic does.
"""

from __future__ import annotations

import math

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
from flp.parts.critics import td_loss
from flp.parts.in_sample import InSampleValues
from flp.randomness.streams import RunStreams

BETA_MIN, BETA_MAX = 0.1, 10.0  # noise rates at the ends of the variance-preserving schedule


def vp_alphas(steps: int) -> list[float]:
    """α_k, the share of the variance that the k-th of `steps` steps retains (IDQL, vp_beta_schedule)."""
    return [math.exp(-BETA_MIN / steps - 0.5 * (BETA_MAX - BETA_MIN) * (2 * k + 1) / steps**2) for k in range(steps)]


class Diffusion(nn.Module):
    """Actions by denoising (DDPM, Ho et al., 2020) with the predicted noise ε_φ(s, x, k), one model per run."""

    def __init__(self, spec: Spec, own: baselines.DiffusionSettings) -> None:
        super().__init__()
        self.alphas = vp_alphas(own.diffusion_steps)
        self.model = Denoiser(spec.streams, spec.observation_dim, spec.action_dim, own.width, own.blocks)
        products = torch.tensor(self.alphas, dtype=torch.float64).cumprod(0)
        self.alpha_bars: list[float] = products.tolist()
        self.sqrt_alpha_bar: Tensor
        self.sigma: Tensor
        # Not saved: they are constants.
        for name, table in {"sqrt_alpha_bar": products.sqrt(), "sigma": (1 - products).sqrt()}.items():
            self.register_buffer(name, table.float().to(spec.streams.device), persistent=False)

    def timestep(self, uniform: Tensor) -> Tensor:
        """k in {0, …, T − 1} from u ~ U[0, 1), each `[R, B, 1]`; int64."""
        return (uniform * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)

    def diffuse(self, actions: Tensor, epsilon: Tensor, k: Tensor) -> Tensor:
        """√ᾱ_k a + σ_k ε with σ_k = √(1 − ᾱ_k), `[R, B, a]`, for timesteps k `[R, B, 1]`."""
        return self.sqrt_alpha_bar[k] * actions + self.sigma[k] * epsilon

    def loss(self, batch: Batch, epsilon: Tensor, u: Tensor, masks: Tensor | None = None) -> Tensor:
        """‖ε_φ(s, √ᾱ_k a + σ_k ε, k) − ε‖², per run `[R]`.

        Args:
            batch: observations and actions.
            epsilon: ε ~ N(0, I), `[R, B, a]`.
            u: uniform in [0, 1), `[R, B, 1]`, from which k is drawn.
            masks: dropout masks of the model, `[R, B, blocks, width]`, or None.
        """
        k = self.timestep(u)
        x = self.diffuse(batch["actions"], epsilon, k)
        predicted = self.model(batch["observations"], x, k.to(x.dtype), masks)
        return (predicted - epsilon).square().sum(-1).mean(1)

    def sample(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions `[R, B, a]` in [-1, 1] from noise `[R, B, T, a]`: entry 0 starts, entry k > 0 is added at step k."""
        x, *added = noise.unbind(2)
        for k in reversed(range(len(self.alphas))):
            alpha, alpha_bar = self.alphas[k], self.alpha_bars[k]
            epsilon = self.model(observations, x, x.new_full((*x.shape[:-1], 1), k))
            x = (x - (1 - alpha) / math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(alpha)
            if k > 0:
                x = x + math.sqrt(1 - alpha) * added[k - 1]
            x = x.clamp(-1, 1)
        return x


class IDQLValues(InSampleValues):
    """In-sample values as in IDQL: Q's loss is a mean over the ensemble, and actions are judged by the target."""

    def critic_loss(self, batch: Batch, q: Tensor | None = None) -> tuple[Tensor, Logs]:
        """(Q(s, a) − y)², mean over the ensemble, per run `[R]`; q is Q(s, a) `[R, E, B]` if known."""
        return td_loss(self.critic, batch, self.target(batch), q)

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q_φ⁻(s, a), `[R, B]`."""
        return aggregate(self.target_critic(observations, actions), "min")


class DiffusionAgent(Agent):
    """Base of agents with such a behaviour model and such values.

    Args:
        spec: what the agent is built from.
        own: the algorithm's own hyperparameters.
    """

    def __init__(self, spec: Spec, own: baselines.DiffusionSettings) -> None:
        super().__init__()
        o, hidden = spec.offline, own.value_hidden or spec.offline.hidden
        self.action_dim, self.target_rate = spec.action_dim, o.target_rate
        self.dropout, self.masks = own.dropout, (own.blocks, own.width)
        self.diffusion = Diffusion(spec, own)
        value = ReLUValue(spec.streams, spec.observation_dim, hidden, normalize=own.value_layer_norm)
        critic = ReLUCritic(spec.streams, spec.observation_dim, spec.action_dim, hidden, members=o.critics)
        self.values = IDQLValues(value, critic, own.expectile, spec.discount)
        decay_steps = own.cosine_steps or o.steps
        self.optimizers = [
            Adam(self.diffusion.parameters(), o.learning_rate, decay_steps=decay_steps, weight_decay=own.weight_decay),
            Adam(value.parameters(), o.learning_rate),
            Adam(critic.parameters(), o.learning_rate),
        ]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Randomness of the diffusion loss.

        Returns:
            `epsilon` ~ N(0, I) `[updates, R, B, a]`, `u` ~ U[0, 1) `[updates, R, B, 1]` and, with dropout, `masks`
            `[updates, R, B, blocks, width]`.
        """
        drawn = {
            "epsilon": streams.normal(updates, batch_size, self.action_dim),
            "u": streams.uniform(updates, batch_size, 1),
        }
        if self.dropout > 0:
            keep = streams.uniform(updates, batch_size, *self.masks) >= self.dropout
            drawn["masks"] = keep / (1 - self.dropout)
        return {name: value.transpose(0, 1) for name, value in drawn.items()}

    def update_behavior(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of the behaviour model."""
        loss = self.diffusion.loss(batch, noise["epsilon"], noise["u"], noise.get("masks"))
        descend(self.optimizers[0], loss)
        return {"diffusion_loss": loss.detach()}

    def update_values(self, batch: Batch, moves: bool | Tensor = True) -> Logs:
        """One step of V, then of Q with the new V, then of the target with the new Q; none if `moves` is false."""
        value_loss, value_logs = self.values.value_loss(batch)
        descend(self.optimizers[1], value_loss, moves)
        critic_loss, critic_logs = self.values.critic_loss(batch)
        descend(self.optimizers[2], critic_loss, moves)
        if moves is not False:
            polyak_update(self.values.target_critic, self.values.critic, self.target_rate * moves)
        return value_logs | critic_logs

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q_φ⁻(s, a), `[R, B]`."""
        return self.values.q(observations, actions)

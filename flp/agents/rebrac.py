"""ReBRAC: TD3+BC with behaviour penalties in actor and critic (FQL, agents/rebrac.py)."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from flp.learner.optimizers import Adam, descend
from flp.learner.polyak import polyak_update
from flp.learner.trainable import Batch, Logs
from flp.networks.values import aggregate, magnitude
from flp.parts.base import Agent, Spec
from flp.parts.critics import make_critic, td_loss
from flp.parts.gaussian import GaussianActor
from flp.randomness.streams import RunStreams


class ReBRAC(Agent):
    """R deterministic policies a = tanh μ_θ(s) with clipped double Q."""

    uses_next_actions = True
    restraint = "raise offline.baselines.rebrac.alpha_actor"

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        o, own = spec.offline, spec.offline.baselines.rebrac
        self.discount, self.target_rate = spec.discount, o.target_rate
        self.alpha_actor, self.alpha_critic = own.alpha_actor, own.alpha_critic
        self.actor_every, self.noise, self.noise_clip = own.actor_every, own.noise, own.noise_clip
        self.action_dim = spec.action_dim
        self.actor = GaussianActor(spec.streams, spec.observation_dim, spec.action_dim, o.hidden, tanh=True)
        self.target_actor = deepcopy(self.actor).requires_grad_(False)
        self.critic, self.target_critic = make_critic(spec)
        self.count_updates(spec.streams.device)
        self.optimizers = [
            Adam(self.actor.parameters(), o.learning_rate),
            Adam(self.critic.parameters(), o.learning_rate),
        ]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """`target` ~ N(0, I) `[updates, R, B, a]`, noise of the target policy."""
        return {"target": streams.normal(updates, batch_size, self.action_dim).transpose(0, 1)}

    def is_due(self) -> Tensor:
        """Whether the next update moves the actor and the targets: every `actor_every`-th does."""
        return (self.updates + 1) % self.actor_every == 0

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """One step of the critic; every `actor_every` updates also one of the actor and the targets.

        In the other updates the actor's gradient is zero, but Adam still moves it by its momentum, as in the official
        code.
        """
        moves = self.moves()
        self.updates += 1
        with torch.set_grad_enabled(moves is not False):
            actor_loss, logs = self.actor_loss(batch)
        critic_loss, critic_logs = self.critic_loss(batch, noise["target"])
        if moves is False:
            self.optimizers[0].step([torch.zeros_like(p) for p in self.optimizers[0].parameters])
        else:
            polyak_update(self.target_critic, self.critic, self.target_rate * moves)
            polyak_update(self.target_actor, self.actor, self.target_rate * moves)
            descend(self.optimizers[0], moves * actor_loss)
        descend(self.optimizers[1], critic_loss)
        return logs | critic_logs

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        """−Q(s, a) / mean |Q| + α_actor ‖a − a_data‖² with Q the ensemble's minimum, per run `[R]`."""
        actions = self.actor(batch["observations"])
        q = aggregate(self.critic(batch["observations"], actions), "min")
        mse = (actions - batch["actions"]).square().sum(-1).mean(1)
        loss = -q.mean(1) / magnitude(q) + self.alpha_actor * mse
        return loss, {"actor_loss": loss.detach(), "actor_q": q.detach().mean(1), "mse": mse.detach()}

    def critic_loss(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Logs]:
        """(Q(s, a) − y)², mean over the ensemble, per run `[R]`; noise is `[R, B, a]`."""
        return td_loss(self.critic, batch, self.target(batch, noise))

    @torch.no_grad()
    def target(self, batch: Batch, noise: Tensor) -> Tensor:
        """y = r + γ · mask · (min Q_φ⁻(s′, a′) − α_critic ‖a′ − a′_data‖²), `[R, B]`."""
        actions = self._smooth(self.target_actor(batch["next_observations"]), noise)
        q = aggregate(self.target_critic(batch["next_observations"], actions), "min")
        # At the end of a trajectory there is no a′_data. The official code takes the next trajectory's first action
        # (and warns about it); here there is no penalty.
        penalty = (actions - batch["next_actions"]).square().sum(-1) * batch["has_next_action"]
        return batch["rewards"] + self.discount * batch["masks"] * (q - self.alpha_critic * penalty)

    def _smooth(self, actions: Tensor, noise: Tensor) -> Tensor:
        noise = (self.noise * noise).clamp(-self.noise_clip, self.noise_clip)
        return (actions + noise).clamp(-1, 1)

    @torch.no_grad()
    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q_φ(s, a), `[R, B]`."""
        return aggregate(self.critic(observations, actions), "min")

    @torch.no_grad()
    def act(self, observations: Tensor, streams: RunStreams) -> Tensor:
        """tanh μ_θ(s), without noise, as at temperature 0."""
        return self.actor(observations)

    @torch.no_grad()
    def explore(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """The policy with the target policy's noise, as at temperature 1."""
        mean = self.actor(observations)
        actions = self._smooth(mean, streams.normal(*mean.shape[1:]))
        return actions, actions

"""In-sample values: implicit Q-learning evaluates its critic at dataset actions alone (Kostrikov et al., 2022)."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from flp.learner.trainable import Batch, Logs
from flp.networks.values import Critic, Value, aggregate
from flp.parts.base import Spec
from flp.parts.critics import critic_logs, make_critic


class InSampleValues(nn.Module):
    """V(s) and Q(s, a) of implicit Q-learning, with losses as in FQL, agents/iql.py.

    Args:
        value: V.
        critic: Q; its target Q_φ⁻ starts as a copy.
        expectile: κ of V's regression.
        discount: γ.
    """

    def __init__(self, value: Value, critic: Critic, expectile: float, discount: Tensor | float) -> None:
        super().__init__()
        self.expectile, self.discount = expectile, discount
        self.value, self.critic = value, critic
        self.target_critic = deepcopy(critic).requires_grad_(False)

    def trained(self) -> list[nn.Parameter]:
        """The parameters of V and Q."""
        return [*self.value.parameters(), *self.critic.parameters()]

    def value_loss(self, batch: Batch, v: Tensor | None = None) -> tuple[Tensor, Logs]:
        """|κ − 1(δ < 0)| δ² with δ = min Q_φ⁻(s, a) − V(s), per run `[R]`; v is V(s) `[R, B]` if known."""
        with torch.no_grad():
            q = aggregate(self.target_critic(batch["observations"], batch["actions"]), "min")
        v = self.value(batch["observations"]) if v is None else v
        difference = q - v
        squared = difference.square()
        loss = torch.where(difference >= 0, self.expectile * squared, (1 - self.expectile) * squared).mean(1)
        return loss, {"value_loss": loss.detach(), "v": v.detach().mean(1)}

    def critic_loss(self, batch: Batch, q: Tensor | None = None) -> tuple[Tensor, Logs]:
        """(Q(s, a) − y)², summed over the ensemble, per run `[R]`; q is Q(s, a) `[R, E, B]` if known."""
        y = self.target(batch)
        q = self.critic(batch["observations"], batch["actions"]) if q is None else q
        loss = (q - y.unsqueeze(1)).square().sum(1).mean(1)
        return loss, critic_logs(loss, q)

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensor:
        """y = r + γ · mask · V(s′), `[R, B]`."""
        return batch["rewards"] + self.discount * batch["masks"] * self.value(batch["next_observations"])

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q_φ(s, a), `[R, B]`."""
        return aggregate(self.critic(observations, actions), "min")


def make_values(spec: Spec, expectile: float) -> InSampleValues:
    """In-sample values by the networks that all algorithms share."""
    o = spec.offline
    value = Value(spec.streams, spec.observation_dim, o.hidden, layer_norm=o.critic_layer_norm)
    return InSampleValues(value, make_critic(spec)[0], expectile, spec.discount)

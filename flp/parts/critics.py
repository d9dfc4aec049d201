"""Critics learnt by temporal differences, as in FQL's official code (agents/*.py)."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from flp.learner.trainable import Batch, Logs
from flp.networks.values import Critic, Value
from flp.parts.base import Spec


def make_critic(spec: Spec) -> tuple[Critic, Critic]:
    """Q_φ(s, a) and its target Q_φ⁻, initially equal."""
    o = spec.offline
    critic = Critic(
        spec.streams,
        spec.observation_dim,
        spec.action_dim,
        o.hidden,
        members=o.critics,
        layer_norm=o.critic_layer_norm,
    )
    return critic, deepcopy(critic).requires_grad_(False)


@torch.no_grad()
def initialize_values(module: nn.Module, start: Tensor) -> None:
    """Add `start` `[R]` to the initial values of all critics and state values in a module.

    With rewards of −1 a critic that starts from 0 has to sink to −1 / (1 − γ) before it is informative, and states
    whose values have not sunk yet look like success meanwhile. Started from the value of earning the average reward
    (`Replay.average_value`), values only rise, from the goal backwards.
    """
    for critic in module.modules():
        if isinstance(critic, (Critic, Value)):
            critic.net.biases[-1].add_(start.repeat_interleave(critic.net.members)[:, None, None])


def critic_logs(loss: Tensor, q: Tensor) -> Logs:
    """A critic's scalars from its loss `[R]` and its values `[R, E, B]`."""
    q = q.detach()
    return {"critic_loss": loss.detach(), "q": q.mean((1, 2)), "q_max": q.amax((1, 2))}


def td_loss(critic: Critic, batch: Batch, y: Tensor, q: Tensor | None = None) -> tuple[Tensor, Logs]:
    """(Q(s, a) − y)² with targets y `[R, B]`, mean over ensemble and batch, per run `[R]`; q is Q(s, a) if known."""
    q = critic(batch["observations"], batch["actions"]) if q is None else q
    loss = (q - y.unsqueeze(1)).square().mean((1, 2))
    return loss, critic_logs(loss, q)

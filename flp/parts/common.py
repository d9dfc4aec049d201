"""What the baselines share: a Gaussian actor, a behaviour flow, and in-sample values.

All of it behaves like the official code of FQL (agents/*.py, utils/networks.py). There every loss is computed from
the parameters before the update, and the target critic follows the critic before its update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from flp.flow.behavior import Flow
from flp.flow.velocity import VelocityField, flow_matching_loss
from flp.learner.trainable import Batch, Logs
from flp.networks.mlp import MLP
from flp.networks.values import Critic, Value, aggregate
from flp.parts.base import Agent, Spec
from flp.randomness.streams import RunStreams

# Variance scaling by 0.01 (FQL, final_fc_init_scale) scales the weights by its root.
HEAD_SCALE = 0.1


class GaussianActor(nn.Module):
    """The mean of a Gaussian of standard deviation 1 per run (FQL, utils/networks.py, Actor with const_std).

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        action_dim: width of a.
        hidden: widths of the hidden layers.
        tanh: squash the mean.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        streams: RunStreams,
        observation_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        *,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        self.tanh = tanh
        self.net = MLP(streams, observation_dim, hidden, action_dim)
        with torch.no_grad():
            self.net.weights[-1].mul_(HEAD_SCALE)

    def forward(self, observations: Tensor) -> Tensor:
        """Map `[R, B, o]` to `[R, B, a]`."""
        mean: Tensor = self.net(observations).squeeze(1)
        return mean.tanh() if self.tanh else mean


class DiagonalGaussian(nn.Module):
    """Mean μ_θ(s) and log σ_θ(s) of a Gaussian per run, by one network with two heads.

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        width: of what is drawn.
        hidden: widths of the hidden layers.
        log_std_range: clamp of log σ.
        zero_head: start at N(0, I).
    """

    __call__: Callable[..., tuple[Tensor, Tensor]]

    def __init__(
        self,
        streams: RunStreams,
        observation_dim: int,
        width: int,
        hidden: Sequence[int],
        log_std_range: tuple[float, float] = (-5.0, 2.0),
        *,
        zero_head: bool = False,
    ) -> None:
        super().__init__()
        self.log_std_range = log_std_range
        self.net = MLP(streams, observation_dim, hidden, 2 * width, zero_head=zero_head)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Map `[R, B, o]` to mean and log standard deviation, each `[R, B, width]`."""
        mean, log_std = self.net(observations).squeeze(1).chunk(2, -1)
        return mean, log_std.clamp(*self.log_std_range)


def log_prob(mean: Tensor, actions: Tensor) -> Tensor:
    """log N(a; mean, I), summed over the last axis."""
    return -0.5 * ((actions - mean).square() + math.log(2 * math.pi)).sum(-1)


def make_critic(spec: Spec) -> tuple[Critic, Critic]:
    """Q_φ(s, a) and its target, equal at first."""
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
def start_values(module: nn.Module, start: Tensor) -> None:
    """Let all critics and state values in a module say `start`, `[R]`, about everything, before they are trained.

    A critic that starts from 0 where rewards are -1 has to sink to -1 / (1 - discount) before it can tell anything,
    and what has not sunk yet looks like success meanwhile. Started from what the average reward is worth for ever,
    values only rise, from the goal backwards.
    """
    for critic in module.modules():
        if isinstance(critic, (Critic, Value)):
            critic.net.biases[-1].add_(start.repeat_interleave(critic.net.members)[:, None, None])


def critic_logs(loss: Tensor, q: Tensor) -> Logs:
    """A critic's scalars from its loss `[R]` and its values `[R, members, B]`."""
    q = q.detach()
    return {"critic_loss": loss.detach(), "q": q.mean((1, 2)), "q_max": q.amax((1, 2))}


def td_loss(critic: Critic, batch: Batch, y: Tensor, q: Tensor | None = None) -> tuple[Tensor, Logs]:
    """(Q(s, a) − y)² with y `[R, B]`, mean over ensemble and batch as in FQL, per run `[R]`; q is Q(s, a) if known."""
    q = critic(batch["observations"], batch["actions"]) if q is None else q
    loss = (q - y.unsqueeze(1)).square().mean((1, 2))
    return loss, critic_logs(loss, q)


class FlowAgent(Agent):
    """Base of agents with a behaviour flow: one of their own trained jointly, or the shared pretrained one.

    The shared one is called `flow` and is frozen; an own one is saved with its run.

    Args:
        spec: what the agent is made from.
        source: "joint" or "pretrained".
        steps: Euler steps of an own flow.
    """

    def __init__(self, spec: Spec, source: str, steps: int) -> None:
        super().__init__()
        self.action_dim, self.is_joint = spec.action_dim, source == "joint"
        if self.is_joint:
            field = VelocityField(spec.streams, spec.observation_dim, spec.action_dim, spec.offline.hidden)
            self.own_flow = Flow(field, "euler", steps)
        elif spec.flow is None:
            raise ValueError("the pretrained flow is missing")
        else:
            self.flow = spec.flow.freeze()

    @property
    def behavior(self) -> Flow:
        """The behaviour flow."""
        return self.own_flow if self.is_joint else self.flow

    def behavior_parameters(self) -> list[nn.Parameter]:
        """What is to be trained of it: nothing if it is the shared one."""
        return list(self.own_flow.parameters()) if self.is_joint else []

    def draw_behavior(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """x_0 ~ N(0, I) and t ~ U[0, 1) of its matching loss, if it has one."""
        if not self.is_joint:
            return {}
        x_0 = streams.normal(updates, batch_size, self.action_dim).transpose(0, 1)
        return {"x_0": x_0, "t": streams.uniform(updates, batch_size, 1).transpose(0, 1)}

    def behavior_loss(self, batch: Batch, noise: dict[str, Tensor]) -> Tensor:
        """Eq. 3 per run `[R]`; zero for the frozen flow."""
        if not self.is_joint:
            return torch.zeros_like(batch["rewards"][:, 0])
        field = self.own_flow.field
        return flow_matching_loss(field, batch["observations"], batch["actions"], noise["x_0"], noise["t"])


class InSampleValues(nn.Module):
    """V(s) and Q(s, a) of implicit Q-learning, which asks for dataset actions alone (FQL, agents/iql.py)."""

    def __init__(self, spec: Spec, expectile: float) -> None:
        super().__init__()
        o = spec.offline
        self.expectile, self.discount = expectile, spec.discount
        self.value = Value(spec.streams, spec.observation_dim, o.hidden, layer_norm=o.critic_layer_norm)
        self.critic, self.target_critic = make_critic(spec)

    def trained(self) -> list[nn.Parameter]:
        """The parameters of V and Q."""
        return [*self.value.parameters(), *self.critic.parameters()]

    def value_loss(self, batch: Batch, v: Tensor | None = None) -> tuple[Tensor, Logs]:
        """Expectile regression of V towards min Q_φ⁻ over the dataset's actions, per run `[R]`; v is V(s)."""
        with torch.no_grad():
            q = aggregate(self.target_critic(batch["observations"], batch["actions"]), "min")
        v = self.value(batch["observations"]) if v is None else v
        difference = q - v
        squared = difference.square()
        loss = torch.where(difference >= 0, self.expectile * squared, (1 - self.expectile) * squared).mean(1)
        return loss, {"value_loss": loss.detach(), "v": v.detach().mean(1)}

    def critic_loss(self, batch: Batch, q: Tensor | None = None) -> tuple[Tensor, Logs]:
        """(Q − (r + γ · mask · V(s′)))², summed over the ensemble, per run `[R]`; q is the ensemble's Q(s, a)."""
        with torch.no_grad():
            y = batch["rewards"] + self.discount * batch["masks"] * self.value(batch["next_observations"])
        q = self.critic(batch["observations"], batch["actions"]) if q is None else q
        loss = (q - y.unsqueeze(1)).square().sum(1).mean(1)
        return loss, critic_logs(loss, q)

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """min Q(s, a), `[R, B]`."""
        return aggregate(self.critic(observations, actions), "min")

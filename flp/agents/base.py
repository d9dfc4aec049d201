"""The interface of every algorithm, and what they share.

An agent holds R runs, its parameters stacked `[R, ...]`. The trainer knows four verbs: `draw` the randomness of
some updates, `update` on a batch, `act`, and `behave` (the behaviour policy alone, where there is one). All
are pure tensor code: no host synchronisation, so that updates can be captured into a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flp.flow import Flow
from flp.params import Offline
from flp.streams import RunStreams

Batch = dict[str, Tensor]
"""`observations`, `actions` (latents, for an agent that uses them), `next_observations`, `rewards`, `masks`."""
Logs = dict[str, Tensor]
"""Per-run scalars `[R]`."""


@dataclass(frozen=True)
class Spec:
    """What an agent is made from."""

    streams: RunStreams
    """Initialisation streams, one per run, on the device the parameters live on."""
    observation_dim: int
    action_dim: int
    offline: Offline
    """The shared hyperparameters."""
    alpha: Tensor
    """FLP's α per run, `[R]`."""
    candidates: tuple[int, ...]
    """FLP's N per run."""
    flow: Flow | None
    """The frozen behaviour flow, one field per run."""


class Agent(nn.Module):
    """Base of all agents."""

    uses_latents = False
    """Whether `actions` in the batch are latents z = f⁻¹(a)."""

    optimizers: list[torch.optim.Optimizer]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Draw the random numbers of some updates, each `[updates, R, batch_size, ...]`."""
        raise NotImplementedError

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """Take one gradient step of every network on a batch `[R, B, ...]`; return per-run scalars."""
        raise NotImplementedError

    def act(self, observations: Tensor, streams: RunStreams) -> tuple[Tensor, Tensor]:
        """Actions for the environment in [-1, 1] and as they are stored, each `[R, B, a]`."""
        raise NotImplementedError

    def behave(self, observations: Tensor, streams: RunStreams) -> Tensor | None:
        """Actions of the behaviour policy `[R, B, a]`, or None where the agent has none."""
        return None

    def optimizer_state(self) -> dict[str, Tensor]:
        """All optimizer tensors by a flat name, for a checkpoint."""
        return {
            f"optimizer{i}.{j}.{name}": value
            for i, optimizer in enumerate(self.optimizers)
            for j, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `optimizer_state` gave."""
        for i, optimizer in enumerate(self.optimizers):
            whole = optimizer.state_dict()
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                owner, index, field = name.split(".", 2)
                if owner == f"optimizer{i}":
                    state.setdefault(int(index), {})[field] = value
            optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Adam over stacked parameters: element-wise, so runs do not mix; one fused kernel, graph-capturable."""
    parameters = list(parameters)
    return torch.optim.Adam(parameters, learning_rate, fused=True, capturable=parameters[0].is_cuda)


def descend(optimizer: torch.optim.Optimizer, losses: Tensor, modules: nn.Module) -> None:
    """One step down the sum of per-run losses `[R]`: gradients of different runs never mix."""
    parameters = [p for p in modules.parameters() if p.requires_grad]
    for parameter, gradient in zip(parameters, torch.autograd.grad(losses.sum(), parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()


AgentFactory = Callable[[Spec], Agent]


def settings_of(spec: Spec, name: str) -> Any:
    """The algorithm's own section, `offline.baselines.{name}`."""
    return getattr(spec.offline.baselines, name)

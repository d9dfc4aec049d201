"""What is timed: untrained networks on random transitions of any size."""

from __future__ import annotations

import torch
from torch import Tensor

from flp.agents import make_agent
from flp.flow.behavior import Flow
from flp.flow.velocity import VelocityField
from flp.learner.compiled import Compiled
from flp.learner.replay import Replay
from flp.learner.trainer import Trainer
from flp.params.sections import FlowSettings, OfflineSettings
from flp.parts.base import Agent, Spec
from flp.randomness.streams import RunStreams


def random_tensor(*shape: int, device: torch.device) -> Tensor:
    """The same standard normal numbers for the same shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device)


def untrained_flow(settings: FlowSettings, sizes: tuple[int, int], runs: int, device: torch.device) -> Flow:
    """A flow of R runs for observations and actions of these sizes."""
    init = RunStreams(list(range(runs)), place=device)
    field = VelocityField(init, *sizes, settings.hidden, settings.encoder)
    return Flow(field, settings.solver, settings.solver_steps, settings.solver_grading)


def untrained_agent(name: str, offline: OfflineSettings, flow: Flow, sizes: tuple[int, int], runs: int) -> Agent:
    """An agent of R runs, on the flow's device."""
    device = next(flow.field.parameters()).device
    spec = Spec(
        streams=RunStreams(list(range(runs)), place=device),
        observation_dim=sizes[0],
        action_dim=sizes[1],
        offline=offline,
        alpha=torch.full((runs,), offline.alpha, device=device),
        candidates=(offline.candidates,) * runs,
        flow=flow,
    )
    return make_agent(name, spec)


def random_trainer(
    agent: Agent,
    offline: OfflineSettings,
    sizes: tuple[int, int],
    runs: int,
    device: torch.device,
    *,
    rows: int,
    episode: int,
) -> Trainer:
    """A trainer of the agent on random rows in episodes of one length, in the arithmetic of `offline`."""
    starts = torch.arange(rows)
    starts = starts[starts % episode != episode - 1].to(device)  # the last row of an episode starts no transition
    run_axis = torch.zeros(runs, dtype=torch.int64, device=device)
    replay = Replay(
        random_tensor(rows, sizes[0], device=device),
        starts,
        random_tensor(1, len(starts), sizes[1], device=device).clamp(-1, 1),
        -torch.ones(1, len(starts), device=device),
        torch.ones(1, len(starts), device=device),
        run_axis,
        run_axis,
        discount=offline.discount,
        n_step=offline.n_step,
        returns=agent.uses_returns,
        next_actions=agent.uses_next_actions,
    )
    autocast = torch.bfloat16 if offline.precision == "bfloat16" else None
    step_fn = Compiled(agent) if offline.compile else None
    streams = RunStreams(list(range(runs)), device)
    return Trainer(agent, replay, streams, offline.batch_size, autocast=autocast, step_fn=step_fn)

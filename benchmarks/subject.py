"""What is timed: an algorithm on random transitions, of any size."""

from __future__ import annotations

from typing import Any

import torch

from flp.agents import make_agent
from flp.flow.behavior import Flow
from flp.flow.velocity import VelocityField
from flp.learner.compiled import Compiled
from flp.learner.replay import Replay
from flp.learner.trainer import Trainer
from flp.params.loading import load_params
from flp.parts.base import Spec
from flp.randomness.streams import RunStreams

ROWS = 100_000
BEST_OF_4: dict[str, Any] = {"candidates": 4, "target_candidates": 4}  # the paper's N; params.yaml's is 1


def make_trainer(
    runs: int,
    observation: int,
    action: int,
    hidden: list[int],
    device: torch.device,
    batch: int,
    *,
    rows: int = ROWS,
    agent: str = "flp",
    **changes: Any,
) -> Trainer:
    offline = load_params("params.yaml").offline.model_copy(update={"hidden": hidden, "batch_size": batch, **changes})
    init = RunStreams(list(range(runs)), place=device)
    flow = Flow(VelocityField(init, observation, action, [8]), "midpoint", 10)
    spec = Spec(init, observation, action, offline, torch.ones(runs, device=device), (offline.candidates,) * runs, flow)
    learner = make_agent(agent, spec)
    source = torch.Generator().manual_seed(0)
    replay = Replay(
        torch.randn(rows + 1, observation, generator=source).to(device),
        torch.arange(rows, device=device),
        torch.randn(1, rows, action, generator=source).to(device),
        -torch.ones(1, rows, device=device),
        torch.ones(1, rows, device=device),
        torch.zeros(runs, dtype=torch.int64, device=device),
        torch.zeros(runs, dtype=torch.int64, device=device),
        discount=offline.discount,
        n_step=offline.n_step,
        returns=learner.uses_returns,
        next_actions=learner.uses_next_actions,
    )
    autocast = torch.bfloat16 if offline.precision == "bfloat16" else None
    step_fn = Compiled(learner.update) if offline.compile else None
    return Trainer(learner, replay, RunStreams(list(range(runs)), device), batch, autocast=autocast, step_fn=step_fn)

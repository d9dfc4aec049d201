"""A trainer of an algorithm on random transitions of any size, to be timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from flp.learner.trainer import Trainer
from flp.params.loading import load_params
from flp.supervision.synthetic import random_trainer, untrained_agent, untrained_flow

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
    own: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Trainer:
    """As `params.yaml` says, except for these sizes, the agent's `own` values and `changes` of the shared ones."""
    params, sizes = load_params("params.yaml"), (observation, action)
    offline = params.offline.model_copy(update={"hidden": hidden, "batch_size": batch, **changes})
    if own:
        section = getattr(offline.baselines, agent).model_copy(update=dict(own))
        offline = offline.model_copy(update={"baselines": offline.baselines.model_copy(update={agent: section})})
    small = {"hidden": [8], "encoder": [], "solver": "midpoint", "solver_steps": 10, "solver_grading": 1.0}
    flow = untrained_flow(params.flow.model_copy(update=small), sizes, runs, device)
    learner = untrained_agent(agent, offline, flow, sizes, runs)
    # One episode: every row but the last starts a transition.
    return random_trainer(learner, offline, sizes, runs, device, rows=rows + 1, episode=rows + 1)

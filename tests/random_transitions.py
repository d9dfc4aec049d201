"""Random transitions of two runs, and a trainer of FLP on them."""

from __future__ import annotations

import torch
from reference import make_agent

from flp.learner.replay import Replay
from flp.learner.trainer import Trainer
from flp.randomness.streams import RunStreams


def make_replay(capacity=0):
    streams = RunStreams([77])
    return Replay(
        streams.normal(41, 3)[0],
        torch.tensor([i for i in range(40) if i % 20 != 19]),
        streams.normal(38, 2),
        streams.normal(2 * 38).view(2, 38),
        torch.ones(2, 38),
        torch.tensor([0, 0]),
        torch.tensor([0, 1]),
        capacity,
    )


def make_trainer(batch_size=5, capacity=0, *, settings=None, **options):
    agent = make_agent([1, 2], **(settings or {}))
    return Trainer(agent, make_replay(capacity), RunStreams([3, 4]), batch_size, **options)

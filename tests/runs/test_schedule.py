"""The learning rate over a phase of training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from prepared_maze import train

from flp.learner.optimizers import Adam
from flp.stages import online_finetune


def rates(monkeypatch):
    """Every optimizer's rate at each of its steps."""
    taken, step = {}, Adam.step

    def told(self, gradients):
        taken.setdefault(id(self), []).append(float(self.rate()))
        step(self, gradients)

    monkeypatch.setattr(Adam, "step", told)
    return taken


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_rate_follows_its_schedule(here, monkeypatch, schedule):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"] |= {"schedule": schedule, "learning_rate": 0.01}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    taken, steps = rates(monkeypatch), values["offline"]["steps"]
    assert train() == 0
    falling = [0.005 * (1 + math.cos(math.pi * t / steps)) for t in range(steps)]
    expected = falling if schedule == "cosine" else [0.01] * steps
    assert len(taken) >= 2
    for rate in taken.values():
        assert rate == pytest.approx(expected, abs=1e-8)
    taken.clear()
    assert train(online_finetune) == 0
    assert all(set(rate) == {0.01} for rate in taken.values()) and taken

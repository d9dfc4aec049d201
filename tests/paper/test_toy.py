"""The toy problem of Figure 2 shows in numbers what the paper says about it."""

from __future__ import annotations

import io
import os
import signal
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch

from flp.learner.trainer import Trainer
from flp.paper import figure2
from flp.params.sections import Figure2Settings
from flp.stages.figure import resumable
from flp.system.stopping import STOP, InterruptedJobError


def test_measure_counts_the_draws_on_and_off_the_modes():
    best, opposite = figure2.centres()[0], figure2.centres()[3]
    actions = torch.stack([best, best, opposite, torch.zeros(2)])
    numbers = figure2.measure(actions)
    assert [numbers[f"mode_{i}"] for i in range(1, 7)] == [0.5, 0, 0, 0.25, 0, 0]
    assert numbers["off_support"] == 0.25
    assert numbers["distance"] == pytest.approx(figure2.RADIUS / 4, abs=1e-4)
    assert numbers["value"] == pytest.approx(0.5, abs=1e-3)


def test_the_landscape_has_one_best_mode_and_nothing_between():
    values = figure2.true_value(figure2.centres())
    assert values[0] == values.max() == pytest.approx(1, abs=1e-3)
    assert values[3] == values.min() == pytest.approx(0, abs=1e-3)
    assert figure2.true_value(torch.zeros(2)) == 0
    assert figure2.true_value(torch.tensor([1.0, 0.0])) == 0


def test_picture_and_numbers_follow_the_parameters():
    texts = figure2.make(Figure2Settings(steps=20, flp_alpha=[1.0, 0.1], fql_alpha=[5.0]))
    assert ElementTree.fromstring(texts[".svg"]).tag.endswith("svg")
    assert "FQL, α = 5" in texts[".svg"] and "FLP, α = 0.1" in texts[".svg"]
    numbers = pd.read_csv(io.StringIO(texts[".csv"]))
    assert numbers["policy"].tolist() == ["data", "flow", "flp", "flp", "fql"]
    assert numbers["strength"].tolist()[2:] == [1.0, 0.1, 5.0]
    modes = numbers[[f"mode_{i}" for i in range(1, 7)]].sum(axis=1)
    assert (modes + numbers["off_support"]).tolist() == pytest.approx([1] * 5, abs=1e-3)
    assert numbers["off_support"][0] < 0.01


def test_stopped_it_goes_on_to_the_same_bytes(signals, tmp_path, monkeypatch):
    settings = Figure2Settings(steps=30, flp_alpha=[1.0], fql_alpha=[5.0])
    fit = resumable(tmp_path)
    take = Trainer.run_updates

    def stopping(trainer, *drawn):
        logs = take(trainer, *drawn)
        if trainer.step == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return logs

    def watching(name, trainer, steps):
        if name == "fql":  # the last part: the others are done
            monkeypatch.setattr(Trainer, "run_updates", stopping)
        fit(name, trainer, steps)

    with pytest.raises(InterruptedJobError):
        figure2.make(settings, watching)
    monkeypatch.setattr(Trainer, "run_updates", take)
    STOP.signal = None
    assert figure2.make(settings, resumable(tmp_path)) == figure2.make(settings)


@pytest.mark.slow(40)
def test_flp_moves_between_modes_on_the_support_and_fql_does_not():
    numbers = figure2.run(Figure2Settings(steps=1200)).numbers().set_index("policy")
    flow, flp, fql = numbers.loc["flow"], numbers.loc["flp"], numbers.loc["fql"]
    # FLP: the weaker the regularisation, the more mass on the best mode; never more off the support than the flow.
    best = flp["mode_1"].tolist()
    assert best[0] == pytest.approx(flow["mode_1"], abs=0.1)
    assert best[-1] > 0.6
    assert best == sorted(best)
    assert (flp["off_support"] < flow["off_support"] + 0.05).all()
    assert flp["value"].tolist() == sorted(flp["value"])
    # FQL: under strong regularisation it stays where it was; under weak it leaves the data and loses value.
    assert fql["mode_1"].iloc[0] == pytest.approx(flow["mode_1"], abs=0.1)
    assert fql["off_support"].iloc[-1] > 0.9
    assert fql["value"].iloc[-1] < flow["value"] / 2
    assert fql.loc[fql["off_support"] < 0.5, "mode_1"].max() < 0.5
    assert fql["value"].max() < flp["value"].iloc[-1]

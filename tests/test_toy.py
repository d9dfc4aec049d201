"""Figure 2's toy shows by numbers what the paper says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import torch

from flp.toy import figure2


def test_measure_counts_modes_and_strays():
    best, opposite = figure2.centres()[0], figure2.centres()[3]
    actions = torch.stack([best, best, opposite, torch.zeros(2)])
    found = figure2.measure(actions)
    assert found["mass_per_mode"] == [0.5, 0, 0, 0.25, 0, 0]
    assert found["mass_off_support"] == 0.25
    assert found["distance_to_nearest_mode"] == pytest.approx(figure2.RADIUS / 4, abs=1e-4)
    assert found["value"] == pytest.approx(0.5, abs=1e-3)


def test_the_landscape_has_one_best_mode_and_nothing_between():
    values = figure2.true_value(figure2.centres())
    assert values[0] == values.max() == pytest.approx(1, abs=1e-3)
    assert values[3] == values.min() == pytest.approx(0, abs=1e-3)
    assert figure2.true_value(torch.zeros(2)) == 0
    assert figure2.true_value(torch.tensor([1.0, 0.0])) == 0


def test_the_program_writes_picture_and_numbers(tmp_path):
    target = tmp_path / "figures" / "figure2.svg"
    command = [sys.executable, "-W", "error", "-m", "flp.toy.figure2", "--output", str(target), "--steps", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10
    assert ElementTree.parse(target).getroot().tag.endswith("svg")
    numbers = json.loads(target.with_suffix(".json").read_text())
    for name, strengths in figure2.STRENGTHS.items():
        assert [row["strength"] for row in numbers[name]] == list(strengths)
        for row in numbers[name]:
            assert sum(row["mass_per_mode"]) + row["mass_off_support"] == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_flp_moves_between_modes_on_the_support_and_fql_does_not():
    numbers = figure2.run(steps=1200, seed=0).numbers()
    flow, flp, fql = numbers["flow"], numbers["flp"], numbers["fql"]
    # FLP: the weaker the regularisation, the more lies on the best mode; off the support is never more than the flow.
    best = [row["mass_per_mode"][0] for row in flp]
    assert best[0] == pytest.approx(flow["mass_per_mode"][0], abs=0.1)
    assert best[-1] > 0.6
    assert best == sorted(best)
    assert all(row["mass_off_support"] < flow["mass_off_support"] + 0.05 for row in flp)
    assert [row["value"] for row in flp] == sorted(row["value"] for row in flp)
    # FQL: first it stays where it was; then it leaves the data altogether, and is worth less than what it came from.
    assert fql[0]["mass_per_mode"][0] == pytest.approx(flow["mass_per_mode"][0], abs=0.1)
    assert fql[-1]["mass_off_support"] > 0.9
    assert fql[-1]["value"] < flow["value"] / 2
    assert max(row["mass_per_mode"][0] for row in fql if row["mass_off_support"] < 0.5) < 0.5
    assert max(row["value"] for row in fql) < flp[-1]["value"]

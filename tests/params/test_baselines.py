"""The baselines' own hyperparameters: their bounds, and what begins too late to happen."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from test_params import DEFAULT, refusal

from flp import cli
from flp.params.loading import merge, parse

NUMBERS = ("flow_steps", "diffusion_steps", "candidates", "draws", "max_backup", "blocks", "width")
OWN = [(agent, name) for agent, own in DEFAULT["offline"]["baselines"].items() for name in NUMBERS if name in own]
LATE = [
    ("srpo", "actor_start", 40, "its policy is never trained"),
    ("cac", "ema_start", 40, "all targets come from the untrained policy"),
    ("idql", "value_every", 41, "its values are never trained"),
]


def of(agent, name, value, **offline):
    return merge(DEFAULT, {"offline": offline | {"agents": [agent], "baselines": {agent: {name: value}}}})


@pytest.mark.parametrize(("agent", "name"), OWN)
def test_what_takes_memory_or_time_in_proportion_is_bounded(agent, name):
    assert f"baselines.{agent}.{name}" in refusal(of(agent, name, 10**9))


@pytest.mark.parametrize(("agent", "name", "value", "what"), LATE)
def test_what_begins_after_training_ends_is_warned_of(agent, name, value, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for given, warned in ((value, True), (value - 1, False)):
        values = of(agent, name, given, steps=40)
        Path("params.yaml").write_text(yaml.safe_dump(values))
        assert cli.main(["check"]) == 0
        foretold = capsys.readouterr().err
        own = parse(values).for_agent(agent)
        assert (own.offline.late(agent) != "") == warned
        line = f"{agent}: baselines.{agent}.{name} is {given}: in 40 steps {what}; lower it, or raise offline.steps"
        assert (line in foretold) == warned

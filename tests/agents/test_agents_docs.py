"""The example in docs/adding-an-algorithm.md works as printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from types import ModuleType

import pytest
import torch
import yaml
from repository import REPO
from test_agents_common import make
from test_agents_learning import SMALL, actions_at, bandit, learn

from flp.parts.behavior_flow import BehaviorFlow
from flp.system.errors import FLPError

PAGE = REPO / "docs" / "adding-an-algorithm.md"


@pytest.fixture
def example(monkeypatch):
    """The page's code as the module that its text names."""
    page = PAGE.read_text(encoding="utf-8")
    (name,) = re.findall(r"`flp/agents/(\w+)\.py`; a test", page)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    module = ModuleType(f"flp.agents.{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, f"{PAGE.name}: {name}.py", "exec"), vars(module))
    return name


def test_the_example_learns(example):
    agent = learn(example, bandit(), steps=300)
    assert actions_at(agent, [1.0])[:, 0].mean().item() == pytest.approx(0.6, abs=0.1)


def test_the_example_has_runs(example):
    agent = make(example, [1, 2, 3], **SMALL)
    assert agent.draw(agent, 1, 1) == {}
    actions = agent.act(torch.zeros(3, 5, 3), agent)
    assert actions.shape == (3, 5, 2)


def test_the_pages_code_passes_the_linter():
    page = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (names,) = re.findall(r"```text\n(AgentName = .*?)```", page, re.DOTALL)
    for text in (code, f"from typing import Literal\n\n{names}"):
        for command in (["format", "--diff"], ["check", "--ignore", "D100"]):
            ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", "flp/agents/filteredbc.py", "-"]
            done = subprocess.run(ruff, cwd=REPO, input=text, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow(8)
def test_the_pages_steps_make_it_one_of_the_experiments_algorithms(tmp_path):
    """A copy of the package is changed as the page says, and asked what it would train and for how long."""
    page = PAGE.read_text(encoding="utf-8")
    (name,) = re.findall(r"`flp/agents/(\w+)\.py`; a test", page)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (names,) = re.findall(r"```text\n(AgentName = .*?)```", page, re.DOTALL)
    shutil.copytree(REPO / "flp", tmp_path / "flp", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "flp" / "agents" / f"{name}.py").write_text(code, encoding="utf-8")
    sections = tmp_path / "flp" / "params" / "sections.py"
    changed, count = re.subn(r"AgentName = Literal\[.*?\]\n", names, sections.read_text("utf-8"), flags=re.DOTALL)
    assert count == 1
    sections.write_text(changed, encoding="utf-8")
    values = yaml.safe_load((REPO / "params.yaml").read_text())
    values["offline"]["agents"] = [name]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    command, env = [sys.executable, "-m", "flp.cli", "check"], os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"offline-train {name} " in done.stdout
    # Its keys hold all that it may read: the shared hyperparameters, and the section of what it is built on.
    (tmp_path / "flp" / "agents" / f"{name}.py").write_text(
        code + "\nfrom flp.agents.iql import IQL  # noqa\n", "utf-8"
    )
    done = subprocess.run([sys.executable, "-c", KEYED, name], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "False"], done.stderr


KEYED = """
import sys, yaml
from flp.experiment.keys import Keys
from flp.params.loading import merge, parse
from flp.params.run import Run

values = yaml.safe_load(open("params.yaml"))
key = lambda **changes: Keys(parse(merge(values, {"offline": changes}))).offline_run(
    values["datasets"][0], sys.argv[1], Run(1, 0, 1.0, 1)
)
iql, fql = {"iql": {"expectile": 0.6}}, {"fql": {"alpha": 3.0}}
for changes in ({"temperature": 0.5}, {"baselines": iql}, {"baselines": fql}):
    print(key() != key(**changes))
"""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("class One(FilteredBC): ...\nclass Two(FilteredBC): ...", "defines FilteredBC and One and Two"),
        ("del FilteredBC", "defines none"),
        ("FilteredBC.uses_latents = True", r"must be in IN_LATENTS \(flp/params/sections.py\)"),
        ("FilteredBC.__init__ = lambda self, spec: BehaviorFlow(self, spec, 'pretrained', 3)", "a section of its own"),
    ],
)
def test_what_breaks_the_contract_is_told(example, code, says):
    module = sys.modules[f"flp.agents.{example}"]
    module.BehaviorFlow = BehaviorFlow
    exec(code, vars(module))
    with pytest.raises(FLPError, match=says):
        make(example, [1], **SMALL)


def test_the_page_names_what_exists():
    page = PAGE.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:flp|tests|workflow)/[\w/.]+\.(?:py|json))`", page):
        if "filteredbc" not in path:
            assert (REPO / path).is_file(), path

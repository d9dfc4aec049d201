"""The example in docs/adding-an-algorithm.md works as printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_agents_common import make
from test_agents_learning import SMALL, actions_at, bandit, learn

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-algorithm.md"


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


def test_the_page_names_what_exists():
    page = PAGE.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:flp|tests|workflow)/[\w/.]+\.(?:py|json))`", page):
        if "filteredbc" not in path:
            assert (PAGE.parents[1] / path).is_file(), path

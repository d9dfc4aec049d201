"""docs/your-own-task.md works as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from repository import REPO
from workflow_support import new_checkout

from flp.params.loading import merge, parse
from flp.params.yamlfile import read_yaml

PAGE = (REPO / "docs" / "your-own-task.md").read_text()


def blocks(language: str) -> dict[str, str]:
    """The page's blocks of a language, by their names or numbers."""
    found = re.findall(rf"^```{language} ?(\S*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return {name or str(i): text for i, (name, text) in enumerate(found)}


@pytest.mark.parametrize("name", blocks("yaml"))
def test_every_section_is_one_that_params_yaml_takes(name):
    overlay = yaml.safe_load(blocks("yaml")[name])
    names = list(overlay["tasks"])
    params = parse(merge(read_yaml(REPO / "params.yaml"), overlay | {"datasets": overlay.get("datasets", names)}))
    assert set(names) <= set(params.datasets)


@pytest.mark.slow(25)
def test_the_walk_through_works_as_written(tmp_path: Path):
    checkout = new_checkout(tmp_path / "work", stand_ins=False)
    for name, text in blocks("python").items():
        (checkout.root / name).write_text(text)
    overlay = yaml.safe_load(blocks("yaml")["pendulum.yaml"])
    overlay["offline"]["steps"] = overlay["evaluation"]["every"] = 20  # at a scale of seconds
    (checkout.root / "pendulum.yaml").write_text(yaml.safe_dump(overlay))
    here = {"PYTHONPATH": str(checkout.root)}
    (commands,) = blocks("sh").values()
    said = checkout.run("bash", "-euo", "pipefail", "-c", commands, **here)
    assert "20000 transitions" in said.stdout or "19900 transitions" in said.stdout
    page = (checkout.root / "results/report/index.html").read_text()
    assert "pendulum" in page and "Undiscounted return and episode length" in page
    assert re.search(r"success \d of 5 .*, return -\d+", checkout.run("python", "play.py", **here).stdout)
    assert checkout.planned("--configfile", "pendulum.yaml") == {}  # nothing is left to do

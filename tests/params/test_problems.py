"""A refusal names what was written, and the nearest valid name."""

from __future__ import annotations

from typing import Any

import pytest
from repository import REPO

from flp.params.loading import merge, parse
from flp.params.yamlfile import read_yaml
from flp.system.errors import FLPError

DEFAULT = read_yaml(REPO / "params.yaml")
MINE = {"data": {"path": "mine.npz"}, "environment": None}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(FLPError) as error:
        parse(values)
    return str(error.value)


def renamed(values: dict[str, Any], path: str, name: str) -> dict[str, Any]:
    """The values with one key renamed, in its place."""
    first, _, rest = path.partition(".")
    if rest:
        return values | {first: renamed(values[first], rest, name)}
    return {name if key == first else key: value for key, value in values.items()}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("offline.alpha", "alhpa"),
        ("seeds", "seed"),
        ("evaluation", "evalution"),
        ("flow.solver_steps", "solver_step"),
        ("evaluation.seed", "Seed"),
    ],
)
def test_a_renamed_key_is_named_rather_than_the_one_it_leaves_out(path: str, name: str) -> None:
    section, _, last = path.rpartition(".")
    place = f"{section}.{name}" if section else name
    assert refusal(renamed(DEFAULT, path, name)) == f"params.yaml: {place}: unknown key; did you mean '{last}'?"


def test_a_key_that_is_only_missing_is_named() -> None:
    without = DEFAULT | {"offline": {key: value for key, value in DEFAULT["offline"].items() if key != "alpha"}}
    assert refusal(without).startswith("params.yaml: offline.alpha: missing;")


@pytest.mark.parametrize(
    ("task", "place", "name"),
    [
        ({"data": {"pth": "mine.npz"}}, "data.pth", "path"),
        ({"succes": "none"}, "succes", "success"),
        ({"reference": {"randm": 0.0, "expert": 1.0}}, "reference.randm", "random"),
        ({"actions": {"low": 0, "hihg": 1}}, "actions.hihg", "high"),
    ],
)
def test_keys_within_mappings_and_optional_sections_have_a_nearest_name(
    task: dict[str, Any], place: str, name: str
) -> None:
    message = refusal(DEFAULT | {"tasks": {"mine": MINE | task}})
    assert message == f"params.yaml: tasks.mine.{place}: unknown key; did you mean '{name}'?"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"offline": {"agents": ["FLP"]}}, "flp"),
        ({"flow": {"solver": "RK4"}}, "rk4"),
        ({"offline": {"aggregation": "Mean"}}, "mean"),
        ({"datasets": ["CUBE-single-play"]}, "cube-single-play"),
        ({"Offline": {}}, "offline"),
        ({"offline": {"baselines": {"IQL": {}}}}, "iql"),
    ],
)
def test_upper_and_lower_case_are_near(values: dict[str, Any], name: str) -> None:
    assert refusal(merge(DEFAULT, values)).endswith(f"did you mean '{name}'?")

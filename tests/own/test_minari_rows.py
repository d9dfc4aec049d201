"""Reading Minari datasets that are damaged, or whose observations are ordered differently from the environment's.

The datasets here are what Minari hands over of them, for its collector needs JAX (test_minari_data.py).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from flp.own import adapter, importing
from flp.own.importing import TaskSource, read_task
from flp.own.minari_data import open_minari, read_minari, reference_of
from flp.system.errors import FLPError

ANGLE, SPEED = spaces.Box(-4, 4, (2,)), spaces.Box(-9, 9, (1,))


class Arm(gymnasium.Env):
    """Its observations are a dictionary whose keys are not sorted."""

    observation_space = spaces.Dict(speed=SPEED, angle=ANGLE)
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, **options: Any) -> Any:
        return {"speed": np.array([7.0], np.float32), "angle": np.array([0.1, 0.2], np.float32)}, {}

    def step(self, action: Any) -> Any:
        return self.reset()[0], 0.0, False, False, {}


def episode(steps: int = 3, **changes: Any) -> Any:
    class Episode(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.actions)

    parts = {
        "observations": {"angle": np.tile([0.1, 0.2], (steps + 1, 1)), "speed": np.full((steps + 1, 1), 7.0)},
        "actions": np.zeros((steps, 1)),
        "rewards": np.ones(steps),
        "terminations": np.zeros(steps, bool),
    }
    return Episode(**parts | changes)


def dataset(*episodes: Any, **changes: Any) -> Any:
    """As Minari returns it: a dictionary's keys are sorted in its file."""
    space = spaces.Dict(spaces.Dict({"angle": ANGLE, "speed": SPEED}).spaces)
    spec = SimpleNamespace(id="Arm-v0", kwargs={}, max_episode_steps=5, additional_wrappers=())
    known = {"observation_space": space, "action_space": spaces.Box(-1, 1, (1,)), "env_spec": spec}
    storage = SimpleNamespace(metadata=changes.pop("metadata", {}))
    return SimpleNamespace(iterate_episodes=lambda: iter(episodes), storage=storage, **known | changes)


@pytest.fixture
def arm(monkeypatch):
    monkeypatch.setitem(
        gymnasium.registry, "Arm-v0", gymnasium.envs.registration.EnvSpec("Arm-v0", Arm, max_episode_steps=5)
    )
    return adapter.Adapter(gymnasium.make("Arm-v0", disable_env_checker=True), "arm", "none", lambda action: action)


def gathered(monkeypatch, data: Any, **asked: Any) -> Any:
    monkeypatch.setattr(importing, "open_minari", lambda name: data)
    given = {"environment": "dataset", "kwargs": {}, "success": "none", "actions": None} | asked
    return read_task(TaskSource("arm", None, "arm/x-v0", **given))


def test_the_data_s_dictionaries_lie_in_the_environment_s_order(arm, monkeypatch):
    seen, _ = arm.reset()
    rows, _ = gathered(monkeypatch, dataset(episode(), episode())).parts
    np.testing.assert_allclose(rows["observations"][0], seen)
    np.testing.assert_allclose(seen, [7, 0.1, 0.2])


def test_other_parts_than_the_environment_s_are_refused(arm, monkeypatch):
    other = dataset(episode(), observation_space=spaces.Dict({"angle": SPEED, "speed": ANGLE}))
    with pytest.raises(FLPError, match=r"Arm-v0 has observations .* arm/x-v0 has "):
        gathered(monkeypatch, other)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"rewards": np.ones(2)}, r"of 3 actions it has \{'rewards': 2\}"),
        ({"terminations": np.full(3, 7)}, "terminations are not all true or false"),
        ({"observations": {"angle": np.zeros((4, 2))}}, "KeyError: 'speed'"),
        ({"actions": np.zeros((5, 1))}, "IndexError"),
    ],
)
def test_a_damaged_episode_is_named(damage, reason):
    with pytest.raises(FLPError, match=f"x: episode 1 .from 0. cannot be read .*{reason}.*correct your file"):
        read_minari(dataset(episode(), episode(**damage)), "x")


def test_a_file_that_cannot_be_read_is_told_in_a_line():
    def broken():
        yield episode()
        raise OSError("Can't synchronously read data")

    data = dataset()
    data.iterate_episodes = broken
    with pytest.raises(FLPError, match=r"x: episode 1 .*OSError: Can't synchronously read data"):
        read_minari(data, "x")


def test_a_range_of_actions_is_given_where_the_data_have_none(monkeypatch):
    boundless = dataset(episode(), episode(), action_space=spaces.Box(-np.inf, np.inf, (1,)))
    spec = gathered(monkeypatch, boundless, environment=None, actions=((-3.0,), (3.0,))).spec
    assert (spec.low, spec.high) == ((-3.0,), (3.0,))
    with pytest.raises(FLPError, match="whose range is not finite; give it in the task, actions: "):
        gathered(monkeypatch, boundless, environment=None)
    with pytest.raises(FLPError, match="gives the range of actions itself; leave out actions"):
        gathered(monkeypatch, dataset(episode()), environment=None, actions=((-3.0,), (3.0,)))


@pytest.mark.parametrize("scores", [(float("nan"), 3.0), (0.0, float("inf")), (1.0, 1.0), ("0", 1.0)])
def test_references_that_are_none_do_not_count(scores):
    metadata = dict(zip(("ref_min_score", "ref_max_score"), scores, strict=True))
    assert reference_of(dataset(metadata=metadata)) is None


@pytest.mark.parametrize("name", ["./minari/x-v0", "/nowhere/x-v0", "~/x y"])
def test_a_mistyped_folder_is_named(name):
    pytest.importorskip("minari")
    with pytest.raises(FLPError, match=r"x.*: there is no folder with a Minari dataset"):
        open_minari(name)


def test_what_is_neither_folder_nor_id_says_so(monkeypatch):
    minari = pytest.importorskip("minari")

    def missing(*given, **options):
        raise ImportError("huggingface_hub is not installed")

    monkeypatch.setattr(minari, "load_dataset", missing)
    with pytest.raises(FLPError, match=r"there is no such folder here, and as an id, a download needs pip install"):
        open_minari("nowhere/arm/x-v0")

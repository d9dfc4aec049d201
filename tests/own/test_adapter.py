"""A user's environment, in worker processes, uses the pipeline's units and depends on its seed alone."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from flp.evaluation.evaluator import Evaluator
from flp.evaluation.pool import EnvironmentPool
from flp.own.adapter import action_range
from flp.own.task import OwnSpec, spec_from
from flp.system.errors import FLPError

PACKAGE = '''
import gymnasium
import numpy as np
from gymnasium import spaces


class Odd(gymnasium.Env):
    """Dictionary observations, a two-dimensional box of actions, and draws from NumPy's global generator."""

    observation_space = spaces.Dict({"b": spaces.Box(-9, 9, (2, 1)), "a": spaces.Box(-9, 9, (1,), np.float64)})
    action_space = spaces.Box(np.array([[-3.0], [0.0]], np.float32), np.array([[5.0], [0.5]], np.float32))

    def __init__(self, gain=1.0):
        self.gain = gain

    def _seen(self):
        return {"b": np.full((2, 1), self.at, np.float32), "a": np.array([self.drawn])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.drawn = self.np_random.random(), 0.0
        return self._seen(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.drawn = np.random.random()
        self.at += float(action.sum()) * self.gain
        return self._seen(), self.at, False, False, {"inner": {"at": self.at}}


gymnasium.register("Odd-v0", Odd, max_episode_steps=7)
'''


@pytest.fixture
def spec(tmp_path: Path, monkeypatch):
    (tmp_path / "odd_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = {"dataset": "odd", "horizon": 7, "observation_dim": 3, "action_dim": 2, "environment": "odd_package:Odd-v0"}
    yield OwnSpec(**known, kwargs={"gain": 0.5}, low=(-3.0, 0.0), high=(5.0, 0.5), success="info.inner.at > 2")
    sys.modules.pop("odd_package", None)


def test_actions_reach_both_ends_of_its_range(spec):
    env = spec.make(1)
    start, _ = env.reset(seed=0)
    assert start.shape == (3,)
    low, *_ = env.step(np.array([-1.0, -1.0]))
    assert low[1] == pytest.approx(start[1] + 0.5 * -3)
    high, *_ = env.step(np.array([1.0, 1.0]))
    assert high[1] == pytest.approx(low[1] + 0.5 * 5.5)
    env.step(np.array([7.0, -7.0]))  # outside is as at the end: its own assertion holds
    with pytest.raises(FLPError, match=r"odd: an action has shape \(1,\), expected \(2,\)"):
        env.step(np.zeros(1))


def test_workers_change_nothing_though_it_draws_from_the_global_generator(spec):
    def act(observations, streams):
        return np.clip(observations.numpy()[..., :2], -1, 1)

    found = []
    for workers in (0, 2):
        with Evaluator(spec, [1, 1], episodes=3, seed=5, workers=workers) as evaluator:
            np.random.seed(workers)  # noqa: NPY002
            found.append(evaluator.evaluate(act))
    np.testing.assert_array_equal(found[0].returns, found[1].returns)
    assert len(set(found[0].returns[0])) == 3 and (found[0].returns[0] == found[0].returns[1]).all()
    assert (found[0].lengths == 7).all() and found[0].trajectories is None


def test_what_is_known_of_it_survives_a_manifest(spec):
    assert spec_from(spec.described(), "x") == spec
    with pytest.raises(FLPError, match="does not describe a task"):
        spec_from({"environment": "Odd-v0"}, "x")


def test_what_fails_in_it_is_said_in_one_line(spec):
    broken = spec_from(spec.described(), "x", success="info.outer")
    with EnvironmentPool(broken, [1], workers=1) as pool:
        pool.reset([0], [0])
        for _ in range(6):
            pool.step(np.zeros((1, 2)), [True])
        with pytest.raises(FLPError, match=r"slot 0 \(odd, task 1\).*contain where the episode ends \(it has: inner\)"):
            pool.step(np.zeros((1, 2)), [True])
    with pytest.raises(FLPError, match="has observations of 3 numbers, the data have 4"):
        spec_from(spec.described(), "x", observation_dim=4).make(1)
    with pytest.raises(FLPError, match=r"odd has no task 2"):
        EnvironmentPool(spec, [2])


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (gymnasium.spaces.Discrete(3), "actions are discrete"),
        (gymnasium.spaces.MultiDiscrete([2, 2]), "actions are discrete"),
        (gymnasium.spaces.MultiBinary(2), "actions are discrete"),
        (gymnasium.spaces.Box(-np.inf, 1, (2,)), "range is not finite"),
        (
            gymnasium.spaces.Box(np.float32([-1, 2]), np.float32([1, 2])),
            "column 1 of the actions has the range 2 to 2",
        ),
        (gymnasium.spaces.Box(0, 9, (2,), np.int64), "not a box of real numbers"),
        (gymnasium.spaces.Dict({"a": gymnasium.spaces.Box(-1, 1, (2,))}), "not a box of real numbers"),
    ],
)
def test_actions_that_are_no_finite_box_are_refused_with_a_reason(space, said):
    with pytest.raises(FLPError, match=said):
        action_range(space, "x")

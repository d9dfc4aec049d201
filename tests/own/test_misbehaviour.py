"""An environment that misbehaves is blamed where it does so, in one line."""

from __future__ import annotations

import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from flp.data.environments import seeded_reset
from flp.evaluation.evaluator import Evaluator
from flp.own.adapter import open_environment
from flp.own.importing import TaskSource
from flp.own.task import OwnSpec
from flp.system.errors import FLPError
from flp.tools import check

SEEN, INFO = np.zeros(2, np.float32), {"success": False}


def raised(error):
    raise error


class Plain(gymnasium.Env):
    observation_space, action_space = spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        return SEEN, {}

    def step(self, action):
        return SEEN, 0.0, False, False, INFO


def broken(name, **methods):
    return type(name, (Plain,), methods)


def stepping(**changes):
    """An environment whose steps return something else."""
    given = {"observation": SEEN, "reward": 0.0, "terminated": False, "truncated": False, "info": INFO} | changes
    return broken("Stepping", step=lambda self, action: tuple(given.values()))


BROKEN = {
    "NaN observation": (stepping(observation=SEEN * np.nan), "gave an observation with NaN"),
    "observation beyond float32": (stepping(observation=np.full(2, 1e39)), "gave an observation with NaN or infinite"),
    "scalar observation": (stepping(observation=np.float32(1)), r"gave an observation of shape \(\), expected numbers"),
    "long observation": (
        stepping(observation=np.zeros(3)),
        r"an observation of shape \(3,\), expected numbers of \(2,\)",
    ),
    "ragged observation": (stepping(observation=[[1], [1, 2]]), "gave an observation that is a list"),
    "no observation": (stepping(observation=None), "gave an observation that is a NoneType"),
    "NaN reward": (stepping(reward=float("nan")), "gave the reward nan, not a finite number"),
    "reward beyond float32": (stepping(reward=1e39), r"gave the reward 1e\+39"),
    "no reward": (stepping(reward=None), "gave the reward None"),
    "array of rewards": (stepping(reward=np.zeros(1)), "gave the reward array"),
    "no info": (stepping(info=None), "environment's step failed .*TypeError"),
    "old step": (broken("Old", step=lambda self, action: (SEEN, 0.0, False, {})), "environment's step failed .*unpack"),
    "failing step": (broken("Bad", step=lambda self, a: raised(ConnectionError("gone"))), "ConnectionError: gone"),
    "exit": (broken("Exit", step=lambda self, action: raised(SystemExit("bye"))), "step failed .SystemExit: bye"),
    "failing reset": (broken("Bad", reset=lambda self, **o: raised(ValueError("no"))), "reset failed .ValueError: no"),
    "reset without seed": (broken("Unseeded", reset=lambda self: (SEEN, {})), "environment's reset failed .*seed"),
    "reset without info": (broken("Bare", reset=lambda self, **options: SEEN), "environment's reset failed"),
    "other success": (
        stepping(info={"success": "False"}),
        "success is 'info.success', but success is 'False', neither",
    ),
    "no success": (stepping(info={"won": 1}), r"does not contain where the episode ends \(it has: won\)"),
}


@pytest.fixture
def spec():
    def make(environment):
        gymnasium.register("Broken-v0", environment, max_episode_steps=3)
        known = {"dataset": "mine", "horizon": 3, "observation_dim": 2, "action_dim": 2, "environment": "Broken-v0"}
        return OwnSpec(**known, low=(-1.0, -1.0), high=(1.0, 1.0), success="info.success")

    yield make
    gymnasium.registry.pop("Broken-v0", None)


def test_an_environment_that_exits_while_it_is_made_is_named(spec):
    with pytest.raises(FLPError, match=r"Broken-v0 cannot be made .SystemExit: 3."):
        spec(broken("Exit", __init__=lambda self: raised(SystemExit(3)))).make(1)


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("lab_broken:Arm-v0", "raise KeyError('robot')", "KeyError: 'robot'.; importing lab_broken fails"),
        ("lab_broken:Arm-v0", "def f(:", "importing lab_broken fails"),
        ("lab_broken:Arm-v0", "import no_such_package", "is its package installed"),
        ("lab_broken:Arm-v0", "", "does the id name the module that registers it"),
        ("lab_broken:", "", "is no gymnasium id; write it as my_package:MyArm-v0"),
        (":Arm-v0", "", "is no gymnasium id; write it as my_package:MyArm-v0"),
    ],
)
def test_what_keeps_it_from_being_made_is_told_from_its_kwargs(name, code, said, tmp_path, monkeypatch):
    (tmp_path / "lab_broken.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("lab_broken", None)
    with pytest.raises(FLPError, match=said):
        open_environment(name, {})


def test_a_failing_step_is_not_told_what_a_step_returns(spec):
    env = spec(BROKEN["failing step"][0]).make(1)
    seeded_reset(env, 0)
    with pytest.raises(FLPError, match=r"failed \(ConnectionError: gone\)$"):
        env.step(np.zeros(2))
    with pytest.raises(FLPError, match="an action holds NaN"):
        env.step(np.array([0.0, np.nan]))


def play(env):
    seeded_reset(env, 0)
    for _ in range(3):
        env.step(np.zeros(2))


@pytest.mark.parametrize("case", BROKEN)
def test_it_is_blamed(spec, case):
    environment, said = BROKEN[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FLPError, match=f"^mine: .*{said}"):
            play(spec(environment).make(1))


def test_a_list_is_an_observation_and_numpy_s_scalars_are_results(spec):
    env = spec(stepping(observation=[0.5, 1], reward=np.float32(2), truncated=np.bool_(True))).make(1)
    observation, reward, *_ = play(env) or env.step(np.zeros(2))
    assert observation.tolist() == [0.5, 1.0] and type(reward) is float


def test_success_is_asked_only_where_an_episode_ends(spec):
    def step(self, action):
        self.at = getattr(self, "at", 0) + 1
        return SEEN, 0.0, self.at == 2, False, {"success": True} if self.at == 2 else {}

    env = spec(broken("Late", step=step)).make(1)
    seeded_reset(env, 0)
    assert [env.step(np.zeros(2))[-1]["success"] for _ in range(2)] == [False, True]


def test_one_that_cannot_be_closed_costs_no_result(spec, task):
    found = spec(broken("Open", close=lambda self: raised(RuntimeError("not connected"))))
    with Evaluator(found, [1], episodes=2) as evaluator:
        assert evaluator.evaluate(lambda observations, streams: np.zeros((1, 2, 2))).lengths.tolist() == [[3, 3]]
    assert check.task(task).startswith("40 transitions")


def test_an_evaluation_blames_the_environment_not_the_policy(spec):
    with (
        Evaluator(spec(BROKEN["NaN observation"][0]), [1], episodes=1) as evaluator,
        pytest.raises(FLPError, match=r"failed in slot 0 .mine, task 1.: mine: its environment gave an observation"),
    ):
        evaluator.evaluate(lambda observations, streams: np.zeros((1, 1, 2)))


@pytest.fixture
def task(tmp_path):
    rng = np.random.default_rng(0)
    values = {"observations": rng.normal(size=(40, 2)), "actions": rng.uniform(-1, 1, (40, 2)), "rewards": np.zeros(40)}
    np.savez(tmp_path / "x.npz", **values, terminals=np.arange(40) % 4 == 3)
    return TaskSource("mine", str(tmp_path / "x.npz"), None, "Broken-v0", {}, "info.success", None)


def test_the_check_plays_an_episode(spec, task):
    spec(BROKEN["no success"][0])
    with pytest.raises(FLPError, match="does not contain where the episode ends"):
        check.task(task)


RANDOM = np.random.default_rng()


@pytest.mark.parametrize(
    ("draw", "repeats"),
    [
        (lambda env: np.random.rand(2), True),  # noqa: NPY002
        (lambda env: env.np_random.random(2), True),
        (lambda env: RANDOM.random(2), False),
    ],
    ids=["NumPy's global generator", "its own", "an unseeded one"],
)
def test_the_check_warns_of_episodes_that_cannot_be_repeated(spec, task, capsys, draw, repeats):
    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=seed)
        self.seen = draw(self)
        return self.seen, {}

    def step(self, action):
        self.seen[:] += draw(self)  # in place
        return self.seen, 0.0, False, False, INFO

    spec(broken("Drawing", reset=reset, step=step))
    check.task(task)
    assert ("two episodes with the same seed and actions differ" in capsys.readouterr().err) != repeats

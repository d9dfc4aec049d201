"""Online interaction: the replay learns of episode ends, and a resumed session continues exactly."""

from __future__ import annotations

import json
import math
import signal
from contextlib import closing
from pathlib import Path

import pytest
import torch
import yaml
from prepared_maze import DATASET
from safetensors.torch import load_file, save_file

from flp.learner.replay import Replay
from flp.params.loading import load_params
from flp.params.run import Run
from flp.runs.interaction import Interaction
from flp.runs.run_batch import RunBatch
from flp.stages import offline_train, online_finetune
from flp.supervision.health import Health
from flp.system.errors import FLPError
from flp.system.hashing import sha256_of
from flp.system.stopping import STOP

CAPACITY, LIMIT = 1010, 1000  # of the maze's episodes


@pytest.fixture
def begun(here):
    """The interaction of two runs of an algorithm that uses returns."""
    params = load_params("params.yaml").for_dataset(DATASET)
    work = RunBatch(DATASET, "calql", [Run(1, 0, 1.0, 1), Run(2, 0, 1.0, 1)], params, torch.device("cpu"))

    def begin():
        agent, replay = work.load(CAPACITY)
        names = [run.name for run in work.runs]
        return agent, replay, Interaction(work, 1, Health("calql", names, params.offline, replay, agent))

    return begin


def take(agent, replay, interaction, steps):
    for _ in range(steps):
        replay.add(interaction.step(agent))
        replay.end(interaction.ended)


def known(replay):
    """The online returns so far, per run."""
    indices = torch.arange(replay.offline_size, len(replay)).expand(2, -1)
    return replay.batch(indices)["returns"]


def test_fine_tuning_tells_the_replay_of_ends(here, monkeypatch):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"]["baselines"]["calql"]["draws"] = 2
    Path("params.yaml").write_text(yaml.safe_dump(values))
    of = ["--dataset", DATASET, "--agent", "calql", "--threads", "1", "--device", "cpu"]
    assert offline_train.main(of) == 0
    step, replays = Interaction.step, []

    def helped(self, agent):
        if len(self.taken[1]) == 5:
            put_on_goal(self, 1)
        return step(self, agent)

    add = Replay.add
    monkeypatch.setattr(Interaction, "step", helped)
    monkeypatch.setattr(Replay, "add", lambda self, transition: replays.append(self) or add(self, transition))
    assert online_finetune.main(of) == 0
    # All but the last episode of the second run have ended; the first run's goes on.
    first, second = known(replays[0])
    assert len(replays) == 20 and len(set(map(id, replays))) == 1
    assert (first == -math.inf).all() and second[:12].isfinite().all()


def put_on_goal(interaction, run):
    maze = interaction.pool._workers[0].share.environments[run].unwrapped
    maze.set_xy(maze.cur_goal_xy)


@pytest.mark.slow(10)
def test_returns_are_known_when_an_episode_ends_by_success_or_by_time(begun):
    agent, replay, interaction = begun()
    with closing(interaction):
        take(agent, replay, interaction, 5)
        assert interaction.ended == {}
        put_on_goal(interaction, 1)
        while not interaction.ended:
            assert (known(replay) == -math.inf).all()
            take(agent, replay, interaction, 1)
        length = replay.added
        assert interaction.ended == {1: length} and length < 10
        # -1 at every step but the last, with a success that nothing follows.
        expected = [-(1 - 0.99 ** (length - 1 - t)) / 0.01 for t in range(length)]
        assert known(replay)[1].tolist() == pytest.approx(expected, rel=1e-4)
        take(agent, replay, interaction, LIMIT - length)
        assert interaction.ended == {0: LIMIT}
        # Time is up: -1 for ever.
        torch.testing.assert_close(known(replay)[0], torch.full((LIMIT,), -100.0), rtol=1e-4, atol=0)
        assert (known(replay)[1, length:] == -math.inf).all()


@pytest.mark.slow(10)
def test_an_episode_that_was_under_way_when_it_was_saved_ends_like_any(begun):
    agent, replay, interaction = begun()
    with closing(interaction):
        take(agent, replay, interaction, LIMIT - 3)
        saved = replay.state(), interaction.state()
        take(agent, replay, interaction, 5)
        whole = known(replay)
    assert (whole[:, :LIMIT].isfinite()).all() and (whole[:, LIMIT:] == -math.inf).all()
    agent, replay, interaction = begun()
    with closing(interaction):
        replay.restore(*saved[0])
        interaction.restore(*saved[1])
        assert (known(replay) == -math.inf).all()
        take(agent, replay, interaction, 5)
        assert torch.equal(known(replay), whole)


def test_an_episode_that_does_not_repeat_itself_is_not_continued(begun, capsys):
    """Its environment was changed, draws unseeded numbers, or computes on another processor."""
    agent, replay, interaction = begun()
    with closing(interaction):
        take(agent, replay, interaction, 5)
        kept, info = interaction.state()
        before = interaction.observations.copy()
    for changed in ([], [0], [1], [0, 1]):
        tensors = {name: tensor.clone() for name, tensor in kept.items()}
        tensors["online/observations"][changed] += 0.01
        _, _, resumed = begun()
        with closing(resumed):
            resumed.restore(tensors, {"episodes": list(info["episodes"])})
            assert resumed.episodes == [int(run in changed) for run in range(2)]
            assert [len(actions) for actions in resumed.taken] == [0 if run in changed else 5 for run in range(2)]
            assert [bool((resumed.observations[r] != before[r]).any()) for r in range(2)] == [
                r in changed for r in (0, 1)
            ]
            names = ", ".join(f"task{run + 1}_seed0" for run in changed)
            said = capsys.readouterr().err
            assert f"does not repeat the episode of {names}, as" in said if changed else not said
            resumed.step(agent)
            assert [len(actions) for actions in resumed.taken] == [1 if run in changed else 6 for run in range(2)]


def test_an_episode_that_now_ends_sooner_is_not_stepped_on(begun, capsys):
    agent, replay, interaction = begun()
    with closing(interaction):
        take(agent, replay, interaction, 5)
        kept, info = interaction.state()
    _, _, resumed = begun()
    step, asked = resumed.pool.step, []

    def sooner(actions, active):
        asked.append(active.tolist())
        found = step(actions, active)
        found.truncated[1] = len(asked) == 3
        return found

    with closing(resumed):
        resumed.pool.step = sooner
        resumed.restore(kept, info)
        assert asked == [[True, True]] * 3 + [[True, False]] * 2
        assert resumed.episodes == [0, 1] and "the episode of task2_seed0" in capsys.readouterr().err


class Wild:
    """An agent of a newcomer, who knows of no `torch.no_grad` and of no bounds."""

    uses_latents = False
    weights = torch.nn.Parameter(torch.full((2, 2), 50.0))

    def explore(self, observations, streams):
        actions = observations @ self.weights
        return actions, actions


def test_actions_are_bounded_and_need_no_gradient_as_in_evaluations(begun):
    _, _, interaction = begun()
    step, taken = interaction.pool.step, []
    with closing(interaction):
        interaction.pool.step = lambda actions, active: taken.append(actions) or step(actions, active)
        transition = interaction.step(Wild())
    (actions,) = taken
    assert abs(actions).max() == 1
    assert torch.equal(transition["actions"], torch.from_numpy(actions))  # what was done is learnt from


def test_an_environment_that_fails_is_named_by_its_run(begun):
    agent, _, interaction = begun()

    def fall(action):
        raise ValueError("it fell over")

    with (
        closing(interaction),
        pytest.raises(FLPError, match=rf"failed in task2_seed0 \({DATASET}, task 2\): .*it fell"),
    ):
        interaction.pool._workers[0].share.environments[1].step = fall
        interaction.step(agent)


@pytest.mark.parametrize("remade", [False, True])
def test_a_state_that_began_with_another_policy_is_ignored(here, monkeypatch, capsys, remade, signals):
    """One of the same key but other bytes, as from another processor."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["offline"] |= {"agents": ["iql"], "tasks": [1]}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    of = ["--dataset", DATASET, "--agent", "iql", "--threads", "1", "--device", "cpu"]
    assert offline_train.main(of) == 0
    step, count = Interaction.step, iter(range(100))

    def stopped(self, agent):
        STOP.signal = signal.SIGTERM if next(count) == 10 else STOP.signal
        return step(self, agent)

    with monkeypatch.context() as patch:
        patch.setattr(Interaction, "step", stopped)
        assert online_finetune.main(of) == 1
    if remade:
        (policy,) = Path("results").glob("*/offline/iql/*/task1_seed0/policy.safetensors")
        tensors = load_file(policy)
        save_file({name: tensor + 1e-6 for name, tensor in tensors.items()}, policy)
        manifest = json.loads(policy.with_suffix(".json").read_text())
        policy.with_suffix(".json").write_text(json.dumps(manifest | {"sha256": sha256_of(policy)}))
    capsys.readouterr()
    assert online_finetune.main(of) == 0
    assert ("resuming from" in capsys.readouterr().err) != remade

"""The replay returns what was stored: next rows, each run's task, the share of online transitions."""

from __future__ import annotations

import pytest
import torch

from flp.learner.replay import Replay
from flp.randomness.streams import RunStreams

# Two episodes, rows 0–3 and 4–6; the last row of each starts no transition.
ROWS = 7
TRANSITIONS = [0, 1, 2, 4, 5]
ACTION_OF_RUN, TASK_OF_RUN = [0, 1, 0], [0, 0, 1]


def make_replay(capacity=0, **options):
    observations = torch.stack([torch.arange(ROWS), 10 * torch.arange(ROWS)], 1).float()
    actions = torch.arange(10.0).view(2, 5, 1) + 100  # one set of latents per seed
    rewards = -torch.arange(10.0).view(2, 5)
    masks = (torch.arange(10).view(2, 5) % 3 != 0).float()
    transitions, tensor = torch.tensor(TRANSITIONS), torch.tensor
    return Replay(
        observations,
        transitions,
        actions,
        rewards,
        masks,
        tensor(ACTION_OF_RUN),
        tensor(TASK_OF_RUN),
        capacity,
        **options,
    )


def online(step):
    """One transition for each of three runs, recognisable by run and step."""
    run = torch.arange(3.0)
    base = 1000 + 100 * run + step
    return {
        "observations": torch.stack([base, -base], 1),
        "actions": (base + 0.25)[:, None],
        "next_observations": torch.stack([base + 0.5, -base - 0.5], 1),
        "rewards": -base,
        "masks": (run + step) % 2,
    }


def test_offline_transitions_run_by_run():
    replay = make_replay()
    assert len(replay) == 5
    indices = torch.tensor([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 3, 0, 4, 2]])
    batch = replay.batch(indices)
    for run in range(3):
        for place in range(5):
            i = indices[run, place].item()
            row, seed, task = TRANSITIONS[i], ACTION_OF_RUN[run], TASK_OF_RUN[run]
            assert batch["observations"][run, place].tolist() == [row, 10 * row]
            assert batch["next_observations"][run, place].tolist() == [row + 1, 10 * row + 10]
            assert batch["actions"][run, place].tolist() == [100 + 5 * seed + i]
            assert batch["rewards"][run, place].item() == -(5 * task + i)
            assert batch["masks"][run, place].item() == float((5 * task + i) % 3 != 0)


def test_no_transition_crosses_the_end_of_an_episode():
    replay = make_replay()
    batch = replay.batch(RunStreams([1, 2, 3]).integers(len(replay), 500))
    pairs = set(
        zip(
            batch["observations"][..., 0].flatten().tolist(),
            batch["next_observations"][..., 0].flatten().tolist(),
            strict=True,
        )
    )
    assert pairs == {(0, 1), (1, 2), (2, 3), (4, 5), (5, 6)}


def test_online_transitions_join_the_offline_ones():
    replay = make_replay(capacity=4)
    for step in range(3):
        replay.add(online(step))
        assert len(replay) == 5 + step + 1
    offline = make_replay()
    indices = torch.tensor([[0, 5, 6, 7, 4], [7, 5, 1, 2, 6], [4, 4, 5, 0, 7]])
    batch = replay.batch(indices)
    expected_old = offline.batch(indices.clamp(max=4))
    for run in range(3):
        for place in range(5):
            i = indices[run, place].item()
            for name, value in batch.items():
                expected = expected_old[name][run, place] if i < 5 else online(i - 5)[name][run]
                assert torch.equal(value[run, place], expected), (name, run, place)


def test_the_oldest_online_transition_is_overwritten():
    replay = make_replay(capacity=2)
    for step in range(5):
        replay.add(online(step))
    assert len(replay) == 7
    batch = replay.batch(torch.tensor([[5, 6]] * 3))
    assert sorted(batch["observations"][0, :, 0].tolist()) == [1003, 1004]
    assert replay.batch(torch.tensor([[4]] * 3))["observations"][0, 0, 0].item() == TRANSITIONS[4]


def test_sampling_is_uniform_over_the_merged_buffer():
    replay = make_replay(capacity=10)
    for step in range(3):
        replay.add(online(step))
    size = 40_000
    batch = replay.batch(RunStreams([1, 2, 3]).integers(len(replay), size))
    for run in range(3):
        values, counts = batch["observations"][run, :, 0].unique(return_counts=True)
        assert len(values) == 8
        assert ((counts - size / 8) ** 2 / (size / 8)).sum() < 35  # chi-square, 7 degrees of freedom: p ≈ 1e-5
        share = (values >= 1000).float() @ counts.float() / size
        assert share.item() == pytest.approx(3 / 8, abs=0.015)


def test_no_room_is_said():
    with pytest.raises(ValueError, match="no room"):
        make_replay().add(online(0))


def test_next_actions_are_those_of_the_same_trajectory():
    replay = make_replay(capacity=3, next_actions=True)
    batch = replay.batch(torch.arange(5).expand(3, 5))
    # Rows 2 and 5 lead to rows whose actions are not stored.
    assert batch["has_next_action"].tolist() == [[1, 1, 0, 1, 0]] * 3
    for run in range(3):
        for place in (0, 1, 3):
            assert batch["next_actions"][run, place] == 100 + 5 * ACTION_OF_RUN[run] + place + 1
    with pytest.raises(KeyError):
        batch["nothing"]
    last = None
    for step in range(5):  # steps 2, 3, 4 remain, in slots 2, 0, 1; step 3 begins a new trajectory
        transition = online(step)
        if step not in (0, 3):
            transition["observations"] = last
        last = transition["next_observations"]
        replay.add(transition)
    batch = replay.batch(torch.tensor([[5, 6, 7, 4, 0]] * 3))
    assert batch["has_next_action"].tolist() == [[1, 0, 0, 0, 1]] * 3
    assert torch.equal(batch["next_actions"][:, 0], online(4)["actions"])
    assert batch["next_actions"][1, 4].item() == 100 + 5 + 1


@pytest.mark.parametrize("added", [0, 2, 4, 7])
def test_restoring_gives_the_same_replay(added):
    replay = make_replay(capacity=4)
    for step in range(added):
        replay.add(online(step))
    state = replay.state()
    other = make_replay(capacity=4)
    other.restore(*state)
    for step in (20, 21):  # both go on alike
        assert len(other) == len(replay)
        indices = RunStreams([4, 5, 6]).integers(len(replay), 50)
        for (name, a), b in zip(replay.batch(indices).items(), other.batch(indices).values(), strict=True):
            assert torch.equal(a, b), name
        replay.add(online(step))
        other.add(online(step))

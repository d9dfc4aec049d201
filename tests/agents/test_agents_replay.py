"""Next actions: what the replay gives to an agent that uses them."""

from __future__ import annotations

import pytest
import torch

from flp.learner.replay import Replay


def make_replay(capacity=0, next_actions=True):
    """Two episodes of three and two transitions, rows 0-3 and 4-6; action i is 10 + i; two tasks, two runs."""
    return Replay(
        observations=torch.arange(7.0)[:, None],
        transitions=torch.tensor([0, 1, 2, 4, 5]),
        actions=torch.arange(10.0, 15.0)[None, :, None],
        rewards=torch.zeros(2, 5),
        masks=torch.ones(2, 5),
        action_of_run=torch.tensor([0, 0]),
        task_of_run=torch.tensor([0, 1]),
        capacity=capacity,
        next_actions=next_actions,
    )


def add(replay, before, action, after):
    replay.add(
        {
            "observations": torch.full((2, 1), before),
            "actions": torch.full((2, 1), action),
            "next_observations": torch.full((2, 1), after),
            "rewards": torch.zeros(2),
            "masks": torch.ones(2),
        }
    )


def successors(replay, count):
    batch = replay.batch(torch.arange(count).expand(2, -1))
    assert batch["next_actions"].shape == (2, count, 1)
    for key in ("next_actions", "has_next_action"):
        assert torch.equal(batch[key][0], batch[key][1])
    return batch["next_actions"][0, :, 0].tolist(), batch["has_next_action"][0].tolist()


def test_next_actions_stop_at_the_end_of_a_trajectory():
    actions, known = successors(make_replay(), 5)
    assert known == [1, 1, 0, 1, 0]
    assert [a for a, k in zip(actions, known, strict=True) if k] == [11, 12, 14]


def test_next_actions_of_online_transitions():
    replay = make_replay(capacity=4)
    for before, action, after in ((100.0, 1.0, 101.0), (101.0, 2.0, 102.0), (200.0, 3.0, 201.0)):
        add(replay, before, action, after)
    actions, known = successors(replay, 8)
    # The second ends an episode; the third is the newest.
    assert known == [1, 1, 0, 1, 0, 1, 0, 0]
    assert actions[5] == 2
    for before, action, after in ((201.0, 4.0, 202.0), (202.0, 5.0, 100.0)):
        add(replay, before, action, after)
    # The fifth took the first's place; after it, the oldest, comes what happened long before.
    actions, known = successors(replay, 9)
    assert known[5:] == [0, 0, 1, 1]
    assert actions[7:] == [4, 5]
    add(replay, 101.0, 6.0, 102.0)
    assert successors(replay, 9)[1][5:] == [0, 0, 1, 1]


@pytest.mark.parametrize("added", [0, 1])
def test_next_actions_are_gathered_only_on_request(added):
    always, more = (
        {"observations", "actions", "next_observations", "rewards", "masks"},
        {"next_actions", "has_next_action"},
    )
    for next_actions in (False, True):
        replay = make_replay(capacity=1, next_actions=next_actions)
        for _ in range(added):
            add(replay, 1.0, 2.0, 3.0)
        assert set(replay.batch(torch.zeros(2, 3, dtype=torch.int64))) == (always | more if next_actions else always)

"""Monte-Carlo returns: by hand, by summation, and as a replay returns them to agents that use them."""

from __future__ import annotations

import math

import pytest
import torch
from test_replay import ROWS, TRANSITIONS, online

from flp.learner.replay import Replay
from flp.learner.returns import is_last, monte_carlo

RUNS, DISCOUNT = 3, 0.5


def slowly(rewards, masks, discount):
    """One trajectory, summed forwards, with a thousand steps of its last reward for the infinite tail."""
    found = []
    for start in range(len(rewards)):
        total, weight = 0.0, 1.0
        for r, m in [*zip(rewards[start:], masks[start:], strict=True), *[(rewards[-1], 1.0)] * 1000]:
            total += weight * r
            weight *= discount * m
        found.append(total)
    return found


def test_a_success_cuts_and_the_last_reward_persists():
    rewards, masks = torch.tensor([[-1.0, -1.0, 0.0, -1.0]]), torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    last = torch.tensor([False, False, False, True])
    assert monte_carlo(rewards, masks, last, 0.5).tolist() == [[-1.5, -1.0, 0.0, -2.0]]


def test_a_maze_that_is_never_solved_is_worth_the_least():
    rewards = torch.full((1, 300), -1.0)
    found = monte_carlo(rewards, torch.ones(1, 300), torch.arange(300) % 100 == 99, 0.99)
    torch.testing.assert_close(found, torch.full((1, 300), -100.0))


@pytest.mark.parametrize("lengths", [[1], [5], [3, 1, 7], [1, 1, 1], [2, 9, 9, 4]])
def test_every_trajectory_by_itself(lengths):
    generator = torch.Generator().manual_seed(0)
    rewards = -torch.rand(2, sum(lengths), generator=generator)
    masks = (torch.rand(2, sum(lengths), generator=generator) < 0.8).float()
    last = torch.cat([torch.arange(n) == n - 1 for n in lengths])
    found = monte_carlo(rewards, masks, last, 0.9)
    assert found.dtype == torch.float32
    for task in range(2):
        parts = zip(rewards[task].split(lengths), masks[task].split(lengths), strict=True)
        expected = [value for r, m in parts for value in slowly(r.tolist(), m.tolist(), 0.9)]
        assert found[task].tolist() == pytest.approx(expected, rel=1e-5)


def test_the_last_transition_is_followed_by_none():
    assert is_last(torch.tensor(TRANSITIONS)).tolist() == [False, False, True, False, True]
    assert is_last(torch.tensor([4])).tolist() == [True]


def make_replay(capacity=0, *, returns=True):
    """Two trajectories of three and two transitions, two tasks, three runs."""
    return Replay(
        observations=torch.stack([torch.arange(ROWS), 10 * torch.arange(ROWS)], 1).float(),
        transitions=torch.tensor(TRANSITIONS),
        actions=torch.zeros(1, 5, 1),
        rewards=torch.tensor([[-1.0, -1.0, -1.0, -1.0, 0.0], [-1.0, 0.0, -1.0, -3.0, -1.0]]),
        masks=torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 1.0, 1.0]]),
        action_of_run=torch.tensor([0, 0, 0]),
        task_of_run=torch.tensor([0, 0, 1]),
        capacity=capacity,
        discount=DISCOUNT,
        returns=returns,
    )


def returns(replay, indices):
    return replay.batch(torch.tensor([indices] * RUNS))["returns"].tolist()


def test_a_batch_has_the_returns_of_each_run_s_task():
    first, second = [0.0, -1.0, -2.0], [-2.0, 0.0, -1.0]
    assert returns(make_replay(), [4, 3, 0]) == [first, first, [-2.0, -4.0, -1.0]]
    assert returns(make_replay(), [2, 1, 3])[2] == [second[0], second[1], -4.0]


def step(replay, *, reward, mask=1.0, ended=()):
    replay.add(online(0) | {"rewards": torch.tensor(reward), "masks": torch.full((RUNS,), mask)})
    replay.end(dict(ended))


def test_online_returns_are_unknown_until_the_episode_ends():
    replay, unknown = make_replay(capacity=9), -math.inf
    step(replay, reward=[-1.0, -2.0, -4.0])
    step(replay, reward=[-1.0, -2.0, -4.0])
    assert returns(replay, [4, 5, 6]) == [[0.0, unknown, unknown]] * 2 + [[-2.0, unknown, unknown]]
    # The first run's time is up, the second succeeds; the third goes on.
    masks = torch.tensor([1.0, 0.0, 1.0])
    replay.add(online(0) | {"rewards": torch.tensor([-1.0, 0.0, -4.0]), "masks": masks})
    replay.end({0: 3, 1: 3})
    assert returns(replay, [5, 6, 7]) == [[-2.0] * 3, [-3.0, -2.0, 0.0], [unknown] * 3]
    step(replay, reward=[-1.0, -1.0, 0.0], ended={2: 4})  # its time is up too, with a last reward of 0
    assert returns(replay, [5, 6, 7, 8])[2] == [-7.0, -6.0, -4.0, 0.0]
    assert returns(replay, [8])[:2] == [[unknown]] * 2


def test_what_takes_the_oldest_s_place_is_unknown_again():
    replay = make_replay(capacity=3)
    for _ in range(2):
        step(replay, reward=[-1.0] * RUNS)
    step(replay, reward=[0.0] * RUNS, mask=0.0, ended=dict.fromkeys(range(RUNS), 3))
    assert returns(replay, [5, 6, 7])[0] == [-1.5, -1.0, 0.0]
    step(replay, reward=[-1.0] * RUNS)
    assert returns(replay, [5, 6, 7])[0] == [-math.inf, -1.0, 0.0]
    for _ in range(2):  # and then an episode that is longer than what is kept of it
        step(replay, reward=[-1.0] * RUNS)
    step(replay, reward=[-1.0] * RUNS, ended=dict.fromkeys(range(RUNS), 4))
    assert returns(replay, [5, 6, 7])[0] == [-2.0, -2.0, -2.0]


def test_returns_come_back_with_the_replay():
    replay = make_replay(capacity=4)
    for ended in ({}, {0: 2}, {}):
        step(replay, reward=[-1.0] * RUNS, ended=ended)
    other = make_replay(capacity=4)
    other.restore(*replay.state())
    for one in (replay, other):
        step(one, reward=[0.0] * RUNS, ended={0: 2, 1: 4})
    known = returns(other, range(9))
    assert known == returns(replay, range(9))
    assert known[1][5:] == [-1.75, -1.5, -1.0, 0.0] and known[2][5:] == [-math.inf] * 4


def test_an_agent_without_use_for_them_has_none_and_pays_nothing():
    replay = make_replay(capacity=4, returns=False)
    step(replay, reward=[-1.0] * RUNS, ended={0: 1})
    indices = torch.zeros(RUNS, 2, dtype=torch.int64)
    with pytest.raises(KeyError, match="returns"):
        replay.batch(indices)["returns"]
    kept = {"observations", "actions", "next_observations", "rewards", "masks"}
    assert set(replay.batch(indices)) == set(replay.online) == kept
    assert set(replay.state()[0]) == {f"replay.{name}" for name in kept}

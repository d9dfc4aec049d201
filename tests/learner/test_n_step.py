"""n-step returns: by hand, and against sums computed transition by transition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flp.learner.replay import Replay

DISCOUNT = 0.5


def make_replay(lengths, rewards, masks, n_step, capacity=0, runs=2):
    """Trajectories of given lengths; observations are unique numbers, actions 1,000 more."""
    rows = torch.cat([torch.arange(n + 1) < n for n in lengths]).nonzero().flatten()
    observations = torch.arange(float(sum(lengths) + len(lengths)))[:, None]
    return Replay(
        observations,
        rows,
        observations[rows][None] + 1000,
        rewards,
        masks,
        torch.zeros(runs, dtype=torch.int64),
        torch.arange(runs) % len(rewards),
        capacity,
        discount=DISCOUNT,
        n_step=n_step,
        next_actions=True,
    )


def slowly(path, n_step):
    """The n-step return of a list of (reward, mask, next state), the next state's weight, and that state."""
    total, weight = 0.0, 1.0
    for reward, mask, after in path[:n_step]:
        total += weight * reward
        weight *= DISCOUNT * mask
        state = after
    return total, weight, state


def expected_of(paths, n_step):
    return [slowly(path[start:], n_step) for path in paths for start in range(len(path))]


def found_in(batch, run):
    """As in a target, whose mask is multiplied by γ once more."""
    columns = batch["rewards"][run], DISCOUNT * batch["masks"][run], batch["next_observations"][run, :, 0]
    return [pytest.approx(each) for each in zip(*(column.tolist() for column in columns), strict=True)]


def test_by_hand():
    rewards, masks = torch.tensor([[-1.0, -2.0, -4.0, -8.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    replay = make_replay([4], rewards, masks, n_step=3, runs=1)
    batch = replay.batch(torch.arange(4)[None])
    assert batch["rewards"].tolist() == [[-1 - 1 - 1, -2 - 2 - 2, -4 - 4, -8]]
    # Of the first, V of the third state after it counts γ³; the last one ends.
    assert batch["masks"].tolist() == [[0.25, 0.0, 0.0, 0.0]]
    assert batch["next_observations"].flatten().tolist() == [3, 4, 4, 4]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 8), st.integers(0, 2**32))
def test_every_trajectory_by_itself(lengths, n_step, seed):
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    rewards = torch.randint(-4, 1, (2, count), generator=generator).float()
    masks = (torch.rand(2, count, generator=generator) < 0.7).float()
    replay = make_replay(lengths, rewards, masks, n_step)
    batch = replay.batch(torch.arange(count).expand(2, -1))
    for run in range(2):
        paths, at, row = [], 0, 0
        for length in lengths:
            steps = range(at, at + length)
            paths.append([(rewards[run, i].item(), masks[run, i].item(), row + 1 + i - at) for i in steps])
            at, row = at + length, row + length + 1
        assert found_in(batch, run) == expected_of(paths, n_step)
        # The action in the state that a target evaluates, if the trajectory continues there.
        known = batch["has_next_action"][run].bool()
        assert (batch["next_actions"][run, :, 0] == batch["next_observations"][run, :, 0] + 1000)[known].all()
        ends = [state for path in paths for *_, state in path[-1:]]
        assert known.tolist() == [state not in ends for _, _, state in expected_of(paths, n_step)]


@given(
    st.lists(st.tuples(st.integers(-4, 0), st.booleans(), st.booleans()), min_size=1, max_size=9),
    st.integers(1, 4),
    st.integers(1, 6),
)
def test_online_as_offline_with_what_is_still_there(steps, n_step, capacity):
    # A step is a reward, whether it succeeds, and whether its episode ends there.
    nothing = torch.zeros(1, 1)
    replay = make_replay([1], nothing, nothing, n_step, capacity, runs=1)
    state, kept = 100.0, []
    for reward, success, ends in steps:
        numbers = {"rewards": [float(reward)], "masks": [1.0 - success]}
        vectors = {"observations": [[state]], "actions": [[state + 1000]], "next_observations": [[state + 1]]}
        replay.add({name: torch.tensor(value) for name, value in (numbers | vectors).items()})
        kept.append((reward, 1.0 - success, state + 1, ends or success))
        state += 10 if ends or success else 1
    slots = sorted(range(max(0, len(kept) - capacity), len(kept)), key=lambda i: i % capacity)
    batch = replay.batch(1 + torch.arange(len(slots))[None])
    expected = []
    for slot in slots:
        path = []
        for reward, mask, after, ends in kept[slot:]:
            path.append((reward, mask, after))
            if ends:
                break
        expected.append(slowly(path, n_step))
    assert found_in(batch, 0) == expected
    restored = make_replay([1], nothing, nothing, n_step, capacity, runs=1)
    restored.restore(*replay.state())
    again = restored.batch(1 + torch.arange(len(slots))[None])
    assert all(torch.equal(value, again[name]) for name, value in batch.items())
    assert batch["observations"].flatten().tolist() == [kept[slot][2] - 1 for slot in slots]


def test_one_step_is_what_was_put_in():
    rewards, masks = -torch.rand(1, 6), torch.ones(1, 6)
    replay = make_replay([2, 4], rewards, masks, n_step=1, runs=1)
    batch = replay.batch(torch.arange(6)[None])
    assert torch.equal(batch["rewards"], rewards)
    assert torch.equal(batch["masks"], masks)
    assert replay.average_reward().item() == rewards.mean().item()


def test_the_average_reward_is_a_step_s():
    rewards = torch.tensor([[-1.0, -2.0, -3.0]])
    assert make_replay([3], rewards, torch.ones(1, 3), n_step=3, runs=1).average_reward().item() == -2


@pytest.mark.parametrize(("sign", "expected"), [(-1.0, -2 / 0.5), (1.0, 2 / (1 - 0.5 * 2 / 3))])
def test_the_average_value_is_the_lower_of_lasting_and_ending_ones(sign, expected):
    """With positive rewards and episodes that end, the average reward forever would be too optimistic."""
    rewards, masks = sign * torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    replay = make_replay([3], rewards, masks, n_step=1, runs=1)
    assert replay.average_value(0.5).item() == pytest.approx(expected)

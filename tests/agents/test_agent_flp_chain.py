"""FLP on a problem whose policy and values are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from reference import make_agent

from flp.flow.behavior import Flow
from flp.flow.velocity import VelocityField
from flp.randomness.streams import RunStreams

REWARD_1, REWARD_2 = -1.0, 1.5  # the best latents of the first and of the second state
BONUS = 2.0


@pytest.fixture(scope="module")
def chain():
    """A two-step chain with quadratic rewards, trained with two values of alpha; latents are actions.

    State 0: r = −½ (z + 1)², then state 1: r = 2 − ½ (z − 1.5)², then the end. With N = 1 the policy
    that maximises E[−½ (z − m)²] − α KL is N(m / (1 + α), α / (1 + α)).
    """
    field = VelocityField(RunStreams([0, 0]), 2, 1, [4])
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
    agent = make_agent(
        [1, 2],
        alphas=[0.25, 1.0],
        counts=[1, 1],
        observations=2,
        actions=1,
        flow=Flow(field, "midpoint", 2),
        hidden=[32, 32],
        learning_rate=3e-3,
        target_rate=0.05,
        discount=0.8,
    )
    streams, data = RunStreams([3, 4]), RunStreams([5, 6])
    states = torch.eye(2)
    for update in range(1500):
        for optimizer in agent.optimizers:
            optimizer.learning_rate = 3e-3 * (1 - update / 1500) + 1e-5
        state, z = data.integers(2, 128), 1.3 * data.normal(128, 1)
        best = torch.where(state == 0, REWARD_1, REWARD_2)
        batch = {
            "observations": states[state],
            "actions": z,
            "next_observations": states[1].expand(2, 128, 2),
            "rewards": BONUS * state - 0.5 * (z[..., 0] - best) ** 2,
            "masks": (state == 0).float(),
        }
        agent.update(batch, {name: value[0] for name, value in agent.draw(streams, 1, 128).items()})
    return agent


def test_the_policy_finds_the_known_optimum(chain):
    observations = torch.eye(2).expand(2, 2, 2)
    mean, log_std = (x[..., 0].detach() for x in chain.policy(observations))
    for run, alpha in enumerate((0.25, 1.0)):
        for state, best in enumerate((REWARD_1, REWARD_2)):
            assert mean[run, state].item() == pytest.approx(best / (1 + alpha), abs=0.15)
            assert log_std[run, state].exp().item() == pytest.approx(math.sqrt(alpha / (1 + alpha)), abs=0.1)
    # Small alpha goes further, and narrows more.
    assert (mean[0].abs() > mean[1].abs()).all()
    assert (log_std[0] < log_std[1]).all()


def test_the_critic_finds_the_known_values(chain):
    z = torch.linspace(-2, 2, 9)[None, :, None].expand(2, -1, -1)
    for state, best in enumerate((REWARD_1, REWARD_2)):
        observations = torch.eye(2)[state].expand(2, 9, 2)
        q = chain.critic(observations, z).mean(1)
        for run, alpha in enumerate((0.25, 1.0)):
            expected = -0.5 * (z[run, :, 0] - best) ** 2
            if state == 1:
                expected = expected + BONUS
            else:  # the second step's value under N(m / (1 + α), α / (1 + α))
                m, variance = REWARD_2 / (1 + alpha), alpha / (1 + alpha)
                expected = expected + 0.8 * (BONUS - 0.5 * ((m - REWARD_2) ** 2 + variance))
            torch.testing.assert_close(q[run], expected, rtol=0, atol=0.25)


def test_actions_beat_the_behavior(chain):
    observations = torch.eye(2).expand(2, 2, 2).repeat_interleave(500, 1)
    actions, latents = (act(observations, RunStreams([1, 2])) for act in (chain.act, chain.latents))
    assert torch.equal(actions, latents.clamp(-1, 1))  # the identity flow
    behavior = chain.behave(observations, RunStreams([3, 4]))
    best = torch.tensor([REWARD_1, REWARD_2]).repeat_interleave(500)
    reward, baseline = (-0.5 * (a[..., 0] - best) ** 2 for a in (actions, behavior))
    assert (reward.mean(1) > baseline.mean(1) + 0.2).all()
    assert reward[0].mean() > reward[1].mean()

"""Updates compute nothing twice, and nothing that has no effect."""

from __future__ import annotations

import pytest
import torch
from reference import make_agent
from test_agents_common import make, make_transitions

from flp.parts.selection import best_of_n
from flp.randomness.streams import RunStreams


def products(update, agent):
    """The number of batched matrix products in an update."""
    noise = {name: value[0] for name, value in agent.draw(RunStreams([5]), 1, 7).items()}
    with torch.profiler.profile() as trace:
        update(make_transitions([4]), noise)
    return sum(event.count for event in trace.key_averages() if event.key in ("aten::bmm", "aten::baddbmm"))


RESTING = [("rebrac", {}), ("idql", {"width": 8, "blocks": 2, "value_every": 2}), ("srpo", {"actor_start": 3})]


@pytest.mark.parametrize(("name", "own"), RESTING, ids=[name for name, _ in RESTING])
def test_what_rests_takes_no_gradient(name, own):
    agent = make(name, [4], own)
    first, second, third, fourth = (products(agent.update, agent) for _ in range(4))
    assert first < fourth
    assert (second, third) == ((first, first) if name == "srpo" else (fourth, first))


def test_each_of_iqls_networks_sees_the_batch_once():
    agent, seen = make("iql", [4]), []
    for name in ("critic", "target_critic", "value"):
        getattr(agent.values, name).register_forward_hook(lambda *_, name=name: seen.append(name))
    agent.update(make_transitions([4]), {})
    assert sorted(seen) == ["critic", "target_critic", "value", "value"]  # V at s and at s′


def test_one_draw_is_the_best_of_one_and_asks_no_critic():
    agent = make_agent([1, 2], counts=[1, 1])
    observations = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    proposed = agent.propose(agent.critic, observations, RunStreams([4, 5]).normal(50, 1, 2), None)
    agent.critic = None
    actions, latents = agent.explore(observations, RunStreams([4, 5]))
    assert torch.equal(latents, best_of_n(proposed.values, proposed.candidates))
    assert torch.equal(actions, agent.flow.decode(observations, latents))

"""Updates compute nothing twice, and nothing that is multiplied by zero."""

from __future__ import annotations

import torch
from test_agents_common import make, make_transitions

from flp.randomness.streams import RunStreams


def products(agent, noise):
    """How many batched matrix products an update takes."""
    with torch.profiler.profile() as trace:
        agent.update(make_transitions([4]), noise)
    return sum(event.count for event in trace.key_averages() if event.key in ("aten::bmm", "aten::baddbmm"))


def test_a_policy_that_rests_takes_no_gradient():
    agent = make("rebrac", [4])
    noise = {name: value[0] for name, value in agent.draw(RunStreams([5]), 1, 7).items()}
    resting, moving = products(agent, noise), products(agent, noise)
    assert resting < moving


def test_each_of_iqls_networks_sees_the_batch_once():
    agent, seen = make("iql", [4]), []
    for name in ("critic", "target_critic", "value"):
        getattr(agent.values, name).register_forward_hook(lambda *_, name=name: seen.append(name))
    agent.update(make_transitions([4]), {})
    assert sorted(seen) == ["critic", "target_critic", "value", "value"]  # V at s and at s′

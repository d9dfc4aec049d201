"""Updates compiled and in bfloat16, as `offline.compile` and `offline.precision` ask for."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from test_agents_common import make, make_transitions

from flp.learner.compiled import Compiled
from flp.randomness.streams import RunStreams

CASES = [
    ("fawac", {"flow_steps": 2}),
    ("fbrac", {"flow_steps": 2}),
    ("rebrac", {}),
    ("idql", {"width": 8, "blocks": 2, "dropout": 0.1, "value_every": 2}),
    ("srpo", {"width": 8, "blocks": 2, "actor_start": 1}),
    ("rlpd", {}),
    ("cac", {"hidden": [8, 6], "max_backup": 3, "ema_start": 1, "ema_every": 1, "restart": 2}),
    ("calql", {"draws": 3, "lagrange_gap": 0.5}),
]

RESTING = {"rebrac", "idql", "srpo"}  # in the first update


def trained(name, own, *, compiled=False, autocast=None):
    """A small agent's parameters before and after three updates, at a discount that grows."""
    discount = torch.tensor(0.5)
    agent = make(name, [4, 5], own, growing=discount)
    before = {key: tensor.clone() for key, tensor in agent.state_dict().items()}
    update = Compiled(agent) if compiled else agent.update
    noise = agent.draw(RunStreams([6, 7]), 3, 7)
    for k in range(3):
        discount.fill_(0.5 + 0.2 * k)
        with torch.autocast("cpu", autocast, enabled=autocast is not None, cache_enabled=False):
            logs = update(make_transitions([10 + k, 20 + k]), {key: value[k] for key, value in noise.items()})
        assert all(value.isfinite().all() for value in logs.values())
    return before, agent.state_dict()


@pytest.mark.slow(10)
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(("name", "own"), CASES[2:], ids=[name for name, _ in CASES[2:]])
def test_compiled_updates_are_the_eager_ones(name, own, capfd, monkeypatch):
    """Traced whole, with gradients, and run in Inductor's decomposition; tests/learner covers its code generation."""
    torch.compiler.reset()
    sizes = []

    def backend(graph, inputs):
        sizes.append(len(graph.graph.nodes))
        return torch._dynamo.lookup_backend("aot_eager_decomp_partition")(graph, inputs)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    (before, eager), (_, compiled) = trained(name, own), trained(name, own, compiled=True)
    assert "warning" not in capfd.readouterr().err
    for key, tensor in eager.items():
        torch.testing.assert_close(compiled[key], tensor, rtol=1e-3, atol=1e-4, msg=key)
    assert any(not torch.equal(before[key], tensor) for key, tensor in eager.items())
    assert len(sizes) == 1 + (name in RESTING)
    assert name not in RESTING or sizes[0] < sizes[1]  # what rests is not computed


@pytest.mark.parametrize(("name", "own"), CASES, ids=[name for name, _ in CASES])
def test_updates_in_bfloat16_are_nearly_those_in_float32(name, own):
    (before, exact), (_, rounded) = trained(name, own), trained(name, own, autocast=torch.bfloat16)
    moved = torch.cat([(exact[key] - before[key]).flatten() for key in exact if exact[key].is_floating_point()])
    apart = torch.cat([(rounded[key] - exact[key]).flatten() for key in exact if exact[key].is_floating_point()])
    assert 0 < apart.norm() < 0.5 * moved.norm()

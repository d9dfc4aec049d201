"""On a GPU, captured or not, updates compute what they do on a CPU: `pytest -m gpu` on a machine with one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.subject import make_trainer
from flp.learner.devices import set_up
from flp.learner.trainer import Trainer
from flp.params.sections import AgentName

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CHUNKS = 20  # of ten updates each
# What differs from update to update, and what `params.yaml` leaves off: an agent's own values, and shared ones.
OPTIONS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("idql", {"value_every": 2}, {}),
    ("srpo", {"actor_start": 15}, {}),
    ("flp", {}, {"n_step": 3, "observation_noise": 0.1, "schedule": "cosine"}),
    ("flp", {}, {"kl_budget": 0.25, "selection": "resample", "candidates": 4, "target_candidates": 4}),
    ("flp", {}, {"compile": True}),
    ("rebrac", {}, {"compile": True}),
]


def small(
    agent: str, device: torch.device, own: dict[str, Any] | None = None, changes: dict[str, Any] | None = None
) -> Trainer:
    """A small agent of two runs."""
    return make_trainer(2, 28, 5, [64, 64], device, 32, rows=1000, agent=agent, own=own, **(changes or {}))


@pytest.mark.parametrize("agent", get_args(AgentName))
def test_a_gpu_computes_what_a_cpu_does(agent: str) -> None:
    """From the same start, on the same batches with the same noise."""
    here, there = small(agent, set_up(1, "cpu")), small(agent, set_up(1, "cuda:0"))
    start = {name: tensor.clone() for name, tensor in here.state()[0].items()}
    for _ in range(2):
        indices, noise = here.draw_chunk(5)
        logs = here.run_updates(indices, noise)
        found = there.run_updates(indices.cuda(), {name: value.cuda() for name, value in noise.items()})
        for name, value in logs.items():
            torch.testing.assert_close(found[name].cpu(), value, rtol=1e-2, atol=1e-3, msg=name)
    learnt = {name: tensor for name, tensor in here.state()[0].items() if name.startswith("learner/")}
    for name, tensor in learnt.items():
        torch.testing.assert_close(there.state()[0][name].cpu(), tensor, rtol=1e-2, atol=1e-3, msg=name)
    assert any(not torch.equal(start[name], tensor) for name, tensor in learnt.items())


@pytest.mark.parametrize(("agent", "own", "changes"), [*((agent, {}, {}) for agent in get_args(AgentName)), *OPTIONS])
def test_every_agent_can_be_captured(agent: str, own: dict[str, Any], changes: dict[str, Any]) -> None:
    """Including state besides the networks: averages, rates, step counts; and chunks of another length."""
    device = set_up(1, "cuda:0")
    plain, captured = small(agent, device, own, changes), small(agent, device, own, changes)
    plain.execute = plain.run_eagerly
    for count in (10, 10, 3, 10):
        logs, found = plain.run_chunk(count), captured.run_chunk(count)
    for name, value in logs.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("agent", ["flp", "rebrac", "cac"])
def test_a_captured_trainer_continues_where_another_stopped(agent: str) -> None:
    """To the bit, its random streams included."""
    device = set_up(1, "cuda:0")
    first, second = small(agent, device), small(agent, device)
    for _ in range(3):
        first.run_chunk()
    second.restore(*first.state())
    for trainer in (first, second):
        for _ in range(3):
            trainer.run_chunk()
    (expected, info), (found, found_info) = first.state(), second.state()
    assert found.keys() == expected.keys() and found_info == info
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def trained(precision: str, capture: bool, device: torch.device) -> dict[str, torch.Tensor]:
    """A trainer's whole state after some chunks: parameters, targets, moments, step counts, streams."""
    trainer = make_trainer(5, 28, 5, [64, 64], device, 32, rows=1000, precision=precision)
    if not capture:
        trainer.execute = trainer.run_eagerly
    for _ in range(CHUNKS):
        trainer.run_chunk()
    return trainer.state()[0]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_captured_updates_are_the_plain_ones(precision: str, last: bool) -> None:
    """On the first GPU, and on the last, where PyTorch would capture on a stream of the first."""
    device = set_up(1, f"cuda:{torch.cuda.device_count() - 1 if last else 0}")
    plain, captured = (trained(precision, capture, device) for capture in (False, True))
    assert plain.keys() == captured.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(captured[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    start = make_trainer(5, 28, 5, [64, 64], device, 32, rows=1000, precision=precision).state()[0]
    assert not torch.equal(start["learner/policy.net.weights.0"], captured["learner/policy.net.weights.0"])


def test_a_run_does_not_depend_on_its_neighbours() -> None:
    device = set_up(1, "cuda:0")
    alone, together = (
        make_trainer(runs, 28, 5, [64, 64], device, 32, rows=1000, precision="float32") for runs in (1, 5)
    )
    for trainer in (alone, together):
        for _ in range(3):
            trainer.run_chunk()
    for name, tensor in alone.state()[0].items():
        if name.startswith("learner/policy") or name.startswith("learner/critic"):
            first = together.state()[0][name].chunk(5)[0]
            torch.testing.assert_close(first, tensor, rtol=1e-3, atol=1e-4, msg=name)

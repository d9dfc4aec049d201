"""On a GPU, captured or not, updates compute what they do on a CPU: `pytest -m gpu` on a machine with one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

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


def small(agent: str, device: torch.device) -> Trainer:
    """A small agent of two runs."""
    return make_trainer(2, 28, 5, [64, 64], device, 32, rows=1000, agent=agent)


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


@pytest.mark.parametrize("agent", get_args(AgentName))
def test_every_agent_can_be_captured(agent: str) -> None:
    """Including state besides the networks: averages, rates, step counts."""
    device = set_up(1, "cuda:0")
    plain, captured = small(agent, device), small(agent, device)
    plain.execute = plain.run_eagerly
    for _ in range(4):
        logs, found = plain.run_chunk(), captured.run_chunk()
    for name, value in logs.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


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

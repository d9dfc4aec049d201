"""Inversion: our fixed-step solver against torchdiffeq's dopri5 at the same round-trip error.

The field is fitted briefly to a mixture, so that the ODE is a real flow's and not a random network's.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import torch
from torchdiffeq import odeint

from benchmarks.update import row, sgemm_rate
from flp.devices import available_cores
from flp.flow import Flow, VelocityField
from flp.pretrain import FlowLearner, Pairs
from flp.quality import invert
from flp.streams import RunStreams
from flp.trainer import Trainer

OBSERVATION, ACTION, HIDDEN = 37, 5, [512] * 4  # cube-double at the paper's network size


def fitted(rows: int) -> tuple[VelocityField, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    observations = torch.randn(rows, OBSERVATION, generator=source)
    modes = torch.randint(2, (rows, 1), generator=source) * 1.0 - 0.5
    actions = (modes + 0.2 * torch.randn(rows, ACTION, generator=source)).clamp(-1, 1)
    streams = RunStreams([0])
    field = VelocityField(streams, OBSERVATION, ACTION, HIDDEN)
    trainer = Trainer(FlowLearner(field, 3e-4), Pairs(observations, actions, torch.arange(rows)), streams, 256)
    while trainer.step < 300:
        trainer.chunk()
    return field.requires_grad_(False), observations, actions


def dopri5(field: VelocityField, s: torch.Tensor, x: torch.Tensor, start: float, stop: float, tol: float) -> Any:
    def velocity(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = field(s, x, t.expand(*x.shape[:-1], 1).to(x.dtype))
        return out

    return odeint(velocity, x, torch.tensor([start, stop]), rtol=tol, atol=tol, method="dopri5")[-1]


def rows(threads: int, actions_inverted: int = 50_000) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    field, observations, actions = fitted(actions_inverted)
    flow = Flow(field, "midpoint", 10)
    # A pass of inversion and decoding, as the stage does; half of it is the inversion.
    start = time.perf_counter()
    _, errors = invert(flow, observations, actions, 4096, threads)
    ours = (time.perf_counter() - start) / 2
    error = float(errors.mean())
    theirs, their_error, tolerance = float("inf"), float("inf"), 1e-1
    while their_error > error and tolerance > 1e-7:
        tolerance /= 3
        part = slice(0, 4096)
        s, a = observations[None, part], actions[None, part]
        start = time.perf_counter()
        z = dopri5(field, s, a, 1.0, 0.0, tolerance)
        theirs = (time.perf_counter() - start) * actions_inverted / 4096
        their_error = float((dopri5(field, s, z, 0.0, 1.0, tolerance) - a).abs().mean())
    widths = [OBSERVATION + ACTION + 1, *HIDDEN, ACTION]
    gflop = 20 * 2 * actions_inverted * sum(a * b for a, b in itertools.pairwise(widths)) / 1e9
    name = f"inversion to a round trip of {error:.0e} (dopri5: {their_error:.0e})"
    return [
        row(name, threads, actions_inverted / ours, "actions/s", actions_inverted / theirs),
        row("inversion, share of sgemm rate", threads, gflop / ours, "GFLOP/s", sgemm_rate(torch.device("cpu"))),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=available_cores())
    for line in rows(parser.parse_args().threads):
        print(f"{line['name']:<55} {line['value']:10.1f} {line['unit']:<24} ratio {line['ratio']:.2f}")

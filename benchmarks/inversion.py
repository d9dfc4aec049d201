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


def adaptive(field: VelocityField, s: torch.Tensor, a: torch.Tensor, error: float) -> tuple[float, float]:
    """Seconds of dopri5's inversion at the first tolerance whose round trip is no worse, and that round trip."""
    seconds, reached, tolerance = float("inf"), float("inf"), 1e-1
    while reached > error and tolerance > 1e-7:
        tolerance /= 3
        seconds = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            z = dopri5(field, s, a, 1.0, 0.0, tolerance)
            seconds = min(seconds, time.perf_counter() - start)
        reached = float((dopri5(field, s, z, 0.0, 1.0, tolerance) - a).abs().mean())
    return seconds, reached


def rows(threads: int, actions_inverted: int = 50_000) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    field, observations, actions = fitted(actions_inverted)
    widths = [OBSERVATION + ACTION + 1, *HIDDEN, ACTION]
    gflop = 2 * actions_inverted * sum(a * b for a, b in itertools.pairwise(widths)) / 1e9
    found = []
    for solver, steps, evaluations in (("midpoint", 10, 20), ("rk4", 3, 12)):
        # A pass of inversion and decoding, as the stage does; half of it is the inversion.
        start = time.perf_counter()
        _, errors = invert(Flow(field, solver, steps), observations, actions, 4096, threads)
        ours, error = (time.perf_counter() - start) / 2, float(errors.mean())
        theirs, their_error = adaptive(field, observations[None, :4096], actions[None, :4096], error)
        name = f"inversion, {solver} × {steps}, to {error:.0e} (dopri5: {their_error:.0e})"
        per_second = actions_inverted / ours
        found += [
            row(name, threads, per_second, "actions/s", 4096 / theirs),
            row(
                f"inversion, {solver} × {steps}, share of sgemm rate",
                threads,
                evaluations * gflop / ours,
                "GFLOP/s",
                sgemm_rate(torch.device("cpu")),
            ),
        ]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=available_cores())
    for line in rows(parser.parse_args().threads):
        print(f"{line['name']:<55} {line['value']:10.1f} {line['unit']:<24} ratio {line['ratio']:.2f}")

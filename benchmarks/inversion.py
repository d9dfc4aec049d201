"""Inversion: our fixed-step solver against torchdiffeq's dopri5 at the same round-trip error.

The flow is of the paper's size and fitted for half a minute to cube-double actions that are generated first.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torchdiffeq import odeint

from benchmarks.measure import row, seconds, sgemm_rate
from flp.data.generate import generate
from flp.data.load import read_dataset
from flp.flow.behavior import Flow
from flp.flow.inversion import invert
from flp.flow.matching import FlowLearner, Pairs
from flp.flow.velocity import VelocityField
from flp.learner.devices import available_cores
from flp.learner.trainer import Trainer
from flp.randomness.streams import RunStreams

DATASET, HIDDEN, STEPS = "cube-double-play", [512] * 4, 3000
SOLVERS = (("rk4", 4, 1.5), ("midpoint", 10, 1.0))  # params.yaml's first


def cube_double(episodes: int, workers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations and actions of some episodes of OGBench's length."""
    with tempfile.TemporaryDirectory() as folder:
        train, validation = Path(folder) / "data.npz", Path(folder) / "data-val.npz"
        generate(DATASET, train, validation, seed=0, workers=workers, episodes=episodes, progress=False)
        data = read_dataset(train)
        rows = data.transitions
        return torch.from_numpy(data.observations[rows]), torch.from_numpy(data.actions[rows])


def fitted(observations: torch.Tensor, actions: torch.Tensor) -> VelocityField:
    """A behaviour flow after a short training."""
    streams = RunStreams([0])
    field = VelocityField(streams, observations.shape[1], actions.shape[1], HIDDEN)
    pairs = Pairs(observations, actions, torch.arange(len(actions)))
    trainer = Trainer(FlowLearner(field, 3e-4), pairs, streams, 256)
    while trainer.step < STEPS:
        trainer.run_chunk()
    return field.requires_grad_(False)


def dopri5(field: VelocityField, s: torch.Tensor, x: torch.Tensor, start: float, stop: float, tol: float) -> Any:
    def velocity(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = field(s, x, t.expand(*x.shape[:-1], 1).to(x.dtype))
        return out

    return odeint(velocity, x, torch.tensor([start, stop]), rtol=tol, atol=tol, method="dopri5")[-1]


def adaptive(field: VelocityField, s: torch.Tensor, a: torch.Tensor, error: float) -> tuple[float, float]:
    """Seconds of dopri5's inversion at the first tolerance whose round trip is no worse, and that round trip."""
    reached, tolerance = float("inf"), 1e-2
    while reached > error and tolerance > 1e-7:
        tolerance /= 2
        z = dopri5(field, s, a, 1.0, 0.0, tolerance)
        reached = float((dopri5(field, s, z, 0.0, 1.0, tolerance) - a).abs().mean())
    return seconds(lambda: dopri5(field, s, a, 1.0, 0.0, tolerance), 3, torch.device("cpu")), reached


def rows(threads: int, episodes: int = 50) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    observations, actions = cube_double(episodes, threads)
    field = fitted(observations, actions)
    widths = [observations.shape[1] + actions.shape[1] + 1, *HIDDEN, actions.shape[1]]
    gflop = 2 * len(actions) * sum(a * b for a, b in itertools.pairwise(widths)) / 1e9
    sample = slice(None, None, len(actions) // 4096)
    s, a = observations[None, sample], actions[None, sample]
    results = []
    for solver, steps, grading in SOLVERS:
        flow = Flow(field, solver, steps, grading)
        # A pass of inversion and decoding, as the stage does; half of it is the inversion.
        start = time.perf_counter()
        _, errors = invert(flow, observations, actions, 4096, threads)
        ours, error = (time.perf_counter() - start) / 2, float(errors.mean())
        theirs, their_error = adaptive(field, s, a, error)
        evaluations = steps * {"midpoint": 2, "rk4": 4}[solver]
        what = f"inversion, {solver} × {steps}, grading {grading}"
        results += [
            row(
                f"{what}, to {error:.1e} (dopri5: {their_error:.1e})",
                threads,
                len(actions) / ours,
                "actions/s",
                a.shape[1] / theirs,
            ),
            row(
                f"{what}, share of sgemm rate",
                threads,
                evaluations * gflop / ours,
                "GFLOP/s",
                sgemm_rate(torch.device("cpu")),
            ),
        ]
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=available_cores())
    for line in rows(parser.parse_args().threads):
        print(f"{line['name']:<75} {line['value']:10.1f} {line['unit']:<24} ratio {line['ratio']:.2f}")

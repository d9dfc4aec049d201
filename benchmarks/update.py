"""Updates per second: ours against a plain eager update, and against the machine's rate of matrix products.

Run alone: `python -m benchmarks.update [--threads N]`. Every comparison is made in one process run, alternating.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.eager import EagerFLP
from benchmarks.measure import row, seconds, sgemm_rate
from benchmarks.shards import shard_rate
from benchmarks.subject import BEST_OF_4, ROWS, make_trainer
from flp.learner.devices import available_cores, device_name, set_up
from flp.learner.trainer import CHUNK

GFLOP_PER_UPDATE = 9.06  # 512×4 networks, batch 256, N = 4, observation 28, action 5; see flops()

CPU_SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, compiled": {"compile": True},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, compiled": {"precision": "bfloat16", "compile": True},
}


def flops(observation: int, action: int, hidden: list[int], batch: int, candidates: int) -> float:
    """Floating-point operations of one FLP update, in GFLOP: matrix products only."""

    def forward(inputs: int, outputs: int) -> float:
        widths = [inputs, *hidden, outputs]
        return 2 * batch * sum(a * b for a, b in itertools.pairwise(widths))

    policy, critic = forward(observation, 2 * action), 2 * forward(observation + action, 1)
    # Targets: N critic passes and a policy pass; critic update: 3; actor: 3, through the critic 2.
    return (candidates * critic + policy + 3 * critic + 3 * policy + 2 * critic) / 1e9


def eager_seconds(observation: int, action: int, hidden: list[int], batch: int, repeats: int) -> Callable[[], float]:
    eager = EagerFLP(observation, action, hidden, 4)
    rows = torch.randn(ROWS + 1, observation)
    latents = torch.randn(ROWS, action)

    def one() -> None:
        i = torch.randint(ROWS, (batch,))
        eager.update(rows[i], latents[i], -torch.ones(batch), torch.ones(batch), rows[i + 1])

    def some() -> None:
        for _ in range(CHUNK):
            one()

    one()
    return lambda: seconds(some, repeats, torch.device("cpu")) / CHUNK


def paper_sizes(threads: int) -> list[dict[str, Any]]:
    """One run at the paper's sizes, in each setting that a CPU supports."""
    cpu = set_up(threads, "cpu")
    trainers = {
        name: make_trainer(1, 28, 5, [512] * 4, cpu, 256, **BEST_OF_4, **changes)
        for name, changes in CPU_SETTINGS.items()
    }
    for trainer in trainers.values():
        trainer.run_chunk()
    eager = eager_seconds(28, 5, [512] * 4, 256, 2)
    times: dict[str, list[float]] = {name: [] for name in trainers}
    plain, rate = [], []
    for _ in range(3):
        rate.append(sgemm_rate(cpu))
        plain.append(eager())
        for name, trainer in trainers.items():
            times[name].append(seconds(trainer.run_chunk, 2, cpu) / CHUNK)
    results = []
    for name, mine in times.items():
        best, what = min(mine), f"one run, paper's sizes, {name}"
        results.append(row(f"update, {what}", threads, 1 / best, "updates/s", 1 / min(plain)))
        results.append(row(f"share of sgemm rate, {what}", threads, GFLOP_PER_UPDATE / best, "GFLOP/s", max(rate)))
    return results


def small_networks(threads: int, runs: int = 5) -> list[dict[str, Any]]:
    """Five tasks at once on small networks, as the pipeline trains them (in processes of one thread)."""
    set_up(threads, "cpu")
    eager = eager_seconds(2, 2, [128, 128], 256, 5)
    in_turn = 1 / (runs * min(eager() for _ in range(3)))
    rate, compiled = shard_rate(runs, threads), shard_rate(runs, threads, compile=True)
    name, unit = f"{runs} runs of 128×2 networks at once", "updates/s of all runs"
    return [
        row(f"{name}, against eager runs in turn", threads, rate, unit, in_turn),
        row(f"{name}, compiled, against eager runs in turn", threads, compiled, unit, in_turn),
        row(f"{name}, threads beyond the cores", 2 * threads, shard_rate(runs, 2 * threads), unit, rate),
    ]


def on_gpu() -> list[dict[str, Any]]:
    """One run and forty at the paper's sizes, in each precision, captured; needs a CUDA device."""
    device = torch.device("cuda")
    rows = []
    for runs, precision in (
        (1, "float32"),
        (1, "tf32"),
        (1, "bfloat16"),
        (40, "float32"),
        (40, "tf32"),
        (40, "bfloat16"),
    ):
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        trainer = make_trainer(runs, 28, 5, [512] * 4, device, 256, precision=precision, **BEST_OF_4)
        for _ in range(3):
            trainer.run_chunk()
        time_ = seconds(lambda t=trainer: [t.run_chunk() for _ in range(10)], 5, device) / (10 * CHUNK)  # type: ignore[misc]
        goal = 2000 if runs == 1 else {"float32": 12000, "tf32": 12000, "bfloat16": 20000}[precision]
        name = f"{runs} runs, paper's sizes, {precision}, captured"
        rows.append(row(name, 1, runs / time_, "run-updates/s", goal, device_name(device)))
    return rows


def rows(threads: int) -> list[dict[str, Any]]:
    results = paper_sizes(threads) + paper_sizes(1) + small_networks(threads)
    return results + (on_gpu() if torch.cuda.is_available() else [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=available_cores())
    for line in rows(parser.parse_args().threads):
        print(f"{line['name']:<55} {line['value']:10.1f} {line['unit']:<24} ratio {line['ratio']:.2f}")

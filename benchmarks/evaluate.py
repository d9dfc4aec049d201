"""Environment steps per second of an evaluation, against single environments stepped alone.

Run as `python benchmarks/evaluate.py [--workers W] [--runs R] [--episodes E] [--seconds S] [dataset ...]`.

The policy is a multilayer perceptron with four hidden layers of 512 units for each of R runs, drawn afresh and
applied to all runs and episodes in one forward. It stands in for a trained policy of that size; a flow with ten
integration steps costs about ten times as much. There are two baselines, both times the number of workers: one
environment stepped alone with given actions (`given`), and one whose actions come from such a policy for one
observation at a time, as a plain evaluation loop has it (`policy`). Making and resetting environments is left
out of all rates. Rates are medians over rounds in which all are measured in turn, since machines are noisy.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from flp.data.environments import make_environment, seeded_reset, specification
from flp.pool import EnvironmentPool
from flp.rollout import one_thread

DATASETS = ("pointmaze-medium-navigate", "humanoidmaze-medium-navigate", "cube-single-play")


class StandInPolicy:
    """R perceptrons in one batched forward, `[R, E, o] -> [R, E, a]`."""

    def __init__(self, runs: int, observation_dim: int, action_dim: int) -> None:
        sizes = (observation_dim, 512, 512, 512, 512, action_dim)
        self.weights = [torch.randn(runs, m, n) / m**0.5 for m, n in itertools.pairwise(sizes)]

    @torch.inference_mode()
    def __call__(self, observations: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(observations)
        for weight in self.weights[:-1]:
            x = torch.nn.functional.gelu(x @ weight, approximate="tanh")
        actions: np.ndarray = torch.tanh(x @ self.weights[-1]).numpy()
        return actions


class Alone:
    """One environment, stepped without a pool."""

    def __init__(self, dataset: str, policy: StandInPolicy | None) -> None:
        self.env, self.policy, self.horizon = make_environment(dataset, 1), policy, specification(dataset).horizon
        self.given = np.random.default_rng(0).uniform(-1, 1, (64, specification(dataset).action_dim)).astype("f4")

    def rate(self, seconds: float) -> float:
        spent, steps = 0.0, 0
        while spent < seconds:
            observation, _ = seeded_reset(self.env, steps)
            start = time.perf_counter()
            for step in range(self.horizon):
                if self.policy is None:
                    action = self.given[step % 64]
                else:
                    action = self.policy(observation[None, None].astype(np.float32))[0, 0]
                observation, _, terminated, _, _ = self.env.step(action)
                steps += 1
                if terminated or spent + time.perf_counter() - start > seconds:
                    break
            spent += time.perf_counter() - start
        return steps / spent


class Together:
    """A pool under one batched policy: R runs, E episodes each."""

    def __init__(self, dataset: str, workers: int, runs: int, episodes: int) -> None:
        self.shape, self.horizon = (runs, episodes), specification(dataset).horizon
        start = time.perf_counter()
        self.pool = EnvironmentPool(dataset, [1] * (runs * episodes), workers=workers)
        self.making = time.perf_counter() - start
        self.policy = StandInPolicy(runs, self.pool.observation_dim, self.pool.action_dim)

    def rate(self, seconds: float) -> float:
        slots, spent, steps = len(self.pool), 0.0, 0
        active = np.ones(slots, bool)
        while spent < seconds:
            observations = self.pool.reset(range(slots), range(slots))
            start = time.perf_counter()
            for _ in range(self.horizon):
                actions = self.policy(observations.reshape(*self.shape, -1)).reshape(slots, -1)
                observations = self.pool.step(actions, active).observations
                steps += 1
                if spent + time.perf_counter() - start > seconds:
                    break
            spent += time.perf_counter() - start
        return steps * slots / spent


def _loop(dataset: str, seconds: float, barrier: Any, rates: Any) -> None:
    torch.set_num_threads(1)
    spec = specification(dataset)
    alone = Alone(dataset, StandInPolicy(1, spec.observation_dim, spec.action_dim))
    barrier.wait()
    rates.put(alone.rate(seconds))


def loops_rate(dataset: str, count: int, seconds: float) -> float:
    """Steps per second of some plain evaluation loops, each in a process of its own: what the machine can do."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(count), context.Queue()
    processes = [context.Process(target=_loop, args=(dataset, seconds, barrier, rates)) for _ in range(count)]
    for process in processes:
        process.start()
    total = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    return float(total)


def measure(
    dataset: str, *, workers: int, runs: int = 1, episodes: int = 50, seconds: float = 2.0, rounds: int = 3
) -> dict[str, float]:
    """Median steps per second: `pool`, `given`, `policy`; and `making`, seconds to make the pool."""
    spec = specification(dataset)
    together = Together(dataset, workers, runs, episodes)
    with together.pool:
        subjects: dict[str, Alone | Together] = {
            "pool": together,
            "given": Alone(dataset, None),
            "policy": Alone(dataset, StandInPolicy(1, spec.observation_dim, spec.action_dim)),
        }
        rates: dict[str, list[float]] = {name: [] for name in subjects}
        with one_thread():
            for _ in range(rounds):
                for name, subject in subjects.items():
                    rates[name].append(subject.rate(seconds))
    return {name: statistics.median(values) for name, values in rates.items()} | {"making": together.making}


def rows(
    datasets: Sequence[str] = DATASETS,
    *,
    workers: int | None = None,
    runs: int = 1,
    episodes: int = 50,
    seconds: float = 2.0,
) -> list[dict[str, Any]]:
    """Results as `{name, device, threads, value, unit, baseline, ratio}`, three for each dataset and number of workers.

    The last dataset is measured with every number of workers, the others with the largest.
    """
    most = workers or os.cpu_count() or 1
    cases = [(dataset, most) for dataset in datasets[:-1]]
    cases += [(datasets[-1], count) for count in range(1, most + 1)]
    results = []
    for dataset, workers in cases:
        measured = measure(dataset, workers=workers, runs=runs, episodes=episodes, seconds=seconds, rounds=2)
        loops = loops_rate(dataset, workers, seconds)
        baselines = {name: workers * measured[name] for name in ("given", "policy")} | {"as many loops at once": loops}
        for baseline, alone in baselines.items():
            results.append(
                {
                    "name": f"evaluate {dataset} {runs}x{episodes} vs {baseline}",
                    "device": platform.machine(),
                    "threads": workers,
                    "value": measured["pool"],
                    "unit": "steps/s",
                    "baseline": alone,
                    "ratio": measured["pool"] / alone,
                }
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", default=DATASETS)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = vars(parser.parse_args())
    print(f"{'name':60} {'threads':>7} {'steps/s':>9} {'baseline':>9} {'ratio':>6}")
    for row in rows(**options):
        print(f"{row['name']:60} {row['threads']:7} {row['value']:9.0f} {row['baseline']:9.0f} {row['ratio']:6.2f}")


if __name__ == "__main__":
    main()

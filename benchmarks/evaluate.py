"""Environment steps per second of an evaluation, against single environments stepped alone.

Run as `python -m benchmarks.evaluate [--workers W] [--runs R] [--episodes E] [--seconds S] [dataset ...]`.

The policies are the pipeline's own agents at the paper's sizes, untrained, which takes the same time: FLP, whose
actions come from the flow's ODE, and BC, a single perceptron and the cheapest. There are two baselines: one environment
stepped alone with actions from the same policy for one observation at a time, as in a plain evaluation loop, times the
number of workers; and as many such loops at once, each in a process of its own. Making and resetting environments is
excluded from all rates. Rates are medians over rounds in which all are measured in turn, since machines are noisy.

The robot arm's environments are compared with OGBench's own, in turn and in processor time: the steps of one episode by
itself, and those of 50 episodes whose actions are FLP's, all on one thread.

The pool itself, without any policy, is compared with gymnasium's `AsyncVectorEnv` on two processes: with one for each
environment, as it is meant, and with a share of them for each process, as the pool has it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from benchmarks.measure import as_ogbench_has_it, row
from flp.agents import make_agent
from flp.data.environments import make_environment, seeded_reset, specification
from flp.evaluation.pool import EnvironmentPool
from flp.flow.behavior import Flow
from flp.flow.velocity import VelocityField
from flp.learner import devices
from flp.params.loading import load_params
from flp.parts.base import Spec
from flp.randomness.streams import RunStreams

DATASETS = ("pointmaze-medium-navigate", "humanoidmaze-medium-navigate", "cube-single-play")
AGENTS = ("flp", "bc")
HIDDEN = [512] * 4
ARMS = ("cube-single-play", "scene-play", "puzzle-4x4-play")
COMPARED = {"pointmaze-medium-navigate": 20, "cube-single-play": 10}
"""Environments that the pool and gymnasium step with two workers."""


class Policy:
    """An agent of R runs at the paper's sizes, `[R, E, o] -> [R, E, a]`."""

    def __init__(self, dataset: str, agent: str, runs: int, hidden: list[int] = HIDDEN) -> None:
        params, spec = load_params("params.yaml"), specification(dataset)
        self.streams = RunStreams(list(range(runs)))
        field = VelocityField(self.streams, spec.observation_dim, spec.action_dim, hidden)
        flow = Flow(field, params.flow.solver, params.flow.solver_steps, params.flow.solver_grading)
        offline = params.offline.model_copy(update={"hidden": hidden})
        self.agent = make_agent(
            agent,
            Spec(
                streams=self.streams,
                observation_dim=spec.observation_dim,
                action_dim=spec.action_dim,
                offline=offline,
                alpha=torch.ones(runs),
                candidates=(offline.candidates,) * runs,
                flow=flow,
            ),
        )

    @torch.inference_mode()
    def __call__(self, observations: np.ndarray) -> np.ndarray:
        actions: np.ndarray = self.agent.act(torch.from_numpy(observations), self.streams).numpy()
        return actions


class Alone:
    """One environment, stepped without a pool."""

    def __init__(self, dataset: str, agent: str) -> None:
        self.env, self.horizon = make_environment(dataset, 1), specification(dataset).horizon
        self.policy = Policy(dataset, agent, 1)

    def rate(self, seconds: float) -> float:
        spent, steps = 0.0, 0
        while spent < seconds:
            observation, _ = seeded_reset(self.env, steps)
            start = time.perf_counter()
            for _ in range(self.horizon):
                action = self.policy(observation[None, None].astype(np.float32))[0, 0]
                observation, _, terminated, _, _ = self.env.step(action)
                steps += 1
                if terminated or spent + time.perf_counter() - start > seconds:
                    break
            spent += time.perf_counter() - start
        return steps / spent


class Together:
    """A pool under one batched policy: R runs, E episodes each."""

    def __init__(self, dataset: str, agent: str, workers: int, runs: int, episodes: int) -> None:
        self.shape, self.horizon = (runs, episodes), specification(dataset).horizon
        self.pool = EnvironmentPool(dataset, [1] * (runs * episodes), workers=workers)
        self.policy = Policy(dataset, agent, runs)

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


def _loop(dataset: str, agent: str, seconds: float, barrier: Any, rates: Any) -> None:
    torch.set_num_threads(1)
    alone = Alone(dataset, agent)
    barrier.wait()
    rates.put(alone.rate(seconds))


def loops_rate(dataset: str, agent: str, count: int, seconds: float) -> float:
    """Steps per second of some plain evaluation loops, each in a process of its own: what the machine can do."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(count), context.Queue()
    arguments = (dataset, agent, seconds, barrier, rates)
    processes = [context.Process(target=_loop, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    total = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    return float(total)


def measure(
    dataset: str, agent: str, workers: int, *, runs: int = 1, episodes: int = 50, seconds: float = 2.0, rounds: int = 2
) -> tuple[float, float]:
    """Median steps per second of the pool and of one environment alone."""
    together, alone = Together(dataset, agent, workers, runs, episodes), Alone(dataset, agent)
    with together.pool, devices.threads(1):
        rates = [(together.rate(seconds), alone.rate(seconds)) for _ in range(rounds)]
    pool, one = zip(*rates, strict=True)
    return statistics.median(pool), statistics.median(one)


class Share(gymnasium.Env[np.ndarray, np.ndarray]):  # type: ignore[misc]
    """Some environments as one, `[n, o]` and `[n, a]`: what a process of `AsyncVectorEnv` needs to have several."""

    def __init__(self, dataset: str, count: int) -> None:
        spec = specification(dataset)
        self.envs = [make_environment(dataset, 1) for _ in range(count)]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (count, spec.observation_dim), np.float64)
        self.action_space = gymnasium.spaces.Box(-1, 1, (count, spec.action_dim), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return np.stack([seeded_reset(env, (seed or 0) + i)[0] for i, env in enumerate(self.envs)]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        steps = [env.step(row) for env, row in zip(self.envs, action, strict=True)]
        observations, rewards, terminated, truncated, infos = zip(*steps, strict=True)
        success = np.array([info["success"] for info in infos])
        flags = {"rewards": np.array(rewards), "ended": np.array(terminated) | np.array(truncated), "success": success}
        return np.stack(observations), 0.0, False, False, flags


def pool_rows(dataset: str, count: int, seconds: float, workers: int = 2, rounds: int = 5) -> list[dict[str, Any]]:
    """Environments stepped by the pool and by `AsyncVectorEnv`, with the same actions and no policy."""
    per_worker = count // workers
    vectorized = partial(AsyncVectorEnv, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
    singles = vectorized([partial(make_environment, dataset, 1)] * count)
    shares = vectorized([partial(Share, dataset, per_worker)] * workers)
    actions = np.random.default_rng(0).uniform(-1, 1, (count, specification(dataset).action_dim)).astype(np.float32)
    names = ("one process each", "a share for each process")
    with EnvironmentPool(dataset, [1] * count, workers=workers) as pool:
        pool.reset(range(count), range(count))
        for theirs in (singles, shares):
            theirs.reset(seed=0)
        steps = [
            partial(pool.step, actions, np.ones(count, bool)),
            partial(singles.step, actions),
            partial(shares.step, actions.reshape(workers, per_worker, -1)),
        ]
        rates = np.median([[count * _calls(step, seconds) for step in steps] for _ in range(rounds)], axis=0)
    singles.close()
    shares.close()
    name = f"step {count} environments of {dataset} vs AsyncVectorEnv, "
    machine = platform.machine()
    return [row(name + how, workers, rates[0], "steps/s", rates[i + 1], machine) for i, how in enumerate(names)]


def arm_rows(datasets: Sequence[str] = ARMS, rounds: int = 8) -> list[dict[str, Any]]:
    """The robot arm's steps with random actions, and with FLP's in 50 episodes, against OGBench's own environments."""
    results = []
    for dataset in datasets:
        steps = least_seconds(dataset, 1, 120, rounds)
        results.append(_arm_row(f"step {dataset} vs OGBench's", 120 / steps))
        for widths in ([256] * 2, HIDDEN):
            policy = Policy(dataset, "flp", 1, widths)
            seconds = least_seconds(dataset, 50, 6, rounds, policy)
            results.append(_arm_row(f"evaluate {dataset} flp {widths[0]}x{len(widths)} vs OGBench's", 50 * 6 / seconds))
    return results


def _arm_row(name: str, rates: np.ndarray) -> dict[str, Any]:
    return row(name, 1, rates[0], "steps/s", rates[1], platform.machine())


def least_seconds(dataset: str, slots: int, steps: int, rounds: int, policy: Policy | None = None) -> np.ndarray:
    """Processor time of the same steps of ours and of OGBench's environments, each step's least over rounds in turn."""
    with as_ogbench_has_it():
        theirs = EnvironmentPool(dataset, [1] * slots)
    pools = [EnvironmentPool(dataset, [1] * slots), theirs]
    shape = (steps, slots, specification(dataset).action_dim)
    random = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    least = np.full((2, steps), np.inf)
    with devices.threads(1):
        for _ in range(rounds):
            for which, pool in enumerate(pools):
                observations = pool.reset(range(slots), range(slots))
                for step in range(steps):
                    start = time.thread_time()
                    actions = random[step] if policy is None else policy(observations[None])[0]
                    observations = pool.step(actions, np.ones(slots, bool)).observations
                    least[which, step] = min(least[which, step], time.thread_time() - start)
    for pool in pools:
        pool.close()
    total: np.ndarray = least.sum(1)
    return total


def _calls(step: Callable[[], object], seconds: float) -> float:
    """Calls per second."""
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        step()
        count += 1
    return count / spent


def rows(
    datasets: Sequence[str] = DATASETS,
    *,
    workers: int | None = None,
    runs: int = 1,
    episodes: int = 50,
    seconds: float = 2.0,
) -> list[dict[str, Any]]:
    """Results as `{name, device, threads, value, unit, baseline, ratio}`, two for each case and for each pool.

    FLP on the last dataset is measured with every number of workers, the others with the largest.
    """
    most = workers or os.cpu_count() or 1
    cases = [(dataset, agent, most) for dataset in datasets for agent in AGENTS]
    cases += [(datasets[-1], AGENTS[0], count) for count in range(1, most)]
    results = []
    for dataset, agent, count in cases:
        pool, one = measure(dataset, agent, count, runs=runs, episodes=episodes, seconds=seconds)
        loops = loops_rate(dataset, agent, count, seconds)
        for baseline, alone in {"workers × one environment": count * one, "as many loops at once": loops}.items():
            name = f"evaluate {dataset} {agent} {runs}x{episodes} vs {baseline}"
            results.append(row(name, count, pool, "steps/s", alone, platform.machine()))
    for dataset in filter(COMPARED.get, datasets):
        results += pool_rows(dataset, COMPARED[dataset], seconds)
    return results + arm_rows(rounds=max(1, round(4 * seconds)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", default=DATASETS)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = vars(parser.parse_args())
    print(f"{'name':75} {'threads':>7} {'steps/s':>9} {'baseline':>9} {'ratio':>6}")
    for line in rows(**options):
        print(
            f"{line['name']:75} {line['threads']:7} {line['value']:9.0f} {line['baseline']:9.0f} {line['ratio']:6.2f}"
        )


if __name__ == "__main__":
    main()

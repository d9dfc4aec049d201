"""`flp check`: whether params.yaml (and presets) are valid, what they would train, and how long that takes.

For a user's task, the data are read, the environment is opened, and the two are compared.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing, nullcontext
from typing import Any

import numpy as np

from flp.data.environments import seeded_reset
from flp.experiment.forecast import summary
from flp.experiment.keys import Keys
from flp.experiment.program import OPTIONS, tool
from flp.own.importing import TaskSource, read_task
from flp.supervision.foresight import EMULATED, emulates

_STEPS = 1000


def check(keys: Keys, args: argparse.Namespace) -> int:
    """Print what would be trained; the parameters were checked when they were read."""
    for name in keys.params.datasets:
        if name in keys.params.tasks:
            print(f"{name}: {task(keys.params.tasks[name].source(name))}")
    jobs, online = list(keys.jobs()), list(keys.online_jobs())
    if any(emulates(keys.agent_params(job.dataset, job.agent)) for job in jobs):
        print(f"warning: trained here without a GPU: {EMULATED}", file=sys.stderr)
    runs = sum(len(keys.runs(*job)) for job in jobs)
    flows = len(keys.params.datasets) * len(keys.params.seeds)
    print(
        f"{args.params} is valid: {len(keys.params.datasets)} datasets, {flows} flows, {runs} offline runs in "
        f"{len(jobs)} jobs, {sum(len(keys.online_runs(*job)) for job in online)} online runs in {len(online)} jobs"
    )
    print(summary(keys, args.cores))
    return 0


def task(asked: TaskSource) -> str:
    """What is found out of a task, in a line.

    Raises:
        FLPError: its data are damaged, or do not match its environment.
    """
    found = read_task(asked)
    spec, rows = found.spec, sum(int((~part["terminals"]).sum()) for part in found.parts)
    with closing(spec.make(1)) if spec.simulated else nullcontext() as env:
        if env is not None:
            _play(env, spec.action_dim)
    units = "in [-1, 1]" if spec.in_units else f"scaled from {list(spec.low)} … {list(spec.high)}"
    place = f"{spec.environment}, {spec.horizon} steps" if spec.simulated else "no simulator"
    return (
        f"{rows} transitions, observations of {spec.observation_dim} numbers, {spec.action_dim} actions {units}, "
        f"{place}, success: {spec.success}"
    )


def _play(env: Any, action_dim: int) -> None:
    """Play an episode, at most `_STEPS` long; the adapter checks it, and where it ends, its criterion of success."""
    seeded_reset(env, 0)
    for _ in range(_STEPS):
        _, _, terminated, truncated, _ = env.step(np.zeros(action_dim, np.float32))
        if terminated or truncated:
            return


main = tool("check", {"cores": OPTIONS["cores"]}, check, __doc__)

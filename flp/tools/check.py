"""`flp check`: whether params.yaml (and presets) are valid, what they would train, and how long that takes.

For a user's task, the data are read, the environment is opened, and the two are compared.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.environments import EnvironmentSpec, numpy_seeded, seeded_reset
from flp.data.load import read_dataset
from flp.data.relabel import state_columns
from flp.experiment.forecast import summary
from flp.experiment.keys import Keys
from flp.experiment.program import OPTIONS, tool
from flp.own.importing import TaskSource, read_task
from flp.own.ogbench_file import read_files
from flp.own.splitting import own_files
from flp.own.task import OwnSpec
from flp.supervision.foresight import EMULATED, emulates
from flp.system import layout
from flp.system.artifacts import key_of
from flp.system.units import counted

_STEPS, _REPEATED = 1000, 100  # of the environment: played, and played again


def check(keys: Keys, args: argparse.Namespace) -> int:
    """Print what would be trained; the parameters were checked when they were read."""
    for name in keys.params.datasets:
        if found := of_user(keys, name):
            print(f"{name}: {found}")
    jobs, online = list(keys.jobs()), list(keys.online_jobs())
    if any(emulates(keys.agent_params(job.dataset, job.agent)) for job in jobs):
        print(f"warning: trained here without a GPU: {EMULATED}", file=sys.stderr)
    for dataset, agent in dict.fromkeys((job.dataset, job.agent) for job in jobs):
        if late := keys.agent_params(dataset, agent).offline.late(agent):
            print(f"warning: {dataset}, {agent}: {late}", file=sys.stderr)
    runs = sum(len(keys.runs(*job)) for job in jobs)
    datasets, fine_tuned = len(keys.params.datasets), sum(len(keys.online_runs(*job)) for job in online)
    print(
        f"the experiment is valid: {counted(datasets, 'dataset')}, "
        f"{counted(datasets * len(keys.params.seeds), 'flow')}, "
        f"{counted(runs, 'offline run')} in {counted(len(jobs), 'job')}, "
        f"{counted(fine_tuned, 'online run')} in {counted(len(online), 'job')}"
    )
    print(summary(keys, args.cores))
    return 0


def of_user(keys: Keys, name: str) -> str | None:
    """What is found out of a dataset that the user's files make, in a line; None for others.

    If the files are away, but the data that they made are at hand, these are read.

    Raises:
        FLPError: its data are damaged, too few, or do not match its environment.
    """
    own, settings = keys.params.tasks.get(name), keys.dataset_params(name).download
    if own is None and settings.source != "path":
        return None
    base = layout.DATA.format(dataset=name)
    here = own.source(name).files() if own else own_files(settings.path or "")
    if not here and key_of(base + ".json") == keys.data(name):
        spec = keys.params.spec(name)
        return described(spec, sum(len(read_dataset(base + suffix, spec)) for suffix in (".npz", "-val.npz")))
    if own is not None:
        return task(own.source(name))
    files, _ = read_files(name, settings.path or "", state_columns(name))
    return f"{sum(int((~file.ends).sum()) for file in files)} transitions in {', '.join(str(f.path) for f in files)}"


def task(asked: TaskSource) -> str:
    """What is found out of a task, in a line; errors as `of_user`."""
    found = read_task(asked)
    return described(found.spec, sum(int((~part["terminals"]).sum()) for part in found.parts))


def described(spec: EnvironmentSpec, rows: int) -> str:
    """A dataset's line; a user's environment plays an episode."""
    if not isinstance(spec, OwnSpec):
        return f"{rows} transitions"
    with closing(spec.make(1)) if spec.simulated else nullcontext() as env:
        if env is not None and not _repeats(env, spec.action_dim):
            print(
                f"warning: {spec.environment}: two episodes with the same seed and actions differ, so that evaluations "
                "cannot be repeated; let it draw from its own generator (np_random) or NumPy's global one",
                file=sys.stderr,
            )
    units = "in [-1, 1]" if spec.in_units else f"scaled from {list(spec.low)} … {list(spec.high)}"
    place = f"{spec.environment}, {spec.horizon} steps" if spec.simulated else "no simulator"
    return (
        f"{rows} transitions, observations of {spec.observation_dim} numbers, {spec.action_dim} actions {units}, "
        f"{place}, success: {spec.success}"
    )


def _repeats(env: Any, action_dim: int) -> bool:
    """Whether an episode with the same seed and actions begins alike."""
    episode, again = _play(env, action_dim, _STEPS), _play(env, action_dim, _REPEATED)
    return np.array_equal(episode[: len(again)], again)


def _play(env: Any, action_dim: int, most: int) -> NDArray[np.float32]:
    """The observations and rewards of an episode's first steps as one vector.

    The adapter checks each, and where the episode ends, its criterion of success.
    """
    observation, _ = seeded_reset(env, 0)
    seen = [np.array(observation, np.float32)]  # a copy: it may be changed in place
    with numpy_seeded(0):
        for _ in range(most):
            observation, reward, terminated, truncated, _ = env.step(np.zeros(action_dim, np.float32))
            seen += [np.array(observation, np.float32), np.array([reward], np.float32)]
            if terminated or truncated:
                break
    return np.concatenate(seen)


main = tool("check", {"cores": OPTIONS["cores"]}, check, __doc__)

"""Datasets by name, and policies evaluated in their environments on the pipeline's own episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flp.data import load
from flp.data.environments import EnvironmentSpec, known_datasets, specification
from flp.evaluation import evaluator
from flp.library.arrays import LARGEST, whole
from flp.library.policy import Policy
from flp.own.splitting import neighbour_of
from flp.own.task import spec_from
from flp.randomness.streams import RunStreams
from flp.system import layout
from flp.system.artifacts import read_json
from flp.system.errors import FLPError

LEVEL, RESAMPLES = 0.95, 10_000


@dataclass(frozen=True)
class Trial:
    """The outcome of a policy's E episodes.

    Attributes:
        success: float32 `[E]`, 1 if the last step of an episode was a success; None in a task that does not define it.
        returns: float64 `[E]`, undiscounted.
        lengths: int64 `[E]`, steps.
    """

    success: NDArray[np.float32] | None
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]

    @property
    def success_interval(self) -> tuple[float, float] | None:
        """95 % interval of the success rate, Wilson's: valid for few episodes, and if all or none succeed.

        None in a task that does not define success.
        """
        from scipy.stats import binomtest

        if self.success is None:
            return None

        interval = binomtest(int(self.success.sum()), len(self.success)).proportion_ci(LEVEL, "wilson")
        return float(interval.low), float(interval.high)

    @property
    def return_interval(self) -> tuple[float, float]:
        """95 % interval of the mean return, by a percentile bootstrap over the episodes with a fixed seed."""
        picks = np.random.default_rng(0).integers(0, len(self.returns), (RESAMPLES, len(self.returns)))
        low, high = np.quantile(self.returns[picks].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def __str__(self) -> str:
        episodes, returns = len(self.returns), f"return {self.returns.mean():.1f}"
        if self.success is None:
            return f"{returns} over {episodes} episodes"
        won = int(self.success.sum())
        return f"success {won} of {episodes} ({won / episodes:.0%}), {returns}"


def load_dataset(name: str | Path, *, validation: bool = False) -> load.Dataset:
    """Load a dataset of this checkout by its name (`data/{name}.npz`), or any file in its format by its path.

    Args:
        name: such as `cube-single-play`, or the path of an `.npz`.
        validation: load the held-out episodes instead, for a path those in `{stem}-val.npz` next to it.

    Raises:
        FLPError: unknown, missing or damaged.
    """
    path = Path(name)
    if path.suffix == ".npz":
        path = neighbour_of(path) if validation else path
        remedy = "correct it, or let `download.path` or a task under `tasks` convert it (it is left as it is)"
        return load.read_dataset(path, remedy=remedy)
    if path.suffix in (".h5", ".hdf5") or path.is_file():
        raise FLPError(f"{path} is not an .npz in flp's format; let a task under `tasks` convert it")
    file = layout.DATA.format(dataset=name)
    spec = _spec(str(name), f"{file}.json")
    return load.read_dataset(file + ("-val.npz" if validation else ".npz"), spec)


def _spec(name: str, manifest: str) -> EnvironmentSpec:
    """OGBench's dataset of that name, or a user's task: by the checkout's params.yaml, or its data's manifest."""
    if name not in known_datasets() and Path(manifest).exists():
        from flp.params.loading import load_params

        if Path("params.yaml").exists() and name in (params := load_params()).tasks:
            return params.spec(name)  # the criterion of success may have changed since
        return spec_from(read_json(manifest).get("task"), manifest)
    try:
        return specification(name)
    except FLPError as error:
        raise FLPError(
            f"{error}; a task of yours is known by its data, {manifest}: make them with snakemake, and call this from "
            "the folder that has them"
        ) from None


def evaluate(
    policy: Policy | Callable[[NDArray[np.float32]], Any],
    task: int | None = None,
    *,
    episodes: int = 50,
    seed: int = 0,
    dataset: str | None = None,
    workers: int = 0,
    watch: evaluator.Watch | None = None,
) -> Trial:
    """Roll out a policy in seeded episodes: with the same seed and number, those of the pipeline's evaluations.

    Args:
        policy: one from `load_policy`, or any function of observations `[E, o]` that gives actions `[E, a]` in [-1, 1],
            whatever the environment's own units; others are clipped.
        task: the dataset's task; by default the one that the policy was trained for.
        episodes: how many, all at once.
        seed: of the episodes, and of the noise of a policy from `load_policy`.
        dataset: the dataset whose environment to use; required for a function.
        workers: processes that step the environments; 0 steps them in this one.
        watch: called at every step with observations, actions, their outcome, and which episodes were still running.

    Raises:
        FLPError: unknown dataset or task, or invalid actions.
    """
    if not callable(policy):
        raise FLPError(f"a {type(policy).__name__} is no policy; give one of flp.load_policy, or a function")
    task = getattr(policy, "task", None) if task is None else task
    spec = getattr(policy, "spec", None)
    if dataset and (spec is None or dataset != spec.dataset):
        spec = _spec(dataset, layout.DATA.format(dataset=dataset) + ".json")
    if spec is None or task is None:
        raise FLPError("a function has no environment of its own; give dataset and task")
    if not spec.simulated:
        raise FLPError(f"{spec.dataset} has no simulator (its task says environment: null): there is nothing to play")
    task, seed = whole(task, "task", -LARGEST), whole(seed, "seed")
    episodes, workers = whole(episodes, "episodes", 1), whole(workers, "workers")
    if not 1 <= task <= spec.num_tasks:
        raise FLPError(f"{spec.dataset} has no task {task}; use 1 to {spec.num_tasks}")
    device: Any = "cpu"
    timing = "pre"
    if isinstance(policy, Policy):
        ours, theirs = ((p.observation_dim, p.action_dim) for p in (policy, spec))
        if ours != theirs:
            raise FLPError(f"the policy has observations and actions of {ours} numbers, {spec.dataset} of {theirs}")
        act: evaluator.Act = policy.act
        device = policy.device
        timing = policy.manifest["model"]["offline"]["success_timing"]
    else:
        function, width = policy, spec.action_dim

        def act(observations: Tensor, streams: RunStreams) -> NDArray[Any]:
            chosen = function(observations[0].numpy())
            try:
                actions = np.asarray(chosen, np.float32)
            except (TypeError, ValueError, RuntimeError) as error:
                raise FLPError(f"the policy gave no array of actions but {type(chosen).__name__}") from error
            expected = (observations.shape[1], width)
            if actions.shape != expected or not np.isfinite(actions).all():
                what = f"actions of shape {actions.shape}" if actions.shape != expected else "NaN or infinite actions"
                raise FLPError(f"the policy gave {what}, expected numbers of shape {expected}, one row per episode")
            return actions[None]

    options = {"episodes": episodes, "seed": seed, "workers": workers, "success_timing": timing, "device": device}
    evaluation = evaluator.evaluate(act, spec, [task], watch=watch, **options)
    success = evaluation.success[0] if spec.has_success else None
    return Trial(success, evaluation.returns[0], evaluation.lengths[0])

"""Off-policy estimates, from logged episodes, for tasks without a simulator.

Every evaluation gives the critic's own value and the likelihood of the policy's actions under the behaviour flow, both
on held-out episodes; the last one adds fitted-Q evaluation. All of these are opinions of models, not measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flp.data.environments import EnvironmentSpec
from flp.data.load import Dataset, read_dataset
from flp.data.moments import observation_moments
from flp.evaluation.evaluator import Act, Row, Value
from flp.flow.matching import evenly_spaced
from flp.learner.devices import to_device
from flp.learner.returns import is_last, monte_carlo
from flp.parts.base import Agent
from flp.parts.fitted_q import Logged, fitted_q
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams
from flp.runs.run_batch import RunBatch
from flp.system import layout
from flp.system.errors import FLPError

_PIECE = 4096  # states per forward pass


@dataclass(frozen=True, eq=False)
class Estimate:
    """What policies do in held-out states.

    Attributes:
        starts: first states of the held-out episodes, `[R, E, o]`.
        actions: the policies' actions there, `[R, E, a]`.
        likelihood: mean log-density of their actions under the behaviour flow, in nats, `[R]`.
        trajectories: None: no episode is played.
    """

    starts: Tensor
    actions: Tensor
    likelihood: Tensor
    trajectories: None = None

    def rows(self, spec: EnvironmentSpec, value: Value) -> list[Row]:
        """Each run's columns of `evaluations.csv`: no episode was played.

        Args:
            spec: unused: success and returns are not measured.
            value: the critic's value, averaged over the actions at the episodes' starts.
        """
        with torch.inference_mode():
            values = value(self.starts, self.actions)
        means = [None] * len(self.likelihood) if values is None else values.mean(1).tolist()
        unmeasured = {"success": None, "episodes": 0, "return": None, "length": None}
        return [
            {**unmeasured, "value": mean, "likelihood": likelihood}
            for mean, likelihood in zip(means, self.likelihood.tolist(), strict=True)
        ]


class Estimator:
    """Replaces the evaluator for a task without a simulator.

    Args:
        batch: the runs.
    """

    record = 0

    def __init__(self, batch: RunBatch) -> None:
        self.batch, self.device = batch, batch.device
        file = layout.DATA.format(dataset=batch.dataset)
        self.train, self.held_out = read_dataset(f"{file}.npz"), read_dataset(f"{file}-val.npz")
        self.flow, _ = batch.load_flows(self.train)
        rows = self.held_out.transitions
        states = rows[evenly_spaced(len(rows), max(1, batch.params.invert.likelihood_samples)).numpy()]
        self.starts, self.states = (
            self._shared(self.held_out.observations[at]) for at in (_starts(self.held_out), states)
        )
        self._interrupted = False

    def _shared(self, array: NDArray[Any]) -> Tensor:
        """An array `[n, o]`, the same for every run: `[R, n, o]`."""
        return to_device(array, self.device).expand(len(self.batch.runs), -1, -1)

    def evaluate(self, act: Act) -> Estimate:
        """Let policies act in held-out states."""
        with torch.inference_mode():
            starts, states = (self._actions(act, states, "evaluation noise") for states in (self.starts, self.states))
        return Estimate(self.starts, starts, self.flow.log_density(self.states, states).mean(1))

    def _actions(self, act: Act, states: Tensor, purpose: str) -> Tensor:
        """The policies' actions `[R, n, a]`, computed in pieces; `FLPError` if interrupted."""
        seed = self.batch.params.evaluation.seed
        streams = RunStreams([seed_of(purpose, seed, run.task) for run in self.batch.runs], "cpu", self.device)
        pieces = []
        for piece in torch.split(states, _PIECE, 1):
            if self._interrupted:
                raise FLPError(f"the evaluation of {self.batch.dataset} was interrupted")
            pieces.append(torch.as_tensor(act(piece, streams)).float().clamp(-1, 1))
        return torch.cat(pieces, 1)

    def fitted(self, agent: Agent, runs: Sequence[int], tick: Callable[[], None] = lambda: None) -> list[Row]:
        """Fitted-Q evaluation of the policies of some runs: the estimate, its 95 % interval, and the data's own return.

        Each critic is fitted to a bootstrap sample of the training episodes; the interval is ±1.96 standard deviations
        of their estimates. `tick` is called at every step and may raise to stop it.
        """
        data, offline = self.train, self.batch.params.offline
        assert data.rewards is not None and data.masks is not None

        rows, starts = data.transitions, _starts(data)
        with torch.inference_mode():
            after = self._actions(agent.act, self._shared(data.observations[rows + 1]), "fitted-Q noise")
            first = self._actions(agent.act, self._shared(data.observations[starts]), "fitted-Q starts")
        moments = observation_moments(data.observations, self.device)
        arrays = (data.observations[rows], data.actions[rows], data.rewards[rows], data.masks[rows])
        s, a, r, masks, s_after = (to_device(array, self.device) for array in (*arrays, data.observations[rows + 1]))
        begins = to_device(np.searchsorted(rows, starts), self.device)
        earned = _discounted(data, offline.discount)
        rows_of_runs = []
        for i in runs:
            run = self.batch.runs[i]
            seed = seed_of("fitted-Q", self.batch.dataset, self.batch.agent, run.task, run.seed, run.variant) % 2**62
            transitions = Logged(s, a, r, masks, s_after, after[i].clone(), begins, first[i].clone())
            estimates = fitted_q(transitions, offline, moments, seed, tick)
            mean, margin = float(estimates.mean()), 1.96 * float(estimates.std())
            rows_of_runs.append(
                {"fqe": mean, "fqe_low": mean - margin, "fqe_high": mean + margin, "data_value": earned}
            )
        return rows_of_runs

    def interrupt(self) -> None:
        """Stop an evaluation running in another thread."""
        self._interrupted = True

    def close(self) -> None:
        """Nothing is open."""


def _starts(data: Dataset) -> NDArray[np.int64]:
    """The first rows of episodes with transitions."""
    rows = data.transitions
    return rows[np.flatnonzero(np.diff(rows, prepend=-2) > 1)]


def _discounted(data: Dataset, discount: float) -> float:
    """Mean discounted return of the logged episodes.

    An episode that was cut off continues with its last reward: fitted-Q evaluation looks beyond the cut as well.
    """
    assert data.rewards is not None and data.masks is not None
    rows = data.transitions
    rewards, masks = (torch.from_numpy(of[rows]).double()[None] for of in (data.rewards, data.masks))
    returns = monte_carlo(rewards, masks, is_last(torch.from_numpy(rows)), discount)[0]
    return float(returns[np.searchsorted(rows, _starts(data))].mean())

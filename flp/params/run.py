"""One policy of an experiment, and the job that trains several of them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from flp.system import layout


@dataclass(frozen=True)
class Run:
    """One policy: a task, a seed, and in a sweep the changed value."""

    task: int
    seed: int
    alpha: float
    candidates: int
    variant: str = ""

    @property
    def name(self) -> str:
        """The run's folder inside its job's."""
        return layout.run_name(self.task, self.seed, self.variant)


class TrainingJob(NamedTuple):
    """The policies of one dataset and algorithm that train together, those of these seeds."""

    dataset: str
    agent: str
    seeds: list[int]

    @property
    def name(self) -> str:
        """Its name within a stage, such as `cube-single-play/flp/seed0-1`."""
        return f"{self.dataset}/{self.agent}/seed{layout.join_seeds(self.seeds)}"

    def folder(self, pattern: str) -> str:
        """Its folder by a pattern such as `layout.OFFLINE`."""
        return pattern.format(dataset=self.dataset, agent=self.agent, seeds=layout.join_seeds(self.seeds))


class SweepJob(NamedTuple):
    """The policies of one dataset that a figure of the paper needs in addition to the experiment's own."""

    dataset: str
    figure: str
    seeds: list[int]

    @property
    def name(self) -> str:
        """Its name within its stage, such as `cube-single-play/figure4/seed0-1`."""
        return f"{self.dataset}/{self.figure}/seed{layout.join_seeds(self.seeds)}"

    @property
    def folder(self) -> str:
        """Its folder."""
        return layout.SWEEP.format(dataset=self.dataset, figure=self.figure, seeds=layout.join_seeds(self.seeds))

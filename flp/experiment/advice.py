"""Which precision, compilation and number of seeds per job make an experiment shortest, by the measured costs."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path

from flp.experiment.forecast import Forecast
from flp.experiment.keys import Keys
from flp.experiment.workload import known_spec
from flp.params.loading import Params
from flp.params.run import TrainingJob
from flp.supervision.costs import CostModel
from flp.supervision.foresight import memory, train_needs
from flp.system import layout
from flp.system.errors import FLPError

WORTH = 0.95  # a change that saves less than a twentieth is within the noise, and is not advised


@dataclass(frozen=True)
class Choice:
    """Three settings of `offline`."""

    precision: str
    compile: bool
    seeds_per_job: int


class Advisor:
    """Compares choices.

    Args:
        params: the experiment.
        costs: what was measured.
        cores: CPU cores.
        gpu: bytes of the GPU's memory, where training happens on one.
    """

    def __init__(self, params: Params, costs: CostModel, cores: int, gpu: float | None = None) -> None:
        self.params, self.costs, self.cores, self.gpu = params, costs, cores, gpu
        offline = params.offline
        self.now = Choice(offline.precision, offline.compile, offline.seeds_per_job)
        self._forecasts: dict[Choice, Forecast] = {}

    def forecast(self, choice: Choice) -> Forecast:
        """The expected times with a choice."""
        if choice not in self._forecasts:
            keys = Keys(self._with(choice))
            self._forecasts[choice] = Forecast(keys, self.costs, self.cores, gpu=self.gpu is not None)
        return self._forecasts[choice]

    @cached_property
    def best(self) -> Choice:
        """The shortest choice; of those at most a twentieth longer, the one that changes least."""
        settings = self.costs.settings()
        precisions = dict.fromkeys([self.now.precision, *(name.split()[0] for name in settings)])
        # What was not measured is not judged.
        compiled = (False, True) if any("compiled" in name for name in settings) else (self.now.compile,)
        choices = [replace(self.now, precision=p, compile=c) for p in precisions for c in compiled]
        fast = self._shortest(choices)
        return self._shortest([replace(fast, seeds_per_job=count) for count in self._counts()] + choices)

    def speedup(self, **change: object) -> float:
        """The factor by which this change alone shortens the present experiment."""
        return self.forecast(self.now).total / self.forecast(replace(self.now, **change)).total  # type: ignore[arg-type]

    def _shortest(self, choices: list[Choice]) -> Choice:
        shortest = min(self.forecast(choice).total for choice in choices)
        near = [choice for choice in choices if self.forecast(choice).total * WORTH <= shortest]
        return min(near, key=lambda choice: (self._changes(choice), self.forecast(choice).total))

    def _changes(self, choice: Choice) -> int:
        return sum(a != b for a, b in zip(astuple(choice), astuple(self.now), strict=True))

    def _counts(self) -> list[int]:
        """Numbers of seeds that may train together: those that fit into memory and into the name of a folder."""
        most = len(self.params.seeds)
        counts = sorted({self.now.seeds_per_job, most, *(2**i for i in range(most.bit_length()))})
        return [count for count in counts if count == self.now.seeds_per_job or self._fits(count)]

    def _fits(self, count: int) -> bool:
        try:
            for group in layout.seed_groups(self.params.seeds, count):
                layout.join_seeds(group)
        except FLPError:
            return False
        keys = Keys(self._with(replace(self.now, seeds_per_job=count)))
        return all(self._fits_in_memory(keys, job) for job in keys.jobs())

    def _fits_in_memory(self, keys: Keys, job: TrainingJob) -> bool:
        params, runs = keys.agent_params(job.dataset, job.agent), keys.runs(*job)
        spec = known_spec(params, job.dataset)
        if spec is None:
            return True
        shards = [runs] if self.gpu else [runs[i :: self.cores] for i in range(min(self.cores, len(runs)))]
        data, capacity = Path(layout.DATA.format(dataset=job.dataset) + ".npz"), params.online.steps
        sizes = spec.observation_dim, spec.action_dim
        needs = train_needs(params, job.agent, data, *sizes, shards, capacity, cuda=self.gpu is not None)
        return needs.memory <= memory()[1] and (self.gpu is None or needs.device <= self.gpu)

    def _with(self, choice: Choice) -> Params:
        values = {"precision": choice.precision, "compile": choice.compile, "seeds_per_job": choice.seeds_per_job}
        return self.params.model_copy(update={"offline": self.params.offline.model_copy(update=values)})

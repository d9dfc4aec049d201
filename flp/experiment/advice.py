"""Which precision, compilation and number of seeds per job make an experiment shortest, by what was measured."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path

from flp.experiment.forecast import Forecast
from flp.experiment.keys import Keys
from flp.params.loading import Params
from flp.supervision.foresight import memory, train_needs
from flp.supervision.speeds import Book
from flp.system import layout
from flp.system.errors import FLPError

WORTH = 0.95  # what saves less than a twentieth is within the noise, and stays as it is


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
        book: what was measured.
        cores: CPU cores.
        gpu: bytes of the GPU's memory, where learning happens on one.
    """

    def __init__(self, params: Params, book: Book, cores: int, gpu: float | None = None) -> None:
        self.params, self.book, self.cores, self.gpu = params, book, cores, gpu
        offline = params.offline
        self.now = Choice(offline.precision, offline.compile, offline.seeds_per_job)
        self._known: dict[Choice, Forecast] = {}

    def forecast(self, choice: Choice) -> Forecast:
        """What is to be expected of it."""
        if choice not in self._known:
            keys = Keys(self._with(choice))
            self._known[choice] = Forecast(keys, self.book, self.cores, gpu=self.gpu is not None)
        return self._known[choice]

    @cached_property
    def best(self) -> Choice:
        """The shortest; of those that are no more than a twentieth longer, the one that changes least."""
        settings = self.book.settings()
        precisions = dict.fromkeys([self.now.precision, *(name.split()[0] for name in settings)])
        # What was not measured is not judged.
        compiled = (False, True) if any("compiled" in name for name in settings) else (self.now.compile,)
        choices = [replace(self.now, precision=p, compile=c) for p in precisions for c in compiled]
        fast = self._least(choices)
        return self._least([replace(fast, seeds_per_job=count) for count in self._counts()] + choices)

    def gain(self, **change: object) -> float:
        """By which factor this alone shortens the experiment as it is."""
        return self.forecast(self.now).total / self.forecast(replace(self.now, **change)).total  # type: ignore[arg-type]

    def _least(self, choices: list[Choice]) -> Choice:
        shortest = min(self.forecast(choice).total for choice in choices)
        near = [choice for choice in choices if self.forecast(choice).total * WORTH <= shortest]
        return min(near, key=lambda choice: (self._changes(choice), self.forecast(choice).total))

    def _changes(self, choice: Choice) -> int:
        return sum(a != b for a, b in zip(astuple(choice), astuple(self.now), strict=True))

    def _counts(self) -> list[int]:
        """Numbers of seeds that may train together: folders can be named for them, and they fit into memory."""
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
        return all(self._fits_in_memory(keys, *job) for job in keys.jobs())

    def _fits_in_memory(self, keys: Keys, dataset: str, agent: str, seeds: list[int]) -> bool:
        params = keys.agent_params(dataset, agent)
        try:
            spec = params.spec(dataset)
        except FLPError:  # a user's task whose data are not there yet
            return True
        runs = keys.runs(dataset, agent, seeds)
        shards = [runs] if self.gpu else [runs[i :: self.cores] for i in range(min(self.cores, len(runs)))]
        data, capacity = Path(layout.DATA.format(dataset=dataset) + ".npz"), params.online.steps
        sizes = spec.observation_dim, spec.action_dim
        needs = train_needs(params, agent, data, *sizes, shards, capacity, cuda=self.gpu is not None)
        return needs.memory <= memory()[1] and (self.gpu is None or needs.device <= self.gpu)

    def _with(self, choice: Choice) -> Params:
        values = {"precision": choice.precision, "compile": choice.compile, "seeds_per_job": choice.seeds_per_job}
        return self.params.model_copy(update={"offline": self.params.offline.model_copy(update=values)})

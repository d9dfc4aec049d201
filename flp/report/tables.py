"""Tables: the results of runs, summary.csv and its companions, the success table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from flp.report import statistics
from flp.report.collect import IDENTITY, Results
from flp.report.measures import SUCCESS, Measure, trained

SUMMARY = ["dataset", "agent", "task", "seed", "phase", "step", "success", "episodes"]
SCORED = ["measure", "score", "standard_error"]
SWEEP = [*SUMMARY, "variant", "alpha", "candidates"]
CURVES = ["dataset", "agent", "phase", "step", "success"]
NAMES = {
    "flp": "FLP",
    "bc": "BC",
    "fbc": "flow BC",
    "iql": "IQL",
    "rebrac": "ReBRAC",
    "idql": "IDQL",
    "srpo": "SRPO",
    "cac": "CAC",
    "fawac": "FAWAC",
    "fbrac": "FBRAC",
    "calql": "Cal-QL",
    "rlpd": "RLPD",
    "ifql": "IFQL",
    "fql": "FQL",
}


def name_of(agent: str) -> str:
    """An algorithm's name as papers write it: `fql` → `FQL`."""
    return NAMES.get(agent, agent)


class Method(NamedTuple):
    """What a result is of: an algorithm after offline training or fine-tuning, or the frozen flow."""

    agent: str
    phase: str = "offline"
    """One of `PHASES`."""

    def __str__(self) -> str:
        """Its name in files: `flow`, `flp`, `flp online`."""
        return "flow" if self == FLOW else f"{self.agent} online" if self.online else self.agent

    @property
    def online(self) -> bool:
        """Whether it is fine-tuned."""
        return self.phase == "online"

    @property
    def title(self) -> str:
        """Its name for readers: `frozen flow`, `FLP`, `FLP online`."""
        return "frozen flow" if self == FLOW else f"{name_of(self.agent)}{' online' if self.online else ''}"


FLOW = Method("flp", "behavior")  # evaluated next to FLP's policies, which act through it


@dataclass(frozen=True)
class Cell:
    """A mean over seeds (and tasks) with its uncertainty.

    Attributes:
        mean: in [0, 1] for a success rate.
        std: standard deviation over seeds; None for a single seed.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        seeds: number of seeds.
        tasks: number of tasks.
        episodes: number of episodes.
        measure: the measure of the mean.
    """

    mean: float
    std: float | None
    low: float
    high: float
    seeds: int
    tasks: int
    episodes: int
    measure: Measure = SUCCESS

    @property
    def text(self) -> str:
        """`75` or `75±2`, a rate in percent, as the paper writes it."""
        return self.measure.text(self.mean, self.std)

    @property
    def interval(self) -> str:
        """`70, 81`."""
        return f"{self.measure.number(self.low)}, {self.measure.number(self.high)}"


def base(evaluations: pd.DataFrame) -> pd.DataFrame:
    """The rows of summary.csv: no sweeps, and the frozen flow once, as evaluated with FLP."""
    rows = evaluations.loc[evaluations["variant"] == ""]
    return _in_order(rows.loc[(rows["phase"] != FLOW.phase) | (rows["agent"] == FLOW.agent)])


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    columns = ["dataset", "agent", "task", "seed", "variant", "phase", "step"]  # phases follow the alphabet
    return rows.sort_values(columns, kind="stable", ignore_index=True)


def summary(results: Results) -> pd.DataFrame:
    """Every evaluation of every run outside the sweeps; where a dataset is not judged by success, with what it is.

    `score` and `standard_error` are those of `measures.scored`, empty in rows that tables do not count.
    """
    if all(measure is SUCCESS for measure in results.measures.values()):
        return base(results.evaluations)[SUMMARY]
    counted = results.scores.loc[results.scores["counted"], ["score", "standard_error"]]
    titles = {dataset: measure.title for dataset, measure in results.measures.items()}
    rows = results.evaluations.join(counted)
    return base(rows.assign(measure=rows["dataset"].map(titles)))[[*SUMMARY, *SCORED]]


def sweep(results: Results) -> pd.DataFrame:
    """The sweeps' offline evaluations and those of the runs they vary; empty without a sweep."""
    rows = results.evaluations
    swept = rows.loc[rows["variant"] != "", ["dataset", "agent"]].drop_duplicates()
    rows = rows[rows["phase"] == "offline"].merge(swept, on=["dataset", "agent"])
    return _in_order(rows)[SWEEP] if len(rows) else pd.DataFrame(columns=SWEEP)


def curves(results: Results) -> pd.DataFrame:
    """The mean over tasks and seeds at each step; `success` is the score of datasets without a success rate."""
    rows = base(results.scores).assign(success=lambda rows: rows["score"])
    return rows.groupby(CURVES[:-1], as_index=False)[["success"]].mean()


def training(results: Results) -> pd.DataFrame:
    """The training logs of every run outside the sweeps."""
    logs = results.logs.loc[results.logs["variant"] == ""].drop(columns=["variant", "alpha", "candidates"])
    first = ["dataset", "agent", "task", "seed", "stage", "step"]
    return logs[[*first, *(name for name in logs if name not in first)]]


def finals(scores: pd.DataFrame, last: int) -> pd.DataFrame:
    """One row per run and phase: the mean of its last `last` evaluations.

    The start of fine-tuning (online, step 0) is the offline policy and does not count as online.

    Args:
        scores: evaluations, scored as by `measures.scored`.
        last: how many evaluations to average.

    Returns:
        The identity of the run, `phase`, `score`, `episodes` (of all evaluations averaged), `trials` (of a single
        one, since every evaluation plays the same episodes), `evaluations` (how many), `step` (of the last),
        `last` (the score of the last alone), `standard_error`.
    """
    rows = scores[scores["counted"] & ((scores["phase"] != "online") | (scores["step"] > 0))]
    rows = rows.sort_values([*IDENTITY, "phase", "step"], kind="stable")
    averaged = rows.groupby([*IDENTITY, "phase"], sort=False).tail(last)
    return averaged.groupby([*IDENTITY, "phase"], as_index=False).agg(
        score=("score", "mean"),
        episodes=("episodes", "sum"),
        trials=("episodes", "mean"),
        evaluations=("step", "size"),
        step=("step", "last"),
        last=("score", "last"),
        standard_error=("standard_error", "mean"),
    )


def of_method(rows: pd.DataFrame, method: Method) -> pd.DataFrame:
    """The rows of one method."""
    return rows[(rows["agent"] == method.agent) & (rows["phase"] == method.phase)]


def methods(final: pd.DataFrame, agents: Sequence[str]) -> list[Method]:
    """The methods that have a result, in order."""
    rows = trained(final)
    present = {Method(*pair) for pair in zip(rows["agent"], rows["phase"], strict=True)}
    return [method for method in ordered(agents) if method in present]


def ordered(agents: Iterable[str]) -> list[Method]:
    """All methods of these agents, the frozen flow first."""
    return [FLOW, *(Method(agent, phase) for agent in agents for phase in ("offline", "online"))]


def matrix(final: pd.DataFrame, column: str = "score") -> tuple[statistics.Array, statistics.Array]:
    """Scores and trials of one method's runs, `[seeds, strata]` each, a stratum being one task of one dataset."""
    table = final.pivot_table(index="seed", columns=["dataset", "task"], values=[column, "trials"]).dropna()
    return table[column].to_numpy(np.float64), table["trials"].to_numpy(np.float64)


def cell(final: pd.DataFrame, resamples: int, measure: Measure = SUCCESS) -> Cell | None:
    """Summarise one method's runs on one or more tasks; None without runs."""
    if final.empty:
        return None
    scores, trials = matrix(final)
    if len(scores) > 1:
        value, low, high = statistics.of_seeds(scores.mean(1))
        low, high = (max(0.0, low), min(1.0, high)) if measure.rate else (low, high)
    elif measure.rate:
        value, low, high = statistics.bootstrap(statistics.mean, (scores, trials), resamples=resamples)
    else:  # a single seed: the error of its mean over episodes (or bootstrap samples)
        value, error = scores.mean(), 1.96 * float(np.sqrt(final["standard_error"].pow(2).sum())) / len(final)
        low, high = value - error, value + error
    std = float(scores.mean(1).std(ddof=1)) if len(scores) > 1 else None
    seeds, tasks = scores.shape
    episodes = int(matrix(final, "episodes")[0].sum())
    return Cell(float(value), std, float(low), float(high), seeds, tasks, episodes, measure)


@dataclass(frozen=True)
class SuccessTable:
    """Tasks × methods of one dataset.

    Attributes:
        dataset: its name.
        methods: the columns.
        rows: `(task or "all", cells)`; a cell is None where nothing was run.
        averaged: how many evaluations a cell averages, per method.
        measure: the measure of the cells.
    """

    dataset: str
    methods: list[Method]
    rows: list[tuple[str, list[Cell | None]]]
    averaged: dict[Method, int]
    measure: Measure = SUCCESS

    @property
    def lead(self) -> str:
        """The agent of the headline: FLP where it ran, else the first."""
        agents = [method.agent for method in self.methods if method != FLOW]
        return "flp" if "flp" in agents else agents[0]

    def overall(self, method: Method) -> Cell | None:
        """The mean over tasks."""
        return self.rows[-1][1][self.methods.index(method)] if method in self.methods else None

    def tasks(self, method: Method) -> list[str]:
        """The tasks that a method was run on."""
        column = self.methods.index(method)
        return [task for task, cells in self.rows[:-1] if cells[column]]

    def part(self, method: Method) -> str:
        """`task 1` or `tasks 1, 3` where a method was run on these alone, which its mean is then over; else empty."""
        tasks = self.tasks(method) if method in self.methods else []
        whole = len(tasks) in (0, len(self.rows) - 1)
        return "" if whole else f"{'task' if len(tasks) == 1 else 'tasks'} {', '.join(tasks)}"

    def mean_where(self, method: Method, other: Method) -> float:
        """The mean of a method over the tasks that another was run on."""
        column, tasks = self.methods.index(method), self.tasks(other)
        return float(np.mean([c.mean for task, cells in self.rows if task in tasks and (c := cells[column])]))

    @property
    def partial(self) -> list[str]:
        """`FLP online: task 1` for each method that was not run on all tasks."""
        return [f"{method.title}: {part}" for method in self.methods if (part := self.part(method))]

    def short_of(self, evaluations: int) -> list[tuple[int, list[Method]]]:
        """Counts of evaluations below the requested one with the methods that have only so many, without the flow."""
        few = {method: n for method, n in self.averaged.items() if n < evaluations and method != FLOW}
        return [(n, [method for method in few if few[method] == n]) for n in sorted(set(few.values()))]


def success_table(
    final: pd.DataFrame, dataset: str, agents: Sequence[str], resamples: int, measure: Measure = SUCCESS
) -> SuccessTable:
    """The success (or other score) of one dataset's policies by task; the last row is the mean over tasks."""
    here = final[(final["dataset"] == dataset) & (final["variant"] == "")]
    by_method = {method: of_method(here, method) for method in methods(here, agents)}
    rows: list[tuple[str, list[Cell | None]]] = []
    for task in sorted(here["task"].unique()):
        parts = [part[part["task"] == task] for part in by_method.values()]
        rows.append((str(task), [cell(part, resamples, measure) for part in parts]))
    rows.append(("all", [cell(part, resamples, measure) for part in by_method.values()]))
    averaged = {method: int(part["evaluations"].min()) for method, part in by_method.items()}
    return SuccessTable(dataset, [*by_method], rows, averaged, measure)


def metrics(success: list[SuccessTable]) -> dict[str, Any]:
    """`{dataset: {agent: {phase: mean success}}}`, None if not finite, for `dvc metrics`; `behavior` is the flow."""
    means: dict[str, Any] = {}
    for table in success:
        by_agent = means.setdefault(table.dataset, {})
        for method, overall in zip(table.methods, table.rows[-1][1], strict=True):
            if overall:
                mean = round(overall.mean, 6) if np.isfinite(overall.mean) else None
                by_agent.setdefault(method.agent, {})[method.phase] = mean
    return means

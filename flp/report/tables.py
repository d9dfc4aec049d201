"""Tables: results of runs, summary.csv and its like, the success table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flp.params.sections import ONLINE_ONLY
from flp.report import statistics
from flp.report.collect import IDENTITY, PHASES, Results
from flp.report.measures import SUCCESS, Measure

SUMMARY = ["dataset", "agent", "task", "seed", "phase", "step", "success", "episodes"]
SWEEP = [*SUMMARY, "variant", "alpha", "candidates"]
CURVES = ["dataset", "agent", "phase", "step", "success"]
FLOW_METHOD = "flow"
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


@dataclass(frozen=True)
class Cell:
    """What was measured: mean over seeds (and tasks), and how sure it is.

    Attributes:
        mean: in [0, 1] for a success rate.
        std: standard deviation over seeds; None with one seed.
        low: lower end of the 95 % interval.
        high: upper end.
        seeds: seeds behind it.
        tasks: tasks behind it.
        episodes: episodes behind it.
        measure: what it is.
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
        """`75` or `75±2`, in percent, as the paper writes it."""
        return self.measure.text(self.mean, self.std)

    @property
    def interval(self) -> str:
        """`70, 81`."""
        return f"{self.measure.shown(self.low)}, {self.measure.shown(self.high)}"


def name_of(method: str) -> str:
    """`fql` → `FQL`, `flp online` → `FLP online`; the frozen flow keeps its name."""
    agent, _, phase = method.partition(" ")
    return f"{NAMES.get(agent, agent)} {phase}".strip()


def base(evaluations: pd.DataFrame) -> pd.DataFrame:
    """The rows of summary.csv: no sweeps, and the frozen flow once, under FLP."""
    rows = evaluations.loc[evaluations["variant"] == ""]
    return _in_order(rows.loc[(rows["phase"] != "behavior") | (rows["agent"] == "flp")])


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    ordered = rows.assign(_phase=[PHASES.index(phase) for phase in rows["phase"]])
    ordered = ordered.sort_values(["dataset", "agent", "task", "seed", "variant", "_phase", "step"], kind="stable")
    return ordered.drop(columns="_phase").reset_index(drop=True)


def summary(results: Results) -> pd.DataFrame:
    """Every evaluation of every run but the sweeps'."""
    return base(results.evaluations)[SUMMARY]


def sweep(results: Results) -> pd.DataFrame:
    """The sweeps' offline evaluations beside those of the runs they vary; empty without a sweep."""
    rows = results.evaluations
    swept = rows.loc[rows["variant"] != "", ["dataset", "agent"]].drop_duplicates()
    rows = rows[rows["phase"] == "offline"].merge(swept, on=["dataset", "agent"])
    return _in_order(rows)[SWEEP] if len(rows) else pd.DataFrame(columns=SWEEP)


def curves(results: Results) -> pd.DataFrame:
    """Mean success over tasks and seeds at each step."""
    rows = base(results.scores)
    grouped = rows.groupby(["dataset", "agent", "phase", "step"], as_index=False)[["success"]].mean()
    return grouped.sort_values(["dataset", "agent", "phase", "step"], ignore_index=True)[CURVES]


def training(results: Results) -> pd.DataFrame:
    """The training logs of every run but the sweeps'."""
    logs = results.logs.loc[results.logs["variant"] == ""].drop(columns=["variant", "alpha", "candidates"])
    first = ["dataset", "agent", "task", "seed", "stage", "step"]
    return logs[[*first, *(name for name in logs if name not in first)]]


def finals(evaluations: pd.DataFrame, last: int) -> pd.DataFrame:
    """One row per run and phase: the mean of its last `last` evaluations.

    The start of fine-tuning (online, step 0) is the offline policy and does not count as online.

    Returns:
        The identity of the run, `phase`, `method`, `success`, `episodes` (of all evaluations averaged),
        `trials` (those of one, for every evaluation plays the same), `evaluations` (how many), `step` (the last),
        `last` (success of the last alone).
    """
    if "counted" not in evaluations:  # as they were written, not scored
        evaluations = evaluations.assign(counted=True, spread=0.0)
    rows = evaluations[evaluations["counted"] & ((evaluations["phase"] != "online") | (evaluations["step"] > 0))]
    rows = rows.sort_values([*IDENTITY, "phase", "step"], kind="stable")
    kept = rows.groupby([*IDENTITY, "phase"], sort=False).tail(last)
    table = kept.groupby([*IDENTITY, "phase"], as_index=False).agg(
        success=("success", "mean"),
        episodes=("episodes", "sum"),
        trials=("episodes", "mean"),
        evaluations=("step", "size"),
        step=("step", "last"),
        last=("success", "last"),
        spread=("spread", "mean"),
    )
    return table.assign(method=[_method(a, p) for a, p in zip(table["agent"], table["phase"], strict=True)])


def _method(agent: str, phase: str) -> str:
    return {"behavior": FLOW_METHOD, "offline": agent, "online": f"{agent} online"}[phase]


def methods(final: pd.DataFrame, agents: Sequence[str]) -> list[str]:
    """The columns of the success table that have a result, in order; untrained policies have none."""
    ordered = [FLOW_METHOD, *(m for agent in agents for m in (agent, f"{agent} online") if m not in ONLINE_ONLY)]
    present = set(final["method"])
    return [method for method in ordered if method in present]


def matrix(final: pd.DataFrame, column: str = "success") -> tuple[statistics.Array, statistics.Array]:
    """Scores and trials of one method's runs: `[seeds, strata]` each, a stratum being a dataset's task."""
    pivots = [
        final.pivot_table(index="seed", columns=["dataset", "task"], values=values).sort_index(axis=1)
        for values in (column, "trials")
    ]
    scores, trials = (pivot.dropna().to_numpy(np.float64) for pivot in pivots)
    return scores, trials


def cell(final: pd.DataFrame, resamples: int, measure: Measure = SUCCESS) -> Cell | None:
    """Summarise one method's runs of one task, or of several; None without any."""
    if final.empty:
        return None
    scores, trials = matrix(final)
    if len(scores) > 1:
        value, low, high = statistics.of_seeds(scores.mean(1))
        low, high = (max(0.0, low), min(1.0, high)) if measure.rate else (low, high)
    elif measure.rate:
        value, low, high = statistics.bootstrap(statistics.mean, (scores, trials), resamples=resamples)
    else:  # a single seed, whose episodes (or bootstrap samples) tell the error of its mean
        value, error = scores.mean(), 1.96 * float(np.sqrt(final["spread"].pow(2).sum())) / len(final)
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
        rows: `(task or "all", cells)`, a cell None where nothing was run.
        averaged: evaluations behind a cell, per method.
        measure: what the cells show.
    """

    dataset: str
    methods: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    averaged: dict[str, int]
    measure: Measure = SUCCESS

    def overall(self, method: str) -> Cell | None:
        """The mean over tasks."""
        return self.rows[-1][1][self.methods.index(method)] if method in self.methods else None

    def short_of(self, evaluations: int) -> list[tuple[int, list[str]]]:
        """Numbers of evaluations below the one wished for, and the methods that have no more; not the flow."""
        few = {method: n for method, n in self.averaged.items() if n < evaluations and method != FLOW_METHOD}
        return [(n, [method for method in few if few[method] == n]) for n in sorted(set(few.values()))]


def success_table(
    final: pd.DataFrame, dataset: str, agents: Sequence[str], resamples: int, measure: Measure = SUCCESS
) -> SuccessTable:
    """The table of one dataset's success, or of what counts there; its last row the mean over tasks."""
    here = final[(final["dataset"] == dataset) & (final["variant"] == "")]
    here = here[(here["phase"] != "behavior") | (here["agent"] == "flp")]
    columns = methods(here, agents)
    by_method = {method: here[here["method"] == method] for method in columns}
    rows: list[tuple[str, list[Cell | None]]] = []
    for task in sorted(here["task"].unique()):
        parts = [part[part["task"] == task] for part in by_method.values()]
        rows.append((str(task), [cell(part, resamples, measure) for part in parts]))
    rows.append(("all", [cell(part, resamples, measure) for part in by_method.values()]))
    averaged = {method: int(part["evaluations"].min()) for method, part in by_method.items()}
    return SuccessTable(dataset, columns, rows, averaged, measure)


def metrics(success: list[SuccessTable]) -> dict[str, Any]:
    """`{dataset: {agent: {phase: mean success}}}`, for `dvc metrics`; the frozen flow is FLP's `behavior`."""
    found: dict[str, Any] = {}
    for table in success:
        per_agent: dict[str, dict[str, float]] = found.setdefault(table.dataset, {})
        for method in table.methods:
            agent, _, phase = method.partition(" ")
            agent, phase = ("flp", "behavior") if method == FLOW_METHOD else (agent, phase or "offline")
            overall = table.overall(method)
            assert overall is not None
            per_agent.setdefault(agent, {})[phase] = round(overall.mean, 6)
    return found


def plain(success: list[SuccessTable]) -> str:
    """The success tables as text, for the end of the pipeline's output."""
    names = {m: name_of(m if m == FLOW_METHOD or " " in m else f"{m} offline") for m in _all_methods(success)}
    percent = " %" if all(table.measure.rate for table in success) else ""
    rows = [["dataset", "task", *(f"{name}{percent}" for name in names.values())]]
    for table in success:
        for label, cells in table.rows:
            by_method = dict(zip(table.methods, cells, strict=True))
            values = [by_method.get(m) for m in names]
            unit = "" if percent else table.measure.unit
            texts = [c.text + unit if c else "" for c in values]
            rows.append([table.dataset, "mean" if label == "all" else label, *texts])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "-" * len(lines[0])
    body = "\n".join(f"{rule}\n{line}" if rows[i][1] in {"task", "1"} and i else line for i, line in enumerate(lines))
    return body + "\n"


def _all_methods(success: list[SuccessTable]) -> list[str]:
    ordered: list[str] = []
    for table in success:
        ordered += [method for method in table.methods if method not in ordered]
    agents = list(dict.fromkeys(m.partition(" ")[0] for m in ordered if m != FLOW_METHOD))
    return [m for a in (FLOW_METHOD, *agents) for m in (a, f"{a} online") if m in ordered]


def compute(results: Results) -> pd.DataFrame:
    """What the numbers cost: the flows', and each run's share of its job's time, by dataset, agent and stage."""
    flows = [
        {"dataset": flow.dataset, "agent": FLOW_METHOD, "stage": "pretraining", "task": "all"}
        | {name: flow.manifest.get(name) for name in ("seconds", "device")}
        for flow in results.flows
    ]
    runs = pd.concat([pd.DataFrame(flows), results.runs], ignore_index=True)
    runs = runs.assign(device=runs["device"].fillna("unknown"), seconds=runs["seconds"].astype(float))
    grouped = runs.groupby(["dataset", "agent", "stage", "device"], as_index=False, sort=False)
    return grouped.agg(
        runs=("task", "size"), seconds_per_run=("seconds", "mean"), seconds=("seconds", lambda s: s.sum(min_count=1))
    ).round(1)

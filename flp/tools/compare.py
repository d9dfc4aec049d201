"""Compare two experiments: scores, paired differences with their intervals, and differences in parameters.

A and B are checkouts, or folders such as results/report. The score is a dataset's in the report: success, or what a
task without a rule of success is judged by. A pair is a dataset, task and seed that both have, of the same
method. The interval (95 %) is Student's over the seeds' differences or, with a single seed, that of the episodes'
randomness. Parameters are those that the reports were made with.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flp.experiment.program import program
from flp.params.yamlfile import flat, read_yaml
from flp.report import statistics, tables
from flp.report.collect import PHASES, read_table
from flp.report.measures import SUCCESS, trained
from flp.report.statistics import Pair
from flp.system import layout
from flp.system.artifacts import read_json
from flp.system.errors import FLPError
from flp.tools.columns import aligned

CHOICE: dict[str, dict[str, Any]] = {
    "A": {"help": "a checkout or its results/report"},
    "B": {"help": "another one"},
}
PAIR = ["dataset", "measure", "task", "seed", "agent", "phase"]
RESAMPLES, AVERAGED = 10_000, 3


@dataclass(frozen=True)
class Experiment:
    """One side of the comparison.

    Attributes:
        final: one row per run and method, as `tables.finals`, with the title of its measure.
        params: the parameters of its report; None where they are not recorded.
        versions: the versions of the packages that made the report, likewise.
    """

    final: pd.DataFrame
    params: dict[str, Any] | None
    versions: dict[str, Any] | None


def command(args: argparse.Namespace) -> int:
    """Print the comparison; return the exit status."""
    a, b = read_experiment(Path(args.a)), read_experiment(Path(args.b))
    print(f"A  {args.a}\nB  {args.b}\n")
    print(aligned(list(scores(a.final, b.final))))
    for side, mine, other in (("A", a, b), ("B", b, a)):
        if alone := unpaired(mine.final, other.final):
            print(f"only in {side}: {alone}")
    print()
    print("\n".join(differences(a, b)))
    return 0


def read_experiment(place: Path) -> Experiment:
    """Read a report's tables and parameters from its folder, or from its checkout.

    Raises:
        FLPError: there is no report, or one that cannot be read.
    """
    folder = next((f for f in (place, place / layout.REPORT) if (f / "summary.csv").exists()), None)
    if folder is None:
        raise FLPError(f"{place} is no experiment: neither it nor its {layout.REPORT} has a summary.csv; run snakemake")
    rows = read_table(folder / "summary.csv", tables.SUMMARY)
    if not set(tables.SCORED) <= {*rows}:
        rows = rows.assign(measure=SUCCESS.title, score=rows["success"], standard_error=0.0)
    rates = rows["measure"] == SUCCESS.title
    numbers = [rows[name] for name in ("task", "seed", "step", "success", "episodes", "score", "standard_error")]
    if not all(map(pd.api.types.is_numeric_dtype, numbers)) or not rows["phase"].isin(PHASES).all():
        raise FLPError(f"{folder}/summary.csv is not what a report writes; make the report again")
    known = rows["score"].notna()
    if missing := sorted(set(rows["dataset"]) - set(rows.loc[known, "dataset"])):
        names = ", ".join(missing)
        print(f"{folder}: without a score, and not compared; make the report again: {names}", file=sys.stderr)
    rows, rates = rows[known], rates[known]
    if rows.empty:
        raise FLPError(f"{folder}/summary.csv has no score to compare; make the report again")
    if not (rows.loc[rates, "score"].between(0, 1).all() and (rows.loc[rates, "episodes"] > 0).all()):
        raise FLPError(f"{folder}/summary.csv has a success outside [0, 1] or no episodes; make the report again")
    manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").exists() else {}
    params, versions = (_section(manifest, name) for name in ("params", "versions"))
    if params is None:  # an older flp did not record them
        params = read_yaml(place / "params.yaml") if (place / "params.yaml").exists() else None
    averaged = flat(params or {}).get("report.average_last", AVERAGED)
    last = averaged if isinstance(averaged, int) and averaged > 0 else AVERAGED
    whole = rows.assign(variant="", alpha=0.0, candidates=0, counted=True)
    titles = rows.drop_duplicates("dataset").set_index("dataset")["measure"]
    final = tables.finals(trained(whole), last)
    return Experiment(final.assign(measure=final["dataset"].map(titles)), params, versions)


def _section(manifest: Any, name: str) -> dict[str, Any] | None:
    section = manifest.get(name) if isinstance(manifest, dict) else None
    return section if isinstance(section, dict) else None


def scores(a: pd.DataFrame, b: pd.DataFrame) -> Iterator[list[str]]:
    """The rows of the table, its header first: every task of every method that both have, and the means.

    Raises:
        FLPError: the two have nothing in common.
    """
    pairs = a.merge(b, on=PAIR, suffixes=("_a", "_b"))
    if pairs.empty:
        raise FLPError("A and B have no dataset, task, seed and method in common: there is nothing to compare")
    rates = pairs["measure"] == SUCCESS.title
    unit = " %" if rates.all() else ""
    yield [
        "dataset",
        "task",
        "method",
        f"A{unit}",
        f"B{unit}",
        "B − A",
        "95 %",
        "pairs",
        *([] if unit else ["measure"]),
    ]
    for (dataset, measure), of_dataset in pairs.groupby(["dataset", "measure"], sort=False):
        about = [] if unit else [str(measure) + (", %" if measure == SUCCESS.title else "")]
        for (agent, phase), rows in of_dataset.groupby(["agent", "phase"], sort=False):
            title = tables.Method(str(agent), str(phase)).title
            for task, part in rows.groupby("task"):
                yield [str(dataset), str(task), title, *_compared(part), *about]
            yield [str(dataset), "mean", title, *_compared(rows), *about]
    pairs = pairs[rates]  # a mean over datasets needs one measure
    if pairs["dataset"].nunique() > 1:
        for (agent, phase), rows in pairs.groupby(["agent", "phase"], sort=False):
            title = tables.Method(str(agent), str(phase)).title
            yield ["all", "mean", title, *_compared(rows), *([] if unit else [f"{SUCCESS.title}, %"])]


def _compared(pairs: pd.DataFrame) -> list[str]:
    is_rate = (pairs["measure"] == SUCCESS.title).all()
    columns = ["score_a", "score_b", "trials_a", "trials_b"]
    columns += [] if is_rate else ["standard_error_a", "standard_error_b"]
    factor = 100 if is_rate else 1
    strata = [
        Pair(part["seed"].to_numpy(), *(part[name].to_numpy(np.float64) for name in columns))
        for _, part in pairs.groupby(["dataset", "task"])
    ]
    value, low, high = statistics.paired_difference(strata, resamples=RESAMPLES)
    sides = [pair.a for pair in strata], [pair.b for pair in strata]
    means = [factor * float(np.mean([scores.mean() for scores in side])) for side in sides]
    interval = f"[{factor * low:+.1f}, {factor * high:+.1f}]"
    return [f"{means[0]:.1f}", f"{means[1]:.1f}", f"{factor * value:+.1f}", interval, str(len(pairs))]


def unpaired(mine: pd.DataFrame, other: pd.DataFrame) -> str:
    """The runs that only one side has, such as `12 of FQL on cube-single-play`."""
    alone = mine.merge(other[PAIR], on=PAIR, how="left", indicator=True)
    alone = alone[alone["_merge"] == "left_only"]
    counts = Counter(zip(alone["dataset"], alone["agent"], alone["phase"], strict=True))
    return ", ".join(f"{n} of {tables.Method(*m).title} on {dataset}" for (dataset, *m), n in counts.items())


def differences(a: Experiment, b: Experiment) -> Iterator[str]:
    """Lines about parameters and versions that differ."""
    for what, first, second in (("parameters", a.params, b.params), ("versions", a.versions, b.versions)):
        missing = [side for side, values in (("A", first), ("B", second)) if values is None]
        if missing:
            yield f"{what}: not known of {' and '.join(missing)}; make the report again"
            continue
        left, right = flat(first or {}), flat(second or {})
        names = [name for name in dict.fromkeys([*left, *right]) if left.get(name, ...) != right.get(name, ...)]
        rows = [[name, *(str(side.get(name, "-")) for side in (left, right))] for name in names]
        yield aligned([[what, "A", "B"], *rows]) if rows else f"{what}: the same"


main = program("compare", CHOICE, command, __doc__)

"""How a dataset's policies are judged: by success rate, else by normalised score, return, or an estimate of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from flp.params.loading import Params
from flp.params.sections import ONLINE_ONLY


@dataclass(frozen=True)
class Measure:
    """What a dataset's tables and figures show.

    Attributes:
        title: heading of its table.
        verb: what a policy does, in a sentence before the number.
        unit: follows the number.
        rate: whether it is a share of episodes, in [0, 1].
        estimated: whether it is estimated from the data, without playing episodes.
        zero: the return that a normalised score maps to 0.
        hundred: the return that it maps to 100.
    """

    title: str = "Success"
    verb: str = "succeeds in"
    unit: str = " %"
    rate: bool = True
    estimated: bool = False
    zero: float = 0.0
    hundred: float = 100.0

    def number(self, value: float) -> str:
        """A value as tables print it, a rate in percent."""
        return f"{100 * value:.0f}" if self.rate else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"

    def normalised(self, returns: pd.Series) -> pd.Series:
        """Returns as normalised scores: 0 at `zero`, 100 at `hundred`."""
        return (returns - self.zero) * (100 / (self.hundred - self.zero))

    def text(self, mean: float, std: float | None) -> str:
        """`75` or `75±2`."""
        return self.number(mean) + ("" if std is None else f"±{self.number(std)}")


SUCCESS = Measure()


def measure_of(params: Params, dataset: str, reference: tuple[float, float] | None) -> Measure:
    """The measure of a dataset; `reference` holds the returns of a random policy and of an expert, where known."""
    if dataset not in params.tasks:
        return SUCCESS
    task = params.tasks[dataset]
    if task.environment is None:
        title = "Value, estimated (no episode was played)"
        return Measure(title, "is estimated to earn a discounted return of", "", rate=False, estimated=True)
    if task.success != "none":
        return SUCCESS
    if reference is None:
        return Measure("Return", "earns a return of", "", rate=False)
    return Measure("Normalised score", "scores", "", rate=False, zero=reference[0], hundred=reference[1])


def scored(evaluations: pd.DataFrame, measures: dict[str, Measure]) -> pd.DataFrame:
    """The evaluations with the columns `score`, `standard_error` and `counted` by each dataset's measure.

    `score` is what the dataset is judged by, and `standard_error` that of a score over episodes (0 for success rates,
    whose intervals follow from the numbers of episodes). Tables use the `counted` rows: all, but of estimates only the
    last, by fitted-Q evaluation; the earlier ones are the critic's own.
    """
    by_dataset = evaluations.groupby("dataset", sort=False)
    return pd.concat([_scored(rows, measures[str(dataset)]) for dataset, rows in by_dataset]).sort_index()


def scored_by_success(evaluations: pd.DataFrame) -> pd.DataFrame:
    """The evaluations with their success rates as `score`; see `scored`."""
    return evaluations.assign(score=evaluations["success"], standard_error=0.0, counted=True)


def _scored(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    if measure.rate:
        return scored_by_success(rows)
    if measure.estimated:
        fitted = rows["fqe"] if "fqe" in rows else pd.Series(np.nan, rows.index)
        error = (rows["fqe_high"] - fitted) / 1.96 if "fqe" in rows else fitted
        score = fitted.where(fitted.notna(), rows["value"]).astype(float)
        rows = rows.assign(score=score, standard_error=error.fillna(0.0), counted=fitted.notna())
        return rows[rows["score"].notna()]
    error = rows["return_std"] * abs(100 / (measure.hundred - measure.zero)) / np.sqrt(rows["episodes"])
    return rows.assign(score=measure.normalised(rows["return"]), standard_error=error, counted=True)


def trained(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without those of untrained policies, which only start fine-tuning and are no method."""
    return rows[~(rows["agent"].isin(ONLINE_ONLY) & (rows["phase"] == "offline"))]

"""By what a dataset's policies are judged: success where there is such, else a score, the return, or an estimate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from flp.params.loading import Params


@dataclass(frozen=True)
class Measure:
    """What a dataset's tables and figures show.

    Attributes:
        title: at the head of its table.
        verb: what a policy does in a sentence, before the number.
        unit: after the number.
        rate: whether it is a share of episodes, in [0, 1].
        estimated: whether models say it, without any episode played.
        zero: the return that counts 0, of a normalised score.
        hundred: the return that counts 100.
    """

    title: str = "Success"
    verb: str = "succeeds in"
    unit: str = " %"
    rate: bool = True
    estimated: bool = False
    zero: float = 0.0
    hundred: float = 100.0

    def shown(self, value: float) -> str:
        """A value as a table shows it."""
        return f"{100 * value:.0f}" if self.rate else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"

    def score(self, returns: pd.Series) -> pd.Series:
        """Returns as a score, from `zero` to `hundred`."""
        return (returns - self.zero) * (100 / (self.hundred - self.zero))

    def text(self, mean: float, std: float | None) -> str:
        """`75` or `75±2`."""
        return self.shown(mean) + ("" if std is None else f"±{self.shown(std)}")


SUCCESS = Measure()


def measure_of(params: Params, dataset: str, reference: tuple[float, float] | None) -> Measure:
    """What counts on a dataset; `reference` is the returns of a random policy and of an expert, if known."""
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
    """Evaluations with what counts on each dataset as `success`, and its standard error over episodes as `spread`.

    Of estimates only the last, by fitted-Q evaluation, is `counted`; those before it are the critic's own.
    """
    parts = []
    for dataset, rows in evaluations.groupby("dataset", sort=False):
        measure = measures[str(dataset)]
        if measure.rate:
            parts.append(rows.assign(spread=0.0, counted=True))
        elif measure.estimated:
            fitted = rows["fqe"] if "fqe" in rows else pd.Series(np.nan, rows.index)
            value = fitted.where(fitted.notna(), rows["value"])
            spread = (rows["fqe_high"] - fitted) / 1.96 if "fqe" in rows else fitted
            kept = rows.assign(success=value.astype(float), spread=spread.fillna(0.0), counted=fitted.notna())
            parts.append(kept[kept["success"].notna()])
        else:
            spread = rows["return_std"] * abs(100 / (measure.hundred - measure.zero))
            spread /= np.sqrt(rows["episodes"])
            parts.append(rows.assign(success=measure.score(rows["return"]), spread=spread, counted=True))
    return pd.concat(parts).sort_index()

"""Statistics over runs × tasks, after rliable (Agarwal et al. 2021).

Scores are arrays `[seeds, tasks]` in [0, 1]; functions of scores also take a leading batch of resamples,
`[resamples, seeds, tasks]`, and then return one value per resample.

A mean over several seeds has a Student t interval; other statistics have a bootstrap interval, which is too narrow
below about five seeds. `scipy.stats` is not used: its bootstrap refuses single seeds and takes twice the time, and its
import half a second. Neither is rliable 1.2, whose dependency arch fails with pandas 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]
LEVEL = 0.95


def mean(scores: Array) -> Array:
    """Mean over seeds and tasks."""
    return np.asarray(scores.mean((-2, -1)))


def interquartile_mean(scores: Array) -> Array:
    """Mean of the middle half of all runs: ⌊n/4⌋ runs are dropped at either end."""
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), -1)
    dropped = ordered.shape[-1] // 4
    return np.asarray(ordered[..., dropped : ordered.shape[-1] - dropped].mean(-1))


def probability_of_improvement(better: Array, other: Array) -> Array:
    """P(a run of `better` beats a run of `other` on the same task), ties counting half, mean over tasks."""
    first, second = better[..., :, None, :], other[..., None, :, :]
    wins = (first > second) + 0.5 * (first == second)
    return np.asarray(wins.mean((-3, -2)).mean(-1))


def performance_profile(scores: Array, thresholds: Array) -> Array:
    """Share of runs whose score is above each threshold: `[thresholds]`, or `[resamples, thresholds]`."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    return np.asarray(np.stack([(flat > threshold).mean(-1) for threshold in thresholds], axis=-1))


def resample(scores: Array, trials: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Resample the scores: `[resamples, seeds, tasks]`.

    Several seeds are drawn with replacement, each with all of its tasks, which share a flow. With a single seed, its
    success rates are drawn from their posteriors given `trials` episodes each, which covers the randomness of episodes
    but not of training. The prior is Jeffreys', its weight shared among the tasks, so that the half successes of fifty
    tasks do not raise a mean of zeros.

    Args:
        scores: `[seeds, tasks]`.
        trials: number of distinct episodes behind each score, `[seeds, tasks]`.
        resamples: number of resamples.
        generator: source of randomness.
    """
    seeds, tasks = scores.shape
    if seeds > 1:
        return np.asarray(scores[generator.integers(0, seeds, (resamples, seeds))])
    successes = scores * trials
    prior = 0.5 / tasks
    return generator.beta(successes + prior, trials - successes + prior, (resamples, 1, tasks))


def bootstrap(
    statistic: Callable[..., Array],
    *scores_and_trials: tuple[Array, Array],
    resamples: int,
) -> tuple[Any, Any, Any]:
    """A statistic of one or more methods' scores with its 95 % interval: `(value, low, high)`.

    The interval always contains the value: a posterior's percentiles may miss a rate of exactly 0 or 1.
    """
    generator = np.random.default_rng(0)
    value = statistic(*(scores for scores, _ in scores_and_trials))
    drawn = [resample(scores, trials, resamples, generator) for scores, trials in scores_and_trials]
    chunks = range(0, resamples, 1000)  # a statistic may need many times the memory of its scores
    values = np.concatenate([statistic(*(d[start : start + 1000] for d in drawn)) for start in chunks])
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return value, np.minimum(low, value), np.maximum(high, value)


def of_seeds(means: Array) -> tuple[float, float, float]:
    """The mean of several seeds' means `[seeds]` with its 95 % Student t interval: `(value, low, high)`.

    With two seeds a bootstrap interval would have half of its nominal coverage.
    """
    value, half = float(means.mean()), _half_width(means - means.mean(), len(means) - 1) / len(means)
    return value, value - half, value + half


def _half_width(deviations: Array, freedom: int) -> float:
    """Half the width of the 95 % interval of a sum whose terms deviate so from their mean."""
    variance = np.square(deviations).sum() * (freedom + 1) / freedom
    return float(stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(variance))


@dataclass(frozen=True)
class Pair:
    """One task's scores `a` and `b` for the same seeds in two experiments, and their numbers of episodes: `[seeds]`.

    Scores that are not success rates come with their standard errors over episodes.
    """

    seeds: NDArray[np.int64]
    a: Array
    b: Array
    trials_a: Array
    trials_b: Array
    error_a: Array | None = None
    error_b: Array | None = None


def paired_difference(strata: Sequence[Pair], *, resamples: int) -> tuple[float, float, float]:
    """The mean over tasks of the difference b − a of scores with its 95 % interval: `(value, low, high)`.

    Differencing cancels what a seed contributes to both experiments. A seed's tasks share a flow and so count as one:
    the interval is Student's over the seeds' sums. For a task with a single seed, two success rates are drawn from
    their posteriors, as in `resample`; other scores are taken as normal with their standard errors.
    """
    value, count = float(np.mean([(pair.b - pair.a).mean() for pair in strata])), len(strata)
    several = [pair for pair in strata if len(pair.seeds) > 1]
    alone = [pair for pair in strata if len(pair.seeds) == 1]
    below = above = 0.0
    if several:
        seeds = np.unique(np.concatenate([pair.seeds for pair in several]))
        parts = np.zeros(len(seeds))
        for pair in several:
            difference = pair.b - pair.a
            at = np.searchsorted(seeds, pair.seeds)
            parts[at] += (difference - difference.mean()) / (len(pair.seeds) * count)
        below = above = _half_width(parts, len(seeds) - 1)
    if alone:
        low, high = _by_episodes(alone, resamples)
        shares = len(alone) / count
        below, above = float(np.hypot(below, shares * low)), float(np.hypot(above, shares * high))
    if all(pair.error_a is None for pair in strata):  # rates
        return value, max(-1.0, value - below), min(1.0, value + above)
    return value, value - below, value + above


def _by_episodes(alone: Sequence[Pair], resamples: int) -> tuple[float, float]:
    """How far the 95 % interval of single-seed tasks reaches below and above their mean difference."""
    errors = [error for pair in alone for error in (pair.error_a, pair.error_b) if error is not None]
    if errors:
        half = 1.96 * float(np.sqrt(np.square(errors).sum())) / len(alone)
        return half, half
    generator = np.random.default_rng(0)
    sides = ([(p.a, p.trials_a) for p in alone], [(p.b, p.trials_b) for p in alone])
    (a, a_trials), (b, b_trials) = ([np.stack(column, axis=1) for column in zip(*side, strict=True)] for side in sides)
    before = resample(a, a_trials, resamples, generator)
    drawn = (resample(b, b_trials, resamples, generator) - before).mean((1, 2))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = float((b - a).mean())
    return max(0.0, value - float(low)), max(0.0, float(high) - value)

"""Statistics over runs × tasks, after rliable (Agarwal et al. 2021).

Scores are arrays `[seeds, tasks]` in [0, 1]; functions of scores also take a leading batch of resamples,
`[resamples, seeds, tasks]`, and then return one value per resample.

Not `scipy.stats`, whose import takes half a second: its `bootstrap` refuses single seeds and takes twice the time.
rliable 1.2's arch fails with pandas 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Draw what the scores could have been: `[resamples, seeds, tasks]`.

    With several seeds, seeds are drawn with replacement, for each task on its own (stratified bootstrap). One
    seed has nothing to be drawn from: its success rates are drawn from their posterior given `trials`
    episodes each, which covers the chance of the episodes, not of training. The prior is Jeffreys', its weight
    shared among the tasks, lest fifty halves of a success pull up a mean of zeros.

    Args:
        scores: `[seeds, tasks]`.
        trials: episodes behind each score, `[seeds, tasks]`.
        resamples: how many.
        generator: where the randomness comes from.
    """
    seeds, tasks = scores.shape
    if seeds > 1:
        picks = generator.integers(0, seeds, (resamples, seeds, tasks))
        return np.asarray(scores[picks, np.arange(tasks)])
    successes = scores * trials
    prior = 0.5 / tasks
    return generator.beta(successes + prior, trials - successes + prior, (resamples, 1, tasks))


def bootstrap(
    statistic: Callable[..., Array],
    *scores_and_trials: tuple[Array, Array],
    resamples: int,
    seed: int = 0,
) -> tuple[Any, Any, Any]:
    """A statistic of one or more methods' scores with its 95 % interval: `(value, low, high)`.

    The interval always holds the value: a posterior's percentiles may miss a rate of exactly 0 or 1.
    """
    generator = np.random.default_rng(seed)
    value = statistic(*(scores for scores, _ in scores_and_trials))
    drawn = [resample(scores, trials, resamples, generator) for scores, trials in scores_and_trials]
    chunks = range(0, resamples, 1000)  # statistics may need many times the memory of their scores
    values = np.concatenate([statistic(*(d[start : start + 1000] for d in drawn)) for start in chunks])
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return value, np.minimum(low, value), np.maximum(high, value)


Pair = tuple[Array, Array, Array, Array]
"""One task's scores of the same seeds in two experiments, and the episodes behind them: `[seeds]` each, a, b, a, b."""


def paired_difference(strata: Sequence[Pair], *, resamples: int, seed: int = 0) -> tuple[float, float, float]:
    """The mean of b − a over tasks with its 95 % interval: `(value, low, high)`.

    What is drawn again is a seed's difference, so that what both owe to the seed cancels. A task with a single seed
    has no differences to draw from: its two success rates are drawn from their posteriors, as in `resample`.
    """
    generator = np.random.default_rng(seed)
    alone = [pair for pair in strata if len(pair[0]) == 1]
    draws = []
    for a, b, trials, _ in strata:
        if len(a) > 1:
            draws.append(resample((b - a)[:, None], trials[:, None], resamples, generator).mean((1, 2)))
    if alone:
        first, second, trials, others = (np.stack(column, axis=1) for column in zip(*alone, strict=True))
        before = resample(first, trials, resamples, generator)
        draws += list((resample(second, others, resamples, generator) - before)[:, 0].T)
    value = float(np.mean([(b - a).mean() for a, b, *_ in strata]))
    low, high = np.quantile(np.mean(draws, axis=0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return value, min(float(low), value), max(float(high), value)

"""The report's statistics against brute force and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from flp.report import statistics


def test_interquartile_mean_of_known_arrays() -> None:
    assert statistics.interquartile_mean(np.arange(8.0).reshape(2, 4)) == pytest.approx(3.5)
    assert statistics.interquartile_mean(np.array([[0.0, 0.0, 0.3, 0.5, 1.0, 1.0]])) == pytest.approx(0.45)
    outliers = np.array([[-100.0, 1.0], [1.0, 100.0]])
    assert statistics.interquartile_mean(outliers) == 1.0
    assert statistics.interquartile_mean(np.array([[9.0, 0, 1, 2, 3, 4, 5]])) == pytest.approx(3.0)  # without 0 and 9
    assert statistics.interquartile_mean(np.array([[0.25]])) == 0.25
    batch = np.stack([outliers, outliers + 1])
    assert statistics.interquartile_mean(batch).tolist() == [1.0, 2.0]


def test_probability_of_improvement_against_brute_force() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 4, (5, 3)) / 4, generator.integers(0, 4, (7, 3)) / 4
    tasks = []
    for t in range(3):
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in x[:, t] for b in y[:, t]]
        tasks.append(sum(wins) / len(wins))
    assert statistics.probability_of_improvement(x, y) == pytest.approx(np.mean(tasks))
    assert statistics.probability_of_improvement(x, x) == pytest.approx(0.5)
    assert statistics.probability_of_improvement(np.ones((2, 3)), np.zeros((4, 3))) == 1.0
    both = statistics.probability_of_improvement(np.stack([x, x]), np.stack([y, x[[0] * 7]]))
    assert both[0] == pytest.approx(np.mean(tasks))


def test_performance_profile_counts_runs_above() -> None:
    scores = np.array([[0.0, 0.5], [0.5, 1.0]])
    profile = statistics.performance_profile(scores, np.array([0.0, 0.25, 0.5, 1.0]))
    assert profile.tolist() == [0.75, 0.75, 0.25, 0.0]


@pytest.mark.parametrize("seeds", [2, 3, 8])
@pytest.mark.parametrize("of_the_flow", [0.0, 0.7])
def test_the_interval_of_few_seeds_has_its_nominal_coverage(seeds: int, of_the_flow: float) -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        common, own = generator.normal(0, 0.1, (seeds, 1)), generator.normal([0.3, 0.5, 0.7], 0.1, (seeds, 3))
        value, low, high = statistics.of_seeds((own + of_the_flow * common).mean(1))
        assert low <= value <= high
        covered += low <= 0.5 <= high
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_the_interval_of_seeds_is_scipys() -> None:
    means = np.array([0.2, 0.9, 0.4])
    theirs = scipy.stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert statistics.of_seeds(means) == pytest.approx((0.5, theirs.low, theirs.high))
    assert statistics.of_seeds(np.array([0.5, 0.5])) == (0.5, 0.5, 0.5)


def test_bootstrap_agrees_with_scipys() -> None:
    scores = np.random.default_rng(3).random((5, 4))

    def of_seeds(seeds: np.ndarray, axis: int) -> np.ndarray:
        return statistics.interquartile_mean(scores[seeds])

    theirs = scipy.stats.bootstrap((np.arange(5),), of_seeds, n_resamples=20000, method="percentile", rng=0, batch=1000)
    scored = (scores, np.full(scores.shape, 9.0))
    _, low, high = statistics.bootstrap(statistics.interquartile_mean, scored, resamples=20000)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


def test_bootstrap_keeps_the_strata_apart() -> None:
    scores = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])  # tasks differ, seeds do not
    _, low, high = statistics.bootstrap(statistics.mean, (scores, np.full((3, 2), 9.0)), resamples=100)
    assert (low, high) == (0.5, 0.5)


def test_one_seed_is_judged_by_its_episodes() -> None:
    def width(episodes: int) -> float:
        scores = (np.array([[0.5]]), np.array([[float(episodes)]]))
        _, low, high = statistics.bootstrap(statistics.mean, scores, resamples=2000)
        return float(high - low)

    assert 0.38 < width(20) < 0.46  # the binomial's own: 2 × 1.96 × sqrt(.25 / 20) = .44
    assert width(2000) < 0.05
    none = (np.zeros((1, 5)), np.full((1, 5), 20.0))
    value, low, high = statistics.bootstrap(statistics.mean, none, resamples=2000)
    assert value == low == 0.0 or low < 1e-3
    assert 0.0 < high < 0.06


def test_bootstrap_is_seeded_and_chunked_alike() -> None:
    scores = (np.random.default_rng(0).random((4, 3)), np.full((4, 3), 9.0))
    first, second = (statistics.bootstrap(statistics.interquartile_mean, scores, resamples=2500) for _ in range(2))
    assert first == second

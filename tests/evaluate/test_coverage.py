"""Intervals over simulated studies: 93 to 97 % on independent test people; over folds, what docs/evaluation.md says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from neuropipe.evaluate import metrics, uncertainty

N, DRAWS = 200, 1000
Simulate = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]  # labels, predictions (systems, n)


def classes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two systems whose scores are normal, shifted by 1.2 and by 0.7 in the positive class, with shared noise."""
    y = np.repeat([0.0, 1.0], N // 2)
    shared, own = rng.standard_normal(N), rng.standard_normal((2, N))
    return y, (shared + own) / np.sqrt(2) + np.array([[1.2], [0.7]]) * y


def numbers(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two systems whose errors are normal, with a standard deviation of 1 and of 1.3, and shared in part."""
    y = 2 * rng.standard_normal(N)
    shared, own = rng.standard_normal(N), rng.standard_normal((2, N))
    return y, y + (shared + own) / np.sqrt(2) * np.array([[1.0], [1.3]])


def accuracy(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return metrics.balanced_accuracy(y, (score >= 0.5).astype(float), weight)


def r2(y: np.ndarray, yhat: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return metrics.r2(y, yhat, weight, np.zeros_like(y))


SHIFTS, SPREADS = np.array([1.2, 0.7]), np.array([1.0, 1.3])
CASES = {
    "auroc": (classes, metrics.auroc, stats.norm.cdf(SHIFTS / np.sqrt(2))),
    "balanced_accuracy": (classes, accuracy, (stats.norm.cdf(0.5) + stats.norm.cdf(SHIFTS - 0.5)) / 2),
    "mae": (numbers, metrics.mae, SPREADS * np.sqrt(2 / np.pi)),
    "r2": (numbers, r2, 1 - SPREADS**2 / 4),
}


def coverage(name: str, studies: int) -> tuple[float, float]:
    """Return the shares of studies whose intervals of the first system, and of the difference, hold the truth."""
    simulate, compute, truth = CASES[name]
    rng, hits = np.random.default_rng(0), np.zeros(2)
    for _ in range(studies):
        y, predictions = simulate(rng)
        strata = y.astype(int) if simulate is classes else None
        (weight,) = uncertainty.bootstrap_weights(np.arange(N), strata, DRAWS, rng)
        first, second = (compute(y[None], one[None], weight) for one in predictions)
        interval = uncertainty.percentile_interval(first - second)
        if name == "auroc":
            interval = uncertainty.delong_difference(y, predictions)[1:]
        for place, (found, true) in enumerate(
            ((uncertainty.percentile_interval(first), truth[0]), (interval, truth[0] - truth[1]))
        ):
            hits[place] += found[0] <= true <= found[1]
    return tuple(hits / studies)


@pytest.mark.parametrize("name", CASES)
def test_a_few_studies_are_covered(name):
    assert min(coverage(name, 60)) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_2000_independent_test_sets_are_covered(name):
    for found in coverage(name, 2000):
        assert 0.93 <= found <= 0.97


@pytest.mark.parametrize("name", ["auroc", "mae"])
def test_p_values_of_2000_studies_without_an_effect_are_uniform(name):
    rng, better, counts = np.random.default_rng(2), {"auroc": 1, "mae": -1}[name], np.zeros(20, dtype=int)
    for _ in range(2000):
        y = np.repeat([0.0, 1.0], 15) if name == "auroc" else rng.standard_normal(30)
        labels = rng.permuted(np.tile(y, (20, 1)), axis=1)  # the first are the true ones, the others the null's
        values = CASES[name][1](labels, rng.standard_normal((20, 30)), np.ones((1, 30)))
        counts[round(20 * uncertainty.permutation_p(values[0], values[1:], better)) - 1] += 1
    if name == "mae":
        assert stats.chisquare(counts).pvalue > 0.001
    share = np.cumsum(counts) / 2000
    assert (share <= np.arange(1, 21) / 20 + 0.03).all()
    assert (share >= np.arange(1, 21) / 20 - 0.06).all()  # equal AUROCs count against the observed one


def folded(rng: np.random.Generator, shift: float, n: int = 100, n_features: int = 20) -> tuple[np.ndarray, ...]:
    """Return labels, out-of-fold scores, folds, and the true AUROC of each fold's classifier (mean differences)."""
    y = rng.permutation(np.repeat([0.0, 1.0], n // 2))
    direction = np.eye(n_features)[0] * shift
    x = rng.standard_normal((n, n_features)) + y[:, None] * direction
    fold = np.empty(n, dtype=int)
    for value in (0, 1):
        fold[y == value] = np.arange(n // 2) % 5
    score, truth = np.empty(n), []
    for k in range(5):
        train = fold != k
        w = x[train & (y == 1)].mean(axis=0) - x[train & (y == 0)].mean(axis=0)
        score[~train] = x[~train] @ w
        truth.append(stats.norm.cdf(w @ direction / np.linalg.norm(w) / np.sqrt(2)))
    return y, score, fold, np.array(truth)


def coverage_over_folds(shift: float, studies: int) -> dict[str, float]:
    """Return how often intervals over five folds hold the true AUROC that classifiers of this size have on average."""
    rng, results = np.random.default_rng(1), []
    truth = np.mean([folded(rng, shift)[3].mean() for _ in range(300)])
    for _ in range(studies):
        y, score, fold, _ = folded(rng, shift)
        once = np.ones((1, 20))
        values = [metrics.auroc(y[None, fold == k], score[None, fold == k], once)[0] for k in range(5)]
        corrected = uncertainty.corrected_interval(np.array(values), 0.25)
        (weight,) = uncertainty.bootstrap_weights(np.arange(len(y)), y.astype(int), 500, rng)
        pooled = uncertainty.percentile_interval(metrics.auroc(y[None], score[None], weight))
        results.append([low <= truth <= high for low, high in (corrected, pooled)])
    return dict(zip(("corrected", "pooled"), np.mean(results, axis=0), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_over_folds_the_corrected_interval_covers_and_the_pooled_one_less(shift):
    found = coverage_over_folds(shift, 2000)
    assert found["corrected"] >= 0.93
    assert found["pooled"] < found["corrected"]

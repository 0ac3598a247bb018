"""How sure a number is: bootstrap over persons, intervals and tests over folds, nulls, DeLong, Holm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import stats
from scipy.stats import rankdata

LEVEL = 0.95
CHUNK = 4_000_000  # weights that are held at once
MIN_SPLITS = 5  # fewer resampling splits give no test


def bootstrap_weights(
    units: np.ndarray, strata: np.ndarray | None, draws: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield blocks (some draws, n) of how often each row was drawn, `draws` rows in all.

    Parameters
    ----------
    units : int ndarray (n,)
        Person (or family) of each row, numbered from 0; units are drawn as a whole.
    strata : int ndarray (n,), optional
        Class of each row; the number of units of each class is kept (a unit counts as its first row's class).
    """
    n_units = int(units.max()) + 1
    first = np.zeros(n_units, dtype=np.int64)
    first[units[::-1]] = np.arange(len(units))[::-1]
    classes = np.zeros(n_units, dtype=np.int64) if strata is None else strata[first]
    members = [np.flatnonzero(classes == value) for value in np.unique(classes)]
    block = max(1, CHUNK // len(units))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        counts = np.empty((size, n_units), dtype=np.float32)
        for inside in members:
            drawn = rng.integers(0, len(inside), size=(size, len(inside)))
            drawn += np.arange(size)[:, None] * len(inside)
            counts[:, inside] = np.bincount(drawn.ravel(), minlength=size * len(inside)).reshape(size, len(inside))
        yield counts[:, units]


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the central `LEVEL` interval of bootstrap values; NaN where most of them are undefined."""
    known = values[np.isfinite(values)]
    if len(known) < 0.5 * len(values):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def separate_pairs(y: np.ndarray, units: np.ndarray) -> int:
    """Return how many pairs of a positive and a negative there are that share nobody, and no family."""
    positive, negative = set(units[y == 1]), set(units[y == 0])
    return min(len(positive), len(negative), len(positive | negative) // 2)


def perfect_interval(value: float, y: np.ndarray, units: np.ndarray, pairs: int | None = None) -> tuple[float, float]:
    """Return the exact interval of an AUROC of 1 or 0, for which every bootstrap draw says the same.

    Of pairs of a positive and a negative that share nobody, each is ranked rightly with the probability
    that the AUROC is, independently: all of k such pairs are with ``AUROC ** k``, and a perfect ranking is
    no more likely than that. The limit of Clopper & Pearson (1934) for k successes in k trials follows;
    it is sharp, since a share of the smaller class that is ranked wrongly altogether attains it.

    Parameters
    ----------
    value : float
        1, or 0 for a ranking that is wrong throughout.
    y : ndarray (n,)
        0 or 1.
    units : int ndarray (n,)
        Person (or family) of each row; members of a family are not independent, so it serves in one pair.
    pairs : int, optional
        How many such pairs were compared, where not all were.
    """
    pairs = separate_pairs(y, units) if pairs is None else pairs
    low = ((1 - LEVEL) / 2) ** (1 / pairs) if pairs else 0.0
    return (low, 1.0) if value == 1 else (0.0, 1 - low)


def recovered_difference(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float]:
    """Return the interval of a difference of two estimates ``(value, low, high)`` from their own intervals.

    The method of variance estimates recovery (Zou & Donner 2008) without a correlation, which makes the
    interval wider than need be where both agree on whom they get right.
    """
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    below, above = np.hypot(a - a_low, b_high - b), np.hypot(a_high - a, b - b_low)
    return float(a - b - below), float(a - b + above)


def corrected_variance(values: np.ndarray, test_train_ratio: float) -> float:
    """Return the corrected variance of the mean over resampling splits (Nadeau & Bengio 2003).

    ``(1 / J + n_test / n_train) var(values)``: training sides overlap, so that folds are not independent.
    """
    return float((1 / len(values) + test_train_ratio) * np.var(values, ddof=1))


def corrected_interval(values: np.ndarray, test_train_ratio: float) -> tuple[float, float]:
    """Return the corrected resampled t interval of the mean over folds; NaN for a single fold."""
    if len(values) < 2:
        return np.nan, np.nan
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.sqrt(corrected_variance(values, test_train_ratio))
    return float(values.mean() - half), float(values.mean() + half)


def nadeau_bengio(differences: np.ndarray, test_train_ratio: float) -> tuple[float, float]:
    """Return t and two-sided p of the corrected resampled t test; NaN below `MIN_SPLITS` splits.

    Parameters
    ----------
    differences : ndarray (J,)
        Paired differences of two systems, one per split.
    test_train_ratio : float
        ``n_test / n_train``.
    """
    if len(differences) < MIN_SPLITS or not np.isfinite(differences).all():
        return np.nan, np.nan
    variance = corrected_variance(differences, test_train_ratio)
    if variance == 0:
        return (0.0, 1.0) if differences.mean() == 0 else (float(np.sign(differences.mean()) * np.inf), 0.0)
    t = differences.mean() / np.sqrt(variance)
    return float(t), float(2 * stats.t.sf(abs(t), len(differences) - 1))


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p-values; NaN stays NaN and does not count."""
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    stepped = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(stepped))
    return adjusted


def permutation_p(observed: float, null: np.ndarray, better: int) -> float:
    """Return ``(1 + #{null as good as observed}) / (1 + draws)``; undefined draws count as as good.

    Parameters
    ----------
    better : int
        1 where larger is better, -1 where smaller is.
    """
    if not np.isfinite(observed) or len(null) == 0:
        return np.nan
    worse = better * null < better * observed
    return float((1 + (~worse).sum()) / (1 + len(null)))


def delong(y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROCs and their covariance for scores of the same people (DeLong 1988, by ranks: Sun & Xu 2014).

    Parameters
    ----------
    y : ndarray (n,)
        0 or 1.
    scores : ndarray (k, n)
        One row per system.

    Returns
    -------
    areas : ndarray (k,)
    covariance : ndarray (k, k)
        NaN with fewer than two people of a class.
    """
    positive, negative = scores[:, y == 1], scores[:, y == 0]
    m, n = positive.shape[1], negative.shape[1]
    everyone = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    v10 = (everyone[:, :m] - rankdata(positive, axis=1)) / n  # share of negatives below each positive
    v01 = 1 - (everyone[:, m:] - rankdata(negative, axis=1)) / m  # share of positives above each negative
    if min(m, n) < 2:
        return v10.mean(axis=1), np.full((len(scores), len(scores)), np.nan)
    return v10.mean(axis=1), np.atleast_2d(np.cov(v10)) / m + np.atleast_2d(np.cov(v01)) / n


def delong_difference(y: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """Return the difference of the AUROCs of two score rows (2, n) and its `LEVEL` interval."""
    areas, covariance = delong(y, scores)
    difference = areas[0] - areas[1]
    spread = np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0))
    half = stats.norm.ppf((1 + LEVEL) / 2) * spread
    return float(difference), float(difference - half), float(difference + half)

"""Ratios, means and bins of equal mass, for many rows of weights at once."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

N_BINS = 15  # of the calibration error, with equal mass


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; NaN where the denominator is not positive."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def weighted_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the mean (draws,) of `values` (draws or 1, n) with `weight` (draws or 1, n)."""
    if len(values) == 1:
        return divide(weight @ values[0], weight.sum(axis=1))
    return divide((weight * values).sum(axis=1), weight.sum(axis=1))


def mean_known(values: np.ndarray) -> np.ndarray:
    """Mean of each row (draws, n) over its known values."""
    known = np.isfinite(values)
    return divide(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))


def mass_bins(probability: np.ndarray) -> np.ndarray:
    """Return which of `N_BINS` bins of equal mass (rows, n) each value lies in; equal values share one."""
    n = probability.shape[1]
    return ((rankdata(probability, axis=1) - 0.5) / n * N_BINS).astype(int)

"""The numbers behind the figures: ROC curves and their mean over folds, null distributions, thinning, smoothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

PEOPLE_PER_BIN = 10  # of a calibration curve: fewer make it jump
GRID = np.linspace(0.0, 1.0, 101)  # false-positive rates at which curves of several folds are averaged


def roc(y: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false- and true-positive rates at every distinct score, from (0, 0) to (1, 1).

    Parameters
    ----------
    y : ndarray of shape (n_people,)
        1 for the positive class, 0 for the other; both must occur.
    score : ndarray of shape (n_people,)
        Higher means more probably positive. Equal scores make one step, so the area counts ties as one half.
    """
    order = np.argsort(-score, kind="stable")
    y, score = y[order], score[order]
    last_of_its_score = np.append(np.diff(score) != 0, True)
    hits = np.cumsum(y)[last_of_its_score]
    alarms = np.cumsum(1 - y)[last_of_its_score]
    return np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])


def mean_roc(folds: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean true-positive rate over folds at fixed false-positive rates, from (0, 0).

    Scores of different folds are not comparable, so curves are averaged, never pooled scores.
    """
    mean = np.mean([np.interp(GRID, fpr, tpr) for fpr, tpr in folds], axis=0)
    return np.append(0.0, GRID), np.append(0.0, mean)


def reliability(y: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean prediction, share of positives and size of bins of equal mass.

    Parameters
    ----------
    y : ndarray of shape (n_people,)
        0 or 1.
    probability : ndarray of shape (n_people,)
        Of the positive class. There is one bin per `PEOPLE_PER_BIN` people, between 3 and 10.
    """
    n_bins = min(max(len(y) // PEOPLE_PER_BIN, 3), 10)
    parts = [part for part in np.array_split(np.argsort(probability, kind="stable"), n_bins) if part.size]
    means = [(probability[part].mean(), y[part].mean(), part.size) for part in parts]
    predicted, observed, sizes = (np.array(column) for column in zip(*means, strict=True))
    return predicted, observed, sizes


def null_draws(nulls: pd.DataFrame, metric: str) -> np.ndarray | None:
    """Return a metric under each permutation of the labels, averaged over folds, shape (n_draws,).

    Parameters
    ----------
    nulls : DataFrame
        One run's rows of ``nulls.parquet``: repeat, fold, and the lists ``y`` and ``prediction`` over draws.
    metric : str
        ``auroc`` (Mann-Whitney's statistic, ties count one half) or ``mae``; None is returned for others.
    """
    if metric not in ("auroc", "mae") or nulls.empty:
        return None
    values = []
    for _, fold in nulls.groupby(["repeat", "fold"]):
        y, prediction = (np.stack(fold[name].to_numpy()).astype(float) for name in ("y", "prediction"))
        values.append(np.abs(prediction - y).mean(axis=0) if metric == "mae" else _areas(y, prediction))
    return np.mean(values, axis=0)


def _areas(y: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of every column (n_people, n_draws)."""
    positive = y.sum(axis=0)
    wins = (rankdata(score, axis=0) * y).sum(axis=0) - positive * (positive + 1) / 2
    return wins / (positive * (len(y) - positive))


def thin(x: np.ndarray, y: np.ndarray, n: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `n` evenly spaced points of a line, always with its ends."""
    if len(x) <= n:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, n).round().astype(int))
    return x[kept], y[kept]


def smooth(y: np.ndarray, window: int) -> np.ndarray:
    """Return the centred running mean over `window` points; shorter towards the ends, NaN left out."""
    finite = np.isfinite(y)
    kernel = np.ones(max(1, min(window, len(y))))
    total = np.convolve(np.where(finite, y, 0.0), kernel, mode="same")
    count = np.convolve(finite.astype(float), kernel, mode="same")
    return np.divide(total, count, out=np.full(len(y), np.nan), where=count > 0)

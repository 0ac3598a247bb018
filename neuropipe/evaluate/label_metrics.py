"""Metrics of labels of more than two kinds: of people, and of clips.

Labels are places from 0; ``probability`` has one row per label and one column per person or clip. As in
`neuropipe.evaluate.metrics`, every function returns one value per row of weights.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from neuropipe.evaluate.weighted import N_BINS, divide, mass_bins, mean_known, weighted_mean


def confusion(y: np.ndarray, predicted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return weighted confusion matrices (draws, n_labels, n_labels): true labels in rows, predicted in columns.

    `y` and `predicted` hold places of labels, from 0.
    """
    n_labels = int(max(y.max(), predicted.max())) + 1
    code = (y * n_labels + predicted).astype(np.int64)
    if len(code) == 1:
        n = code.shape[1]
        cells = sparse.csr_array((np.ones(n), (code[0], np.arange(n))), shape=(n_labels**2, n))
        return (cells @ weight.T).T.reshape(-1, n_labels, n_labels)
    flat = (code + np.arange(len(code))[:, None] * n_labels**2).ravel()
    weights = np.broadcast_to(weight, code.shape).ravel()
    return np.bincount(flat, weights, len(code) * n_labels**2).reshape(-1, n_labels, n_labels)


def accuracy(cells: np.ndarray) -> np.ndarray:
    """Share whose label is told, from confusion matrices (draws, n_labels, n_labels)."""
    return divide(np.trace(cells, axis1=1, axis2=2), cells.sum(axis=(1, 2)))


def mean_recall(cells: np.ndarray) -> np.ndarray:
    """Balanced accuracy: the mean over labels that occur of the share of them that is told."""
    return mean_known(divide(np.diagonal(cells, axis1=1, axis2=2), cells.sum(axis=2)))


def macro_f1(cells: np.ndarray) -> np.ndarray:
    """Mean over labels that occur, or are predicted, of the harmonic mean of precision and recall."""
    hits = np.diagonal(cells, axis1=1, axis2=2)
    return mean_known(divide(2 * hits, cells.sum(axis=1) + cells.sum(axis=2)))


def top_k(y: np.ndarray, probability: np.ndarray, weight: np.ndarray, k: int) -> np.ndarray:
    """Share whose label is among the `k` most probable ones; of equally probable labels any order is as likely."""
    own = np.take_along_axis(probability, y.astype(np.int64), axis=0)  # (1, n)
    above, equal = (probability > own).sum(axis=0), (probability == own).sum(axis=0)
    return weighted_mean(np.clip((k - above) / equal, 0, 1)[None], weight)


def brier(y: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Brier's (1950) score: the squared differences of probabilities and outcomes, summed over labels; 0 to 2."""
    return weighted_mean(((probability - _outcome(y, probability)) ** 2).sum(axis=0)[None], weight)


def ece(y: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the class-wise expected calibration error (Kull et al. 2019).

    Of every label that occurs, its probability is held against its frequency in bins of equal mass, as
    `metrics.ece` does for the positive class; the value is the mean over these labels.
    """
    occurs = np.isin(np.arange(len(probability)), y)
    p, n = probability[occurs], probability.shape[1]
    gap = _outcome(y, probability)[occurs] - p
    rows = mass_bins(p) + N_BINS * np.arange(len(p))[:, None]
    where = (rows.ravel(), np.tile(np.arange(n), len(p)))
    binned = sparse.csr_array((gap.ravel(), where), shape=(N_BINS * len(p), n)) @ weight.T  # (label bin, draws)
    return divide(np.abs(binned).sum(axis=0) / len(p), weight.sum(axis=1))


def _outcome(y: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return 1 where a label (rows) is that of a person (columns), else 0."""
    return (y == np.arange(len(probability))[:, None]).astype(float)

"""Metrics for many label vectors or many person weights at once.

Every function takes ``y``, ``prediction`` and ``weight`` as arrays ``(draws or 1, n)`` that broadcast
against each other, and returns one value per draw: permuted labels and their predictions for a null,
or weights that count how often each person was drawn for a bootstrap. Where a value is not defined
(one class only, no variance) it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

N_BINS = 15  # of the calibration error, with equal mass
THRESHOLD = 0.5
UNIT, SIGNED = (0.0, 1.0), (-1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Scored:
    """Labels and predictions of one test set, as rows that broadcast.

    Attributes
    ----------
    y : ndarray (draws or 1, n)
        0 or 1, or numbers; of clips, places of labels.
    prediction : ndarray (draws or 1, n)
        Scores (larger is more positive) or predicted numbers; of clips, places of labels.
    logit : ndarray (1, n) or None
        Log odds, where the scores are probabilities.
    train_mean : ndarray (1, n)
        Mean of the target over each row's training side.
    """

    y: np.ndarray
    prediction: np.ndarray
    logit: np.ndarray | None
    train_mean: np.ndarray


@dataclass(frozen=True)
class Metric:
    """A named metric and what may be done with it.

    Attributes
    ----------
    compute : callable
        ``(scored, weight) -> ndarray (draws,)``.
    better : int
        1 where larger is better, -1 where smaller is, 0 where neither is (no null, no comparison).
    stratified : bool
        The bootstrap keeps the number of each class.
    probability : bool
        Needs probabilities.
    null : bool
        Has a permutation null.
    thresholded : bool
        Uses `THRESHOLD`.
    bounds : tuple of float
        Least and greatest value that the metric can take.
    """

    compute: Callable[[Scored, np.ndarray], np.ndarray]
    better: int = 1
    stratified: bool = False
    probability: bool = False
    null: bool = True
    thresholded: bool = False
    bounds: tuple[float, float] = (-np.inf, np.inf)


def _ordered(score: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Return `score` and `others` with columns in ascending order of score."""
    order = np.argsort(score, axis=1, kind="stable")
    if len(order) == 1:
        return [values[:, order[0]] for values in (score, *others)]
    n = order.shape
    return [np.take_along_axis(np.broadcast_to(values, n), order, axis=1) for values in (score, *others)]


def _run_bounds(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last position (rows, n) of the run of equal values that each position lies in."""
    rows, n = ordered.shape
    place = np.broadcast_to(np.arange(n), (rows, n))
    new = np.concatenate([np.ones((rows, 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    ends = np.concatenate([new[:, 1:], np.ones((rows, 1), bool)], axis=1)
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, n - 1)[:, ::-1], axis=1)[:, ::-1]
    return first, last


def _at(values: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return `values` (draws or 1, m) at the columns `position` (draws or 1, n)."""
    if len(position) == 1:
        return values[:, position[0]]
    return np.take_along_axis(np.broadcast_to(values, (len(position), values.shape[1])), position, axis=1)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; NaN where the denominator is not positive."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def auroc(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Area under the receiver operating characteristic; ties count half."""
    score, y, weight = _ordered(score, y, weight)
    positive, negative = weight * y, weight * (1 - y)
    below = np.cumsum(negative, axis=1)
    first, last = _run_bounds(score)
    # Negatives strictly below plus half of those at the same score, for every positive.
    upto = np.concatenate([np.zeros((len(below), 1)), below], axis=1)
    middle = (_at(upto, first) + _at(upto, last + 1)) / 2
    return _divide((positive * middle).sum(axis=1), positive.sum(axis=1) * below[:, -1])


def auprc(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Average precision: the mean precision at the positives' scores, equal scores taken together."""
    score, y, weight = _ordered(-score, y, weight)
    positive = weight * y
    _, last = _run_bounds(score)
    found = np.cumsum(positive, axis=1)
    precision = _divide(found, np.cumsum(np.broadcast_to(weight, positive.shape), axis=1))
    return _divide(np.nansum(positive * _at(precision, last), axis=1), found[:, -1])


def _confusion(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return weighted true positives, false negatives, false positives and true negatives."""
    called = score >= THRESHOLD
    cells = (y * called, y * ~called, (1 - y) * called, (1 - y) * ~called)
    return tuple((weight * cell).sum(axis=1, dtype=float) for cell in cells)


def balanced_accuracy(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean of sensitivity and specificity at the threshold."""
    tp, fn, fp, tn = _confusion(y, score, weight)
    return (_divide(tp, tp + fn) + _divide(tn, tn + fp)) / 2


def mcc(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Matthews' correlation coefficient at the threshold; 0 where everyone is called the same."""
    tp, fn, fp, tn = _confusion(y, score, weight)
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.nan_to_num(_divide(tp * tn - fp * fn, root))


def _weighted_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    if len(values) == 1:
        return _divide(weight @ values[0], weight.sum(axis=1))
    return _divide((weight * values).sum(axis=1), weight.sum(axis=1))


def brier(y: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean squared difference of probability and outcome."""
    return _weighted_mean((probability - y) ** 2, weight)


def brier_skill(y: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``1 - Brier / Brier of the test set's prevalence``."""
    prevalence = _weighted_mean(y, weight)
    return 1 - _divide(brier(y, probability, weight), prevalence * (1 - prevalence))


def ece(y: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Expected calibration error of the positive class: probability against frequency in bins of equal mass.

    Equal probabilities share a bin. The bins are those of the unweighted sample.
    """
    n = probability.shape[1]
    bins = ((rankdata(probability, axis=1) - 0.5) / n * N_BINS).astype(int)
    if len(probability) == len(y) == 1:
        gap = np.where(bins[0][:, None] == np.arange(N_BINS), (y - probability)[0][:, None], 0)  # (n, bin)
        return _divide(np.abs(weight @ gap).sum(axis=1), weight.sum(axis=1))
    gap = weight * (y - probability)
    total = sum(np.abs(np.where(bins == b, gap, 0).sum(axis=1)) for b in range(N_BINS))
    return _divide(total, np.broadcast_to(weight, gap.shape).sum(axis=1))


def calibration_line(y: np.ndarray, logit: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and intercept (draws,) of the logistic regression of the outcome on the predicted log odds.

    `y` and `logit` have one row. The line is fitted to the unweighted sample by Newton's method; each
    row of weights then takes one step from there (the one-step bootstrap of Moulton & Zeger 1991).
    NaN where the labels are separated or the log odds do not vary.
    """
    fitted = _calibration_fit(y[0], logit[0])
    if fitted is None:
        return np.full(len(weight), np.nan), np.full(len(weight), np.nan)
    intercept, slope = (fitted + _newton_step(y[0], logit[0], weight, *fitted)).T
    return slope, intercept


def _newton_step(y: np.ndarray, logit: np.ndarray, weight: np.ndarray, intercept: float, slope: float) -> np.ndarray:
    """Return Newton's step (draws, 2) of intercept and slope for every row of weights."""
    p = 1 / (1 + np.exp(-np.clip(intercept + slope * logit, -30, 30)))
    design = np.stack([np.ones_like(logit), logit], axis=1)
    gradient = weight @ (design * (y - p)[:, None])  # (draws, 2)
    h0, h1, h2 = (weight @ np.stack([p * (1 - p) * logit**power for power in range(3)], axis=1)).T
    determinant = h0 * h2 - h1**2
    first = _divide(h2 * gradient[:, 0] - h1 * gradient[:, 1], determinant)
    return np.stack([first, _divide(h0 * gradient[:, 1] - h1 * gradient[:, 0], determinant)], axis=1)


def _calibration_fit(y: np.ndarray, logit: np.ndarray) -> np.ndarray | None:
    """Return intercept and slope; None where there is no finite maximum of the likelihood."""
    low, high = logit[y == 1], logit[y == 0]
    if not np.ptp(logit) or not len(low) or not len(high) or low.min() >= high.max() or high.min() >= low.max():
        return None
    line, scale = np.zeros(2), logit.std()
    centred = (logit - logit.mean()) / scale  # so that Newton's steps from zero stay bounded
    for _ in range(100):
        step = _newton_step(y, centred, np.ones((1, len(y))), *line)[0]
        line = line + step
        if np.abs(step).max() < 1e-10:
            return np.array([line[0] - line[1] * logit.mean() / scale, line[1] / scale])
    return None


def mae(y: np.ndarray, yhat: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean absolute error, in the target's unit."""
    return _weighted_mean(np.abs(yhat - y), weight)


def r2(y: np.ndarray, yhat: np.ndarray, weight: np.ndarray, train_mean: np.ndarray) -> np.ndarray:
    """``1 - squared error / squared error of the training side's mean``."""
    return 1 - _divide(_weighted_mean((yhat - y) ** 2, weight), _weighted_mean((y - train_mean) ** 2, weight))


def _moments(y: np.ndarray, yhat: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weighted variance of y, of yhat, and their covariance; centred first, so that nothing cancels."""
    y = y - y.mean(axis=1, keepdims=True)
    yhat = yhat - yhat.mean(axis=1, keepdims=True)
    mean_y, mean_yhat = _weighted_mean(y, weight), _weighted_mean(yhat, weight)
    var_y = _weighted_mean(y**2, weight) - mean_y**2
    var_yhat = _weighted_mean(yhat**2, weight) - mean_yhat**2
    return var_y, var_yhat, _weighted_mean(y * yhat, weight) - mean_y * mean_yhat


def pearson_r(y: np.ndarray, yhat: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Pearson's correlation; NaN where the prediction does not vary."""
    var_y, var_yhat, covariance = _moments(y, yhat, weight)
    flat = np.maximum(var_yhat, 0) <= 1e-20 * np.maximum(var_y, 1e-300)
    return np.where(flat, np.nan, _divide(covariance, np.sqrt(np.maximum(var_y, 0) * np.maximum(var_yhat, 0))))


def age_bias_slope(y: np.ndarray, yhat: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Slope of ``yhat - y`` on ``y``: 0 without bias, -1 for a constant prediction (the age bias of brain age)."""
    var_y, _, covariance = _moments(y, yhat, weight)
    return _divide(covariance, var_y) - 1


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
    """Share of clips whose label is told, from confusion matrices (draws, n_labels, n_labels)."""
    return _divide(np.trace(cells, axis1=1, axis2=2), cells.sum(axis=(1, 2)))


def mean_recall(cells: np.ndarray) -> np.ndarray:
    """Balanced accuracy: the mean over labels that occur of the share of their clips that is told."""
    return _mean_known(_divide(np.diagonal(cells, axis1=1, axis2=2), cells.sum(axis=2)))


def macro_f1(cells: np.ndarray) -> np.ndarray:
    """Mean over labels that occur, or are predicted, of the harmonic mean of precision and recall."""
    hits = np.diagonal(cells, axis1=1, axis2=2)
    return _mean_known(_divide(2 * hits, cells.sum(axis=1) + cells.sum(axis=2)))


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean of each row (draws, n) over its known values."""
    known = np.isfinite(values)
    return _divide(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))


def _of_confusion(score: Callable[[np.ndarray], np.ndarray]) -> Metric:
    """Return the metric that a function of confusion matrices makes."""
    return Metric(lambda s, w: score(confusion(s.y, s.prediction, w)), bounds=UNIT)


PRIMARY = {"binary": "auroc", "regression": "mae", "decoding": "balanced_accuracy"}
METRICS: dict[str, dict[str, Metric]] = {
    "binary": {
        "auroc": Metric(lambda s, w: auroc(s.y, s.prediction, w), stratified=True, bounds=UNIT),
        "auprc": Metric(lambda s, w: auprc(s.y, s.prediction, w), stratified=True, bounds=UNIT),
        "balanced_accuracy": Metric(
            lambda s, w: balanced_accuracy(s.y, s.prediction, w), stratified=True, thresholded=True, bounds=UNIT
        ),
        "mcc": Metric(lambda s, w: mcc(s.y, s.prediction, w), thresholded=True, bounds=SIGNED),
        "brier": Metric(lambda s, w: brier(s.y, s.prediction, w), better=-1, probability=True, bounds=UNIT),
        "brier_skill": Metric(lambda s, w: brier_skill(s.y, s.prediction, w), probability=True, bounds=(-np.inf, 1.0)),
        "ece": Metric(lambda s, w: ece(s.y, s.prediction, w), better=-1, probability=True, null=False, bounds=UNIT),
        "calibration_slope": Metric(
            lambda s, w: calibration_line(s.y, s.logit, w)[0], better=0, probability=True, null=False
        ),
        "calibration_intercept": Metric(
            lambda s, w: calibration_line(s.y, s.logit, w)[1], better=0, probability=True, null=False
        ),
    },
    "regression": {
        "mae": Metric(lambda s, w: mae(s.y, s.prediction, w), better=-1, bounds=(0.0, np.inf)),
        "r2": Metric(lambda s, w: r2(s.y, s.prediction, w, s.train_mean), bounds=(-np.inf, 1.0)),
        "pearson_r": Metric(lambda s, w: pearson_r(s.y, s.prediction, w), bounds=SIGNED),
        "age_bias_slope": Metric(lambda s, w: age_bias_slope(s.y, s.prediction, w), better=0, null=False),
    },
    "decoding": {
        "balanced_accuracy": _of_confusion(mean_recall),
        "accuracy": _of_confusion(accuracy),
        "macro_f1": _of_confusion(macro_f1),
    },
}

"""Metrics for many label vectors or many person weights at once.

Every function takes ``y``, ``prediction`` and ``weight`` as arrays ``(draws or 1, n)`` that broadcast
against each other, and returns one value per draw: permuted labels and their predictions for a null,
or weights that count how often each person was drawn for a bootstrap. Where a value is not defined
(one class only, no variance) it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from neuropipe.evaluate import label_metrics
from neuropipe.evaluate.calibration import calibration_line
from neuropipe.evaluate.weighted import N_BINS, divide, mass_bins, weighted_mean

THRESHOLD = 0.5
UNIT, SIGNED = (0.0, 1.0), (-1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Scored:
    """Labels and predictions of one test set, as rows that broadcast; columns are people, or clips.

    Attributes
    ----------
    y : ndarray (draws or 1, n)
        0 or 1, or numbers; of several classes and of clips, places of labels.
    prediction : ndarray (draws or 1, n)
        Scores (larger is more positive), predicted numbers, or places of predicted labels.
    logit : ndarray (1, n) or None
        Log odds, calibrated where validation people allow it; None where the scores are no probabilities.
    train_mean : ndarray (1, n)
        Mean of the target over each row's training side.
    probability : ndarray (draws or 1, n) or (n_labels, n) or None
        Of the positive class, by `logit`; or of every label.
    called : ndarray of bool (draws or 1, n) or None
        Binary: who is called positive; None for a `prediction` of at least `THRESHOLD`.
    raw : ndarray (draws or 1, n) or None
        Probabilities before calibration, where they were calibrated.
    """

    y: np.ndarray
    prediction: np.ndarray
    logit: np.ndarray | None
    train_mean: np.ndarray
    probability: np.ndarray | None = None
    called: np.ndarray | None = None
    raw: np.ndarray | None = None

    @property
    def calls(self) -> np.ndarray:
        """1 for those who are called positive, else 0."""
        return (self.prediction >= THRESHOLD if self.called is None else self.called).astype(float)

    def take(self, columns: np.ndarray | slice) -> Scored:
        """Return some people."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Scored(**{name: None if part is None else part[:, columns] for name, part in parts.items()})

    def allows(self, metric: Metric) -> bool:
        """Return whether a metric can be computed from what is known."""
        needed = getattr(self, metric.needs) if metric.needs else self.y
        return needed is not None and (metric.k == 0 or metric.k < len(needed))


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
    needs : str
        The attribute of `Scored` without which it cannot be computed.
    null : bool
        Has a permutation null.
    thresholded : bool
        Of who is called positive.
    k : int
        It says something of more than `k` labels only.
    bounds : tuple of float
        Least and greatest value that the metric can take.
    """

    compute: Callable[[Scored, np.ndarray], np.ndarray]
    better: int = 1
    stratified: bool = False
    needs: str = ""
    null: bool = True
    thresholded: bool = False
    k: int = 0
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


def auroc(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Area under the receiver operating characteristic; ties count half."""
    score, y, weight = _ordered(score, y, weight)
    positive, negative = weight * y, weight * (1 - y)
    below = np.cumsum(negative, axis=1)
    first, last = _run_bounds(score)
    # Negatives strictly below plus half of those at the same score, for every positive.
    upto = np.concatenate([np.zeros((len(below), 1)), below], axis=1)
    middle = (_at(upto, first) + _at(upto, last + 1)) / 2
    return divide((positive * middle).sum(axis=1), positive.sum(axis=1) * below[:, -1])


def auprc(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Average precision: the mean precision at the positives' scores, equal scores taken together."""
    score, y, weight = _ordered(-score, y, weight)
    positive = weight * y
    _, last = _run_bounds(score)
    found = np.cumsum(positive, axis=1)
    precision = divide(found, np.cumsum(np.broadcast_to(weight, positive.shape), axis=1))
    return divide(np.nansum(positive * _at(precision, last), axis=1), found[:, -1])


def _confusion(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return weighted true positives, false negatives, false positives and true negatives."""
    called = score >= THRESHOLD
    cells = (y * called, y * ~called, (1 - y) * called, (1 - y) * ~called)
    return tuple((weight * cell).sum(axis=1, dtype=float) for cell in cells)


def balanced_accuracy(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean of sensitivity and specificity at the threshold."""
    tp, fn, fp, tn = _confusion(y, score, weight)
    return (divide(tp, tp + fn) + divide(tn, tn + fp)) / 2


def mcc(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Matthews' correlation coefficient at the threshold; 0 where everyone is called the same."""
    tp, fn, fp, tn = _confusion(y, score, weight)
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.nan_to_num(divide(tp * tn - fp * fn, root))


def brier(y: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean squared difference of probability and outcome."""
    return weighted_mean((probability - y) ** 2, weight)


def brier_skill(y: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``1 - Brier / Brier of the test set's prevalence``."""
    prevalence = weighted_mean(y, weight)
    return 1 - divide(brier(y, probability, weight), prevalence * (1 - prevalence))


def ece(y: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Expected calibration error of the positive class: probability against frequency in bins of equal mass.

    Equal probabilities share a bin. The bins are those of the unweighted sample.
    """
    bins = mass_bins(probability)
    if len(probability) == len(y) == 1:
        gap = np.where(bins[0][:, None] == np.arange(N_BINS), (y - probability)[0][:, None], 0)  # (n, bin)
        return divide(np.abs(weight @ gap).sum(axis=1), weight.sum(axis=1))
    gap = weight * (y - probability)
    total = sum(np.abs(np.where(bins == b, gap, 0).sum(axis=1)) for b in range(N_BINS))
    return divide(total, np.broadcast_to(weight, gap.shape).sum(axis=1))


def mae(y: np.ndarray, yhat: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean absolute error, in the target's unit."""
    return weighted_mean(np.abs(yhat - y), weight)


def r2(y: np.ndarray, yhat: np.ndarray, weight: np.ndarray, train_mean: np.ndarray) -> np.ndarray:
    """``1 - squared error / squared error of the training side's mean``."""
    return 1 - divide(weighted_mean((yhat - y) ** 2, weight), weighted_mean((y - train_mean) ** 2, weight))


def _moments(y: np.ndarray, yhat: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weighted variance of y, of yhat, and their covariance; centred first, so that nothing cancels."""
    y = y - y.mean(axis=1, keepdims=True)
    yhat = yhat - yhat.mean(axis=1, keepdims=True)
    mean_y, mean_yhat = weighted_mean(y, weight), weighted_mean(yhat, weight)
    var_y = weighted_mean(y**2, weight) - mean_y**2
    var_yhat = weighted_mean(yhat**2, weight) - mean_yhat**2
    return var_y, var_yhat, weighted_mean(y * yhat, weight) - mean_y * mean_yhat


def pearson_r(y: np.ndarray, yhat: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Pearson's correlation; NaN where the prediction does not vary."""
    var_y, var_yhat, covariance = _moments(y, yhat, weight)
    flat = np.maximum(var_yhat, 0) <= 1e-20 * np.maximum(var_y, 1e-300)
    return np.where(flat, np.nan, divide(covariance, np.sqrt(np.maximum(var_y, 0) * np.maximum(var_yhat, 0))))


def age_bias_slope(y: np.ndarray, yhat: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Slope of ``yhat - y`` on ``y``: 0 without bias, -1 for a constant prediction (the age bias of brain age)."""
    var_y, _, covariance = _moments(y, yhat, weight)
    return divide(covariance, var_y) - 1


def _of_confusion(score: Callable[[np.ndarray], np.ndarray], stratified: bool = False) -> Metric:
    """Return the metric that a function of confusion matrices makes."""

    def compute(s: Scored, weight: np.ndarray) -> np.ndarray:
        return score(label_metrics.confusion(s.y, s.prediction, weight))

    return Metric(compute, stratified=stratified, bounds=UNIT)


def _of_shares(compute: Callable[..., np.ndarray], better: int, bounds: tuple[float, float], k: int = 0) -> Metric:
    """Return the metric that a function of the probabilities of all labels makes; shuffled labels have none."""
    given = {"k": k} if k else {}
    return Metric(
        lambda s, w: compute(s.y, s.probability, w, **given),
        better=better,
        needs="probability",
        null=False,
        k=k,
        bounds=bounds,
    )


PRIMARY = {
    "binary": "auroc",
    "multiclass": "balanced_accuracy",
    "regression": "mae",
    "decoding": "balanced_accuracy",
}
SHARES = {
    "top2_accuracy": _of_shares(label_metrics.top_k, 1, UNIT, k=2),
    "top3_accuracy": _of_shares(label_metrics.top_k, 1, UNIT, k=3),
    "brier": _of_shares(label_metrics.brier, -1, (0.0, 2.0)),
    "ece": _of_shares(label_metrics.ece, -1, UNIT),
}
METRICS: dict[str, dict[str, Metric]] = {
    "binary": {
        "auroc": Metric(lambda s, w: auroc(s.y, s.prediction, w), stratified=True, bounds=UNIT),
        "auprc": Metric(lambda s, w: auprc(s.y, s.prediction, w), stratified=True, bounds=UNIT),
        "balanced_accuracy": Metric(
            lambda s, w: balanced_accuracy(s.y, s.calls, w), stratified=True, thresholded=True, bounds=UNIT
        ),
        "mcc": Metric(lambda s, w: mcc(s.y, s.calls, w), thresholded=True, bounds=SIGNED),
        "brier": Metric(lambda s, w: brier(s.y, s.probability, w), better=-1, needs="probability", bounds=UNIT),
        "brier_skill": Metric(
            lambda s, w: brier_skill(s.y, s.probability, w), needs="probability", bounds=(-np.inf, 1.0)
        ),
        "ece": Metric(lambda s, w: ece(s.y, s.probability, w), better=-1, needs="probability", null=False, bounds=UNIT),
        "calibration_slope": Metric(
            lambda s, w: calibration_line(s.y, s.logit, w)[0], better=0, needs="logit", null=False
        ),
        "calibration_intercept": Metric(
            lambda s, w: calibration_line(s.y, s.logit, w)[1], better=0, needs="logit", null=False
        ),
        "brier_uncalibrated": Metric(lambda s, w: brier(s.y, s.raw, w), better=-1, needs="raw", bounds=UNIT),
        "ece_uncalibrated": Metric(lambda s, w: ece(s.y, s.raw, w), better=-1, needs="raw", null=False, bounds=UNIT),
    },
    "multiclass": {
        "balanced_accuracy": _of_confusion(label_metrics.mean_recall, stratified=True),
        "accuracy": _of_confusion(label_metrics.accuracy),
        "macro_f1": _of_confusion(label_metrics.macro_f1),
        **SHARES,
    },
    "regression": {
        "mae": Metric(lambda s, w: mae(s.y, s.prediction, w), better=-1, bounds=(0.0, np.inf)),
        "r2": Metric(lambda s, w: r2(s.y, s.prediction, w, s.train_mean), bounds=(-np.inf, 1.0)),
        "pearson_r": Metric(lambda s, w: pearson_r(s.y, s.prediction, w), bounds=SIGNED),
        "age_bias_slope": Metric(lambda s, w: age_bias_slope(s.y, s.prediction, w), better=0, null=False),
    },
    "decoding": {
        "balanced_accuracy": _of_confusion(label_metrics.mean_recall),
        "accuracy": _of_confusion(label_metrics.accuracy),
        "macro_f1": _of_confusion(label_metrics.macro_f1),
        **SHARES,
    },
}
CALIBRATED = ("brier", "brier_skill", "ece", "calibration_slope", "calibration_intercept")  # of binary targets

"""Turning log odds into probabilities that come true, and scores into decisions, by what validation people show."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from neuropipe.evaluate.weighted import divide

MAX_TEMPERATURE = 100.0  # of outputs that say nothing, or the opposite, about validation people
MIN_PER_CLASS = 10  # fewer validation people of a class settle neither a temperature nor a threshold
FIXED, VALIDATION = "fixed", "validation"  # where a threshold comes from


@dataclass(frozen=True)
class Decision:
    """How one fold's scores of a binary target are read.

    Attributes
    ----------
    temperature, bias : float
        ``logit / temperature + bias`` are log odds; NaN where nothing was calibrated.
    threshold : float
        Least calibrated probability (or score, where there is none) that counts as positive.
    source : str
        `FIXED` or `VALIDATION`.
    """

    temperature: float = np.nan
    bias: float = np.nan
    threshold: float = 0.5
    source: str = FIXED

    @property
    def calibrates(self) -> bool:
        """Whether log odds are changed."""
        return bool(np.isfinite(self.temperature))

    def log_odds(self, logit: np.ndarray) -> np.ndarray:
        """Return calibrated log odds."""
        return logit / self.temperature + self.bias if self.calibrates else logit


def decide(y: np.ndarray, score: np.ndarray, logit: np.ndarray | None) -> Decision:
    """Return what validation people settle: temperature and bias of log odds, and the threshold.

    With fewer than `MIN_PER_CLASS` people of a class, or scores that do not vary, everything stays as it is.

    Parameters
    ----------
    y, score : ndarray (n,)
        0 or 1, and what they were given.
    logit : ndarray (n,) or None
        Log odds, where scores are probabilities.
    """
    if min(y.sum(), (1 - y).sum()) < MIN_PER_CLASS or not np.ptp(score):
        return Decision()
    if logit is None:
        return Decision(threshold=best_threshold(y, score), source=VALIDATION)
    fitted = Decision(**fit(logit, y))
    return replace(fitted, threshold=best_threshold(y, expit(fitted.log_odds(logit))), source=VALIDATION)


def best_threshold(y: np.ndarray, score: np.ndarray) -> float:
    """Return the threshold of the greatest balanced accuracy, that is, of the greatest Youden's J (Youden 1950).

    It lies halfway between two neighbouring scores; of equally good ones it is the nearest to one half.
    """
    distinct, place = np.unique(score, return_inverse=True)
    positive, negative = (np.bincount(place, part, len(distinct)) for part in (y, 1 - y))
    # Youden's J of calling everyone above the k-th distinct score: sensitivity - (1 - specificity).
    above = [part.sum() - np.cumsum(part)[:-1] for part in (positive, negative)]
    youden = above[0] / y.sum() - above[1] / (1 - y).sum()
    middle = (distinct[:-1] + distinct[1:]) / 2
    best = np.flatnonzero(np.isclose(youden, youden.max(), atol=1e-12))
    return float(middle[best[np.argmin(np.abs(middle[best] - 0.5))]])


def fit(logit: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return the ``temperature`` and ``bias`` with which ``logit / temperature + bias`` are log odds.

    They minimise the cross-entropy of Platt's softened labels (Platt 1999), which is convex in the inverse
    temperature and the bias and has its minimum at finite values where logits separate the classes. The
    temperature is positive: a calibration never turns the order of people round.

    Parameters
    ----------
    logit : ndarray (n,)
        One per person.
    y : ndarray (n,)
        0 or 1.
    """
    logit, y = np.asarray(logit, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n_positive, n_negative = y.sum(), (1 - y).sum()
    soft = np.where(y > 0.5, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    scale = max(float(np.abs(logit).max(initial=0)), 1e-12)
    x = logit / scale  # so that the problem has one size, whatever the outputs'

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] * x + parameters[1]
        error = expit(z) - soft
        return float((np.logaddexp(0, z) - soft * z).sum()), np.array([error @ x, error.sum()])

    start = np.array([scale, np.log((n_positive + 1) / (n_negative + 1))])
    bounds = [(scale / MAX_TEMPERATURE, None), (None, None)]
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9})
    return {"temperature": float(scale / found.x[0]), "bias": float(found.x[1])}


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
    first = divide(h2 * gradient[:, 0] - h1 * gradient[:, 1], determinant)
    return np.stack([first, divide(h0 * gradient[:, 1] - h1 * gradient[:, 0], determinant)], axis=1)


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

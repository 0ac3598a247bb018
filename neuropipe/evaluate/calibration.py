"""Turning log odds into probabilities that come true: one temperature and one bias, fitted on validation people."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

MAX_TEMPERATURE = 100.0  # of outputs that say nothing, or the opposite, about validation people


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

"""Ridge and logistic regression for many strengths and many label vectors at once.

Both are fitted on coordinates (`features.Features.coordinates`) that are decomposed once; every
strength and every column of labels (the real one and its permutations) then costs two products. So the
null repeats the whole procedure, choice of strength included, for little more than one fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

STRENGTHS = tuple(float(s) for s in 10.0 ** np.arange(-5, 1))
MAX_ITERATIONS = 2000
TOLERANCE = 1e-6


class Readout(Protocol):
    """A penalised linear model, fitted for many strengths and label columns."""

    def fit_predict(self, train: np.ndarray, y: np.ndarray, other: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        """Return predictions (n_strengths, n_other, n_columns)."""

    def loss(self, y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Return the summed loss (n_strengths, n_columns) of predictions (n_strengths, n, n_columns)."""


@dataclass(frozen=True)
class Decomposition:
    """The singular value decomposition of centred training coordinates: ``train = u * sqrt(values) @ v.T``.

    Attributes
    ----------
    u : ndarray of shape (n_train, r)
        Left singular vectors.
    values : ndarray of shape (r,)
        Squared singular values.
    other : ndarray of shape (n_other, r)
        Other rows, in the same basis: ``(other - centre) @ v``.
    """

    u: np.ndarray
    values: np.ndarray
    other: np.ndarray


def decompose(train: np.ndarray, other: np.ndarray) -> Decomposition:
    """Decompose training rows (n_train, p) by the smaller of their two Gram matrices; `other` is (n_other, p)."""
    centre = train.mean(axis=0)
    centred, moved = train - centre, other - centre
    n, p = centred.shape
    if n <= p:
        values, vectors = np.linalg.eigh(centred @ centred.T)
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred)
    kept = values > max(values[-1], 0) * max(n, p) * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    roots = np.sqrt(values)
    if n <= p:
        return Decomposition(vectors, values, moved @ (centred.T @ (vectors / roots)))
    return Decomposition(centred @ (vectors / roots), values, moved @ vectors)


class Ridge:
    """Least squares with an L2 penalty on the weights, not on the intercept: ``|y - Xw - b|^2 + strength |w|^2``."""

    def fit_predict(self, train: np.ndarray, y: np.ndarray, other: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        """Return predictions (n_strengths, n_other, n_columns); `y` is (n_train, n_columns)."""
        parts = decompose(train, other)
        mean = y.mean(axis=0)
        roots = np.sqrt(parts.values)
        scores = parts.u.T @ (y - mean)
        return np.stack([parts.other @ (scores * (roots / (parts.values + s))[:, None]) + mean for s in strengths])

    def loss(self, y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Return summed squared errors."""
        return ((prediction - y) ** 2).sum(axis=1)


class Logistic:
    """Logistic regression, ``sum log(1 + exp(-+(Xw + b))) + strength / 2 |w|^2``; predictions are logits.

    Minimised for all label columns together with steps by the upper bound ``X'X / 4 + strength`` of the
    Hessian, which is diagonal in the basis of the decomposition (Böhning & Lindsay 1988), accelerated
    by Nesterov's momentum with a restart per column; each strength starts from the stronger one.
    """

    def fit_predict(self, train: np.ndarray, y: np.ndarray, other: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        """Return logits (n_strengths, n_other, n_columns); `y` (n_train, n_columns) holds 0 and 1."""
        parts = decompose(train, other)
        ones = np.full((len(train), 1), 1 / np.sqrt(len(train)))
        design = np.concatenate([ones, parts.u], axis=1)  # orthonormal columns
        far = np.concatenate(
            [np.full((len(other), 1), 1 / np.sqrt(len(train))), parts.other / np.sqrt(parts.values)], 1
        )
        # In this basis the weight of column j is c_j = sqrt(values_j) w_j, so its penalty is strength / values_j.
        inverse = np.concatenate([[0.0], 1 / parts.values])
        start = np.zeros((design.shape[1], y.shape[1]))
        logits = np.empty((len(strengths), len(other), y.shape[1]))
        for i in np.argsort(strengths)[::-1]:
            start = _minimise(design, y, strengths[i] * inverse, start)
            logits[i] = far @ start
        return logits

    def loss(self, y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Return summed negative log-likelihoods."""
        return (np.logaddexp(0, prediction) - y * prediction).sum(axis=1)


def _minimise(design: np.ndarray, y: np.ndarray, penalty: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the minimising weights (r, n_columns) for an orthonormal `design` and a diagonal `penalty` (r,)."""
    weights = start.copy()
    step = 1 / (0.25 + penalty)[:, None]
    active = np.arange(y.shape[1])
    now, before, momentum = weights[:, active], weights[:, active], np.ones(len(active))
    for _ in range(MAX_ITERATIONS):
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = now + ((momentum - 1) / following) * (now - before)
        probability = 1 / (1 + np.exp(-(design @ ahead)))
        gradient = design.T @ (probability - y[:, active]) + penalty[:, None] * ahead
        before, now = now, ahead - step * gradient
        uphill = (gradient * (now - before)).sum(axis=0) > 0
        momentum = np.where(uphill, 1.0, following)
        settled = np.abs(step * gradient).max(axis=0) < TOLERANCE * np.maximum(1, np.abs(now).max(axis=0))
        if settled.any():
            weights[:, active[settled]] = now[:, settled]
            left = ~settled
            active, now, before, momentum = active[left], now[:, left], before[:, left], momentum[left]
            if not len(active):
                return weights
    weights[:, active] = now
    return weights


@dataclass(frozen=True)
class Nested:
    """What a nested readout gives on one fold.

    Attributes
    ----------
    prediction : ndarray of shape (n_other, n_columns)
        Each label column's prediction at its own chosen strength.
    chosen : int ndarray of shape (n_columns,)
        Position of the chosen strength.
    inner_loss : ndarray of shape (n_strengths, n_columns)
        Mean loss over the inner test sides.
    """

    prediction: np.ndarray
    chosen: np.ndarray
    inner_loss: np.ndarray


def nested(
    readout: Readout,
    train: np.ndarray,
    y: np.ndarray,
    other: np.ndarray,
    inner: np.ndarray,
    strengths: tuple[float, ...] = STRENGTHS,
) -> Nested:
    """Choose the strength by cross-validation inside the training side, then fit all of it.

    Parameters
    ----------
    readout : Readout
        `Ridge()` or `Logistic()`.
    train : ndarray of shape (n_train, r)
        Coordinates of the training side.
    y : ndarray of shape (n_train, n_columns)
        Label columns; each chooses for itself.
    other : ndarray of shape (n_other, r)
        Rows to predict.
    inner : int ndarray of shape (n_train,)
        Inner fold of every training person.
    strengths : tuple of float
        Penalties per training person, for rows of mean squared length 1 (see `Features.coordinates`).
    """
    grid = np.asarray(strengths)
    total = np.zeros((len(grid), y.shape[1]))
    for fold in np.unique(inner):
        held = inner == fold
        prediction = readout.fit_predict(train[~held], y[~held], train[held], grid * (~held).sum())
        total += readout.loss(y[held], prediction)
    # The strongest of equally good ones, so that a label without signal is predicted by its mean.
    chosen = len(grid) - 1 - np.argmin(total[::-1], axis=0)
    final = readout.fit_predict(train, y, other, grid * len(train))
    return Nested(np.take_along_axis(final, chosen[None, None, :], axis=0)[0], chosen, total / len(train))

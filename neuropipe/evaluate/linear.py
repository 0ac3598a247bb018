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


class Path(Protocol):
    """A penalised linear model on one training side, asked strength by strength, the strongest first."""

    def __init__(self, train: np.ndarray, y: np.ndarray, other: np.ndarray) -> None:
        """Take training rows (n_train, r), label columns (n_train, n_columns) and rows to predict (n_other, r)."""

    def predict(self, columns: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        """Return predictions (n_other, len(columns)) of label columns, each at its own strength."""

    @staticmethod
    def loss(y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Return the summed loss (n_columns,) of predictions (n, n_columns)."""


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

    def __init__(self, train: np.ndarray, y: np.ndarray, other: np.ndarray) -> None:
        parts = decompose(train, other)
        self._values, self._other = parts.values, parts.other
        self._mean = y.mean(axis=0)
        self._scores = np.sqrt(parts.values)[:, None] * (parts.u.T @ (y - self._mean))

    def predict(self, columns: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        """Return predictions (n_other, len(columns)), in closed form."""
        weights = self._scores[:, columns] / (self._values[:, None] + strengths)
        return self._other @ weights + self._mean[columns]

    @staticmethod
    def loss(y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Return summed squared errors."""
        return ((prediction - y) ** 2).sum(axis=0)


class Logistic:
    """Logistic regression, ``sum log(1 + exp(-+(Xw + b))) + strength / 2 |w|^2``; predictions are logits.

    Minimised for all label columns together with steps by the upper bound ``X'X / 4 + strength`` of the
    Hessian, which is diagonal in the basis of the decomposition (Böhning & Lindsay 1988), accelerated
    by Nesterov's momentum with a restart per column; each strength starts from the last one.
    """

    def __init__(self, train: np.ndarray, y: np.ndarray, other: np.ndarray) -> None:
        parts = decompose(train, other)
        constant = 1 / np.sqrt(len(train))
        self._design = np.concatenate([np.full((len(train), 1), constant), parts.u], axis=1)  # orthonormal columns
        scaled = parts.other / np.sqrt(parts.values)
        self._other = np.concatenate([np.full((len(other), 1), constant), scaled], axis=1)
        # The weight of column j is here sqrt(values_j) w_j, so its penalty is strength / values_j.
        self._inverse = np.concatenate([[0.0], 1 / parts.values])
        self._y = y
        self._weights = np.zeros((self._design.shape[1], y.shape[1]))

    def predict(self, columns: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        """Return logits (n_other, len(columns)); later calls start from the weights of earlier ones."""
        penalty = self._inverse[:, None] * strengths
        weights = _minimise(self._design, self._y[:, columns], penalty, self._weights[:, columns])
        self._weights[:, columns] = weights
        return self._other @ weights

    @staticmethod
    def loss(y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Return summed negative log-likelihoods."""
        return (np.logaddexp(0, prediction) - y * prediction).sum(axis=0)


def _minimise(design: np.ndarray, y: np.ndarray, penalty: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the minimising weights (r, n_columns).

    Parameters
    ----------
    design : ndarray (n, r)
        Orthonormal columns.
    y : ndarray (n, n_columns)
        0 or 1.
    penalty : ndarray (r, n_columns)
        Diagonal of the penalty's quadratic form.
    start : ndarray (r, n_columns)
        Where to begin.
    """
    weights = start.copy()
    step = 1 / (0.25 + penalty)
    active = np.arange(y.shape[1])
    now = before = start
    momentum = np.ones(len(active))
    for _ in range(MAX_ITERATIONS):
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = now + ((momentum - 1) / following) * (now - before)
        probability = 1 / (1 + np.exp(-(design @ ahead)))
        move = step * (design.T @ (probability - y) + penalty * ahead)
        before, now = now, ahead - move
        uphill = (move / step * (now - before)).sum(axis=0) > 0
        momentum = np.where(uphill, 1.0, following)
        settled = np.abs(move).max(axis=0) < TOLERANCE * np.maximum(1, np.abs(now).max(axis=0))
        if settled.any():
            weights[:, active[settled]] = now[:, settled]
            left = ~settled
            if not left.any():
                return weights
            active, momentum = active[left], momentum[left]
            now, before, y, penalty, step = (part[:, left] for part in (now, before, y, penalty, step))
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
        Mean loss over the inner test sides; NaN where a column's path had ended before.
    """

    prediction: np.ndarray
    chosen: np.ndarray
    inner_loss: np.ndarray


def nested(
    model: type[Path],
    train: np.ndarray,
    y: np.ndarray,
    other: np.ndarray,
    inner: np.ndarray,
    strengths: tuple[float, ...] = STRENGTHS,
) -> Nested:
    """Choose the strength by cross-validation inside the training side, then fit all of it.

    Strengths are tried from the strongest on; a column's path ends when its loss has risen twice in
    a row, so that labels without signal cost little.

    Parameters
    ----------
    model : type
        `Ridge` or `Logistic`.
    train : ndarray of shape (n_train, r)
        Coordinates of the training side.
    y : ndarray of shape (n_train, n_columns)
        Label columns; each chooses for itself.
    other : ndarray of shape (n_other, r)
        Rows to predict.
    inner : int ndarray of shape (n_train,)
        Inner fold of every training person.
    strengths : tuple of float
        Penalties per training person, ascending, for rows of mean squared length 1 (see `Features.coordinates`).
    """
    held = [inner == fold for fold in np.unique(inner)]
    paths = [model(train[~out], y[~out], train[out]) for out in held]
    total = np.full((len(strengths), y.shape[1]), np.nan)
    columns = np.arange(y.shape[1])
    for place in reversed(range(len(strengths))):
        total[place, columns] = 0
        for out, path in zip(held, paths, strict=True):
            prediction = path.predict(columns, np.full(len(columns), strengths[place] * (~out).sum()))
            total[place, columns] += model.loss(y[np.ix_(out, columns)], prediction)
        if place + 2 < len(strengths):
            risen = (total[place] > total[place + 1]) & (total[place + 1] > total[place + 2])
            columns = columns[~risen[columns]]
        if not len(columns):
            break
    # The strongest of equally good ones, so that a label without signal is predicted by its mean.
    chosen = len(strengths) - 1 - np.nanargmin(total[::-1], axis=0)
    final = model(train, y, other).predict(np.arange(y.shape[1]), np.asarray(strengths)[chosen] * len(train))
    return Nested(final, chosen, total / len(train))

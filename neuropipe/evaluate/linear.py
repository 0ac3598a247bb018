"""Ridge and logistic regression for many strengths and many label vectors at once.

Both are fitted on coordinates (`features.Features.coordinates`) that are decomposed once; every
strength and every column of labels (the real one and its permutations) then costs two products. So the
null repeats the whole procedure, choice of strength included, for little more than one fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import solve
from scipy.special import expit

STRENGTHS = tuple(float(s) for s in 10.0 ** np.arange(-5, 1))
MAX_ITERATIONS = 2000
TOLERANCE = 1e-6
ORTHOGONAL = 1e-10  # least cosine between two columns that are not taken for principal coordinates


class Path(Protocol):
    """A penalised linear model on one training side, asked strength by strength, the strongest first.

    Label columns are (n, n_columns), or (n, n_columns, n_classes) with 1 for the class and 0 for the others;
    predictions are alike.
    """

    def __init__(self, train: np.ndarray, y: np.ndarray, other: np.ndarray) -> None:
        """Take training rows (n_train, r), their label columns and rows to predict (n_other, r)."""

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
    if n > p:
        gram = centred.T @ centred
        values = np.diag(gram).copy()
        if _diagonal(gram):  # principal coordinates: nothing is left to turn
            kept = values > values.max(initial=0) * n * np.finfo(np.float64).eps
            return Decomposition(centred[:, kept] / np.sqrt(values[kept]), values[kept], moved[:, kept])
        values, vectors = np.linalg.eigh(gram)
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T)
    kept = values > max(values[-1], 0) * max(n, p) * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    roots = np.sqrt(values)
    if n <= p:
        return Decomposition(vectors, values, moved @ (centred.T @ (vectors / roots)))
    return Decomposition(centred @ (vectors / roots), values, moved @ vectors)


def _diagonal(gram: np.ndarray) -> bool:
    """Return whether the columns behind a Gram matrix (p, p) are orthogonal."""
    off = np.abs(gram)
    np.fill_diagonal(off, 0)
    size = np.sqrt(np.diag(gram))
    return bool((off <= ORTHOGONAL * np.maximum(np.outer(size, size), size.max(initial=0) ** 2 * 1e-6)).all())


class Ridge:
    """Least squares with an L2 penalty on the weights, not on the intercept: ``|y - Xw - b|^2 + strength |w|^2``."""

    def __init__(self, train: np.ndarray, y: np.ndarray, other: np.ndarray) -> None:
        parts = decompose(train, other)
        self._values, self._other = parts.values, parts.other
        self._mean = y.mean(axis=0)
        self._scores = _times(np.sqrt(parts.values)[:, None] * parts.u.T, y - self._mean)

    def predict(self, columns: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        """Return predictions (n_other, len(columns)), in closed form."""
        scores = self._scores[:, columns]
        shrunk = (self._values[:, None] + strengths).reshape(scores.shape[:2] + (1,) * (scores.ndim - 2))
        weights = scores / shrunk
        return _times(self._other, weights) + self._mean[columns]

    @staticmethod
    def loss(y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Return summed squared errors."""
        return _per_column((prediction - y) ** 2)

    @staticmethod
    def inner_losses(train: np.ndarray, y: np.ndarray, inner: np.ndarray, strengths: tuple[float, ...]) -> np.ndarray:
        """Return summed squared errors (n_strengths, n_columns) of every inner fold, predicted from the others.

        From one decomposition of all rows: what a linear smoother leaves of rows that it was not shown is
        ``(I - H)^-1`` times what it leaves of them when it was, H being their block of the smoother
        (Cook & Weisberg 1982, 2.2). A strength is per row of the inner training side, as in `nested`.
        """
        parts = decompose(train, train[:0])
        mean = y.mean(axis=0)
        scores = parts.u.T @ (y - mean).reshape(len(y), -1)
        total = np.zeros((len(strengths), y.shape[1]))
        for fold in np.unique(inner):
            out = np.flatnonzero(inner == fold)
            u, shown = parts.u[out], (y[out] - mean).reshape(len(out), -1)
            for place, strength in enumerate(strengths):
                kept = u * (parts.values / (parts.values + strength * (len(y) - len(out))))
                smoother = kept @ u.T + 1 / len(y)  # the intercept is not penalised
                left = solve(np.eye(len(out)) - smoother, shown - kept @ scores, assume_a="pos", check_finite=False)
                total[place] += _per_column(left.reshape(len(out), *y.shape[1:]) ** 2)
        return total


class Logistic:
    """Logistic regression, ``sum log(1 + exp(-+(Xw + b))) + strength / 2 |w|^2``; predictions are logits.

    Minimised for all label columns together with steps by the upper bound ``X'X / 4 + strength`` of the
    Hessian, which is diagonal in the basis of the decomposition (Böhning & Lindsay 1988), accelerated
    by Nesterov's momentum with a restart per column; each strength starts from the last one.
    """

    _bound = 0.25  # of the Hessian, in units of X'X

    def __init__(self, train: np.ndarray, y: np.ndarray, other: np.ndarray) -> None:
        parts = decompose(train, other)
        constant = 1 / np.sqrt(len(train))
        self._design = np.concatenate([np.full((len(train), 1), constant), parts.u], axis=1)  # orthonormal columns
        scaled = parts.other / np.sqrt(parts.values)
        self._other = np.concatenate([np.full((len(other), 1), constant), scaled], axis=1)
        # The weight of column j is here sqrt(values_j) w_j, so its penalty is strength / values_j.
        self._inverse = np.concatenate([[0.0], 1 / parts.values])
        self._y = y
        self._weights = np.zeros((self._design.shape[1], *y.shape[1:]))

    def predict(self, columns: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        """Return logits (n_other, len(columns)); later calls start from the weights of earlier ones."""
        penalty = self._inverse[:, None] * strengths
        weights = _minimise(
            self._design, self._y[:, columns], penalty, self._weights[:, columns], self._bound, self._probability
        )
        self._weights[:, columns] = weights
        return _times(self._other, weights)

    @staticmethod
    def _probability(logit: np.ndarray) -> np.ndarray:
        """Return the probabilities of logits, in place."""
        return expit(logit, out=logit)

    @staticmethod
    def loss(y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Return summed negative log-likelihoods."""
        return (np.logaddexp(0, prediction) - y * prediction).sum(axis=0)


def _times(matrix: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the product of a matrix (m, n) with columns (n, n_columns) or (n, n_columns, n_classes)."""
    return (matrix @ columns.reshape(len(columns), math.prod(columns.shape[1:]))).reshape(
        len(matrix), *columns.shape[1:]
    )


def _per_column(values: np.ndarray) -> np.ndarray:
    """Return the sum of values (n, n_columns) or (n, n_columns, n_classes) over all but columns."""
    return values.sum(axis=(0, *range(2, values.ndim)))


def _minimise(
    design: np.ndarray,
    y: np.ndarray,
    penalty: np.ndarray,
    start: np.ndarray,
    bound: float,
    probability: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return the minimising weights, shaped like `start`.

    Parameters
    ----------
    design : ndarray (n, r)
        Orthonormal columns.
    y : ndarray (n, n_columns) or (n, n_columns, n_classes)
        0 or 1.
    penalty : ndarray (r, n_columns)
        Diagonal of the penalty's quadratic form.
    start : ndarray (r, n_columns) or (r, n_columns, n_classes)
        Where to begin.
    bound : float
        Of the Hessian, in units of ``design.T @ design``.
    probability : callable
        Of logits shaped like `y`.
    """
    weights = start.copy()
    penalty = penalty.reshape(*penalty.shape, *(1,) * (y.ndim - 2))
    step = 1 / (bound + penalty)
    active = np.arange(y.shape[1])
    now = before = start
    momentum = np.ones(len(active))
    for _ in range(MAX_ITERATIONS):
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        pace = ((momentum - 1) / following).reshape(-1, *(1,) * (y.ndim - 2))
        ahead = now + pace * (now - before)
        residual = probability(_times(design, ahead))
        residual -= y
        slope = _times(design.T, residual) + penalty * ahead
        move = step * slope
        before, now = now, ahead - move
        momentum = np.where(_per_column(slope * (now - before)) > 0, 1.0, following)
        settled = _largest(move) < TOLERANCE * np.maximum(1, _largest(now))
        if settled.any():
            weights[:, active[settled]] = now[:, settled]
            left = ~settled
            if not left.any():
                return weights
            active, momentum = active[left], momentum[left]
            now, before, y, penalty, step = (part[:, left] for part in (now, before, y, penalty, step))
    weights[:, active] = now
    return weights


def _largest(values: np.ndarray) -> np.ndarray:
    """Return the largest size of a value of each column."""
    return np.abs(values).max(axis=(0, *range(2, values.ndim)))


@dataclass(frozen=True)
class Nested:
    """What a nested readout gives on one fold.

    Attributes
    ----------
    prediction : ndarray of shape (n_other, n_columns) or (n_other, n_columns, n_classes)
        Each label column's prediction at its own chosen strength.
    chosen : int ndarray of shape (n_columns,)
        Position of the chosen strength.
    inner_loss : ndarray of shape (n_strengths, n_columns)
        Mean loss over the inner test sides; NaN where a column's path had ended before.
    tried : tuple of dict
        What each row of `inner_loss` stands for: columns of `tables.CHOICES`.
    """

    prediction: np.ndarray
    chosen: np.ndarray
    inner_loss: np.ndarray
    tried: tuple[dict[str, float], ...]


def nested(
    model: type[Path],
    train: np.ndarray,
    y: np.ndarray,
    other: np.ndarray,
    inner: np.ndarray,
    strengths: tuple[float, ...] = STRENGTHS,
    total: np.ndarray | None = None,
) -> Nested:
    """Choose the strength by cross-validation inside the training side, then fit all of it.

    Parameters
    ----------
    model : type
        `Ridge` or `Logistic`.
    train : ndarray of shape (n_train, r)
        Coordinates of the training side.
    y : ndarray of shape (n_train, n_columns) or (n_train, n_columns, n_classes)
        Label columns; each chooses for itself.
    other : ndarray of shape (n_other, r)
        Rows to predict.
    inner : int ndarray of shape (n_train,)
        Inner fold of every training person.
    strengths : tuple of float
        Penalties per training person, ascending, for rows of mean squared length 1 (see `Features.coordinates`).
    total : ndarray of shape (n_strengths, n_columns), optional
        Summed losses over inner folds, where they are known.
    """
    if own := getattr(model, "nested", None):  # what is chosen is no strength
        return own(train, y, other, inner)
    if total is None:
        losses = getattr(model, "inner_losses", None)  # where there is a closed form
        total = losses(train, y, inner, strengths) if losses else _inner_losses(model, train, y, inner, strengths)
    # The strongest of equally good ones, so that a label without signal is predicted by its mean.
    chosen = len(strengths) - 1 - np.nanargmin(total[::-1], axis=0)
    final = model(train, y, other).predict(np.arange(y.shape[1]), np.asarray(strengths)[chosen] * len(train))
    return Nested(final, chosen, total / len(train), tuple({"strength": strength} for strength in strengths))


def _inner_losses(
    model: type[Path], train: np.ndarray, y: np.ndarray, inner: np.ndarray, strengths: tuple[float, ...]
) -> np.ndarray:
    """Return summed losses (n_strengths, n_columns) of every inner fold, predicted by a model of the others.

    Strengths are tried from the strongest on; a column's path ends when its loss has risen twice in
    a row, so that labels without signal cost little.
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
    return total

"""Multinomial logistic regression for many strengths, on coordinates that are decomposed once.

The same minimisation as `linear.Logistic`, for several labels that exclude each other: `Softmax` for many label columns
of people (the real one and its permutations), `Multinomial` for one of clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, softmax

from neuropipe.evaluate.linear import MAX_ITERATIONS, STRENGTHS, TOLERANCE, Logistic, decompose

LEAST_PROBABILITY = 1e-3  # of a label in the loss that chooses a strength: inner training sides may lack one


class Softmax(Logistic):
    """The readout of people by classes: label columns are (n, n_columns, n_classes), predictions are logits.

    Steps are by the upper bound ``X'X / 2 + strength`` of the Hessian (Böhning 1992).
    """

    _bound = 0.5

    @staticmethod
    def _probability(logit: np.ndarray) -> np.ndarray:
        logit -= logit.max(axis=2, keepdims=True)
        np.exp(logit, out=logit)
        logit /= logit.sum(axis=2, keepdims=True)
        return logit

    @staticmethod
    def loss(y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Return summed negative log-likelihoods (n_columns,); nobody's label is less probable than the least."""
        own = (y * log_softmax(prediction, axis=2)).sum(axis=2)
        return -np.maximum(own, np.log(LEAST_PROBABILITY)).sum(axis=0)


class Multinomial:
    """``-sum log softmax(Xw + b)[label] + strength / 2 |w|^2``, asked strength by strength, the strongest first.

    Steps are by the upper bound ``X'X / 2 + strength`` of the Hessian (Böhning 1992), which is diagonal in the basis
    of the decomposition, accelerated by Nesterov's momentum with restarts; each strength starts from the last one.
    A label that no training row has gets the probability 0.

    Parameters
    ----------
    train : ndarray (n_train, r)
    y : int ndarray (n_train,)
        Places of labels, from 0.
    other : ndarray (n_other, r)
        Rows to predict.
    n_labels : int
    """

    def __init__(self, train: np.ndarray, y: np.ndarray, other: np.ndarray, n_labels: int) -> None:
        parts = decompose(train, other)
        constant = 1 / np.sqrt(len(train))
        self._design = np.concatenate([np.full((len(train), 1), constant), parts.u], axis=1)  # orthonormal columns
        scaled = parts.other / np.sqrt(parts.values)
        self._other = np.concatenate([np.full((len(other), 1), constant), scaled], axis=1)
        # The weight of column j is here sqrt(values_j) w_j, so its penalty is strength / values_j.
        self._inverse = np.concatenate([[0.0], 1 / parts.values])[:, None]
        self._labels, place = np.unique(y, return_inverse=True)
        self._onehot = np.eye(len(self._labels))[place]
        self._n_labels = n_labels
        self._weights = np.zeros((self._design.shape[1], len(self._labels)))

    def predict(self, strength: float) -> np.ndarray:
        """Return probabilities (n_other, n_labels)."""
        self._weights = self._minimise(self._inverse * strength)
        probability = np.zeros((len(self._other), self._n_labels))
        probability[:, self._labels] = softmax(self._other @ self._weights, axis=1)
        return probability

    def _minimise(self, penalty: np.ndarray) -> np.ndarray:
        """Return the minimising weights (r, n_labels present); `penalty` (r, 1) is diagonal."""
        now = before = self._weights
        step, momentum = 1 / (0.5 + penalty), 1.0
        for _ in range(MAX_ITERATIONS):
            following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            ahead = now + ((momentum - 1) / following) * (now - before)
            residual = softmax(self._design @ ahead, axis=1) - self._onehot
            move = step * (self._design.T @ residual + penalty * ahead)
            before, now = now, ahead - move
            uphill = (move / step * (now - before)).sum() > 0
            momentum = 1.0 if uphill else following
            if np.abs(move).max() < TOLERANCE * max(1, np.abs(now).max()):
                break
        return now


@dataclass(frozen=True)
class Chosen:
    """Probabilities (n_other, n_labels) at the chosen strength, its place, and the mean inner loss of each strength."""

    probability: np.ndarray
    place: int
    inner_loss: np.ndarray


def nested(
    train: np.ndarray,
    y: np.ndarray,
    other: np.ndarray,
    inner: np.ndarray,
    n_labels: int,
    strengths: tuple[float, ...] = STRENGTHS,
) -> Chosen:
    """Choose the strength by cross-validation inside the training side, then fit all of it.

    As `linear.nested`: strengths are tried from the strongest on, until the loss has risen twice in a row.

    Parameters
    ----------
    train : ndarray (n_train, r)
        Coordinates of the training side's clips.
    y : int ndarray (n_train,)
        Places of their labels.
    other : ndarray (n_other, r)
        Rows to predict.
    inner : int ndarray (n_train,)
        Inner fold of every row.
    n_labels : int
    strengths : tuple of float
        Penalties per training row, ascending, for rows of mean squared length 1 (see `Features.coordinates`).
    """
    held = [inner == fold for fold in np.unique(inner)]
    models = [Multinomial(train[~out], y[~out], train[out], n_labels) for out in held]
    total = np.full(len(strengths), np.nan)
    for place in reversed(range(len(strengths))):
        total[place] = 0
        for out, model in zip(held, models, strict=True):
            probability = model.predict(strengths[place] * (~out).sum())[np.arange(out.sum()), y[out]]
            total[place] -= np.log(np.maximum(probability, LEAST_PROBABILITY)).sum()
        if place + 2 < len(strengths) and total[place] > total[place + 1] > total[place + 2]:
            break
    chosen = len(strengths) - 1 - int(np.nanargmin(total[::-1]))  # the strongest of equally good ones
    final = Multinomial(train, y, other, n_labels).predict(strengths[chosen] * len(train))
    return Chosen(final, chosen, total / len(train))

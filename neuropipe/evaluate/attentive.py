"""Attentive readout: one learned query pools the frozen tokens of a person, and a linear layer reads the pool.

``f = sum_t softmax_t(q x_t) (w x_t) + b``; at ``q = 0`` that is the linear readout of the mean token, where every
fit begins. Both classes keep the contract of `neuropipe.evaluate.linear.Path`, so that strengths are chosen on inner
folds and permuted labels are fitted side by side, as for the linear readouts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from neuropipe.evaluate.linear import Logistic, Path, Ridge

N_STEPS = 80  # of Adam per strength; each strength starts where the one before ended
STEP = 0.15  # its largest step, falling to 0 on half a cosine
N_OWN = 32  # directions in which tokens differ between people
N_WHICH = 16  # directions in which the mean tokens differ from each other
ABSENT = -1e9  # score of a token that a person lacks


@dataclass(frozen=True, eq=False)
class Tokens:
    """Frozen tokens of persons, which become coordinates for a training side like `features.Features`.

    Attributes
    ----------
    values : float ndarray of shape (n_people, n_tokens, dim)
        The same token at the same place in everyone; NaN where a person lacks it.
    """

    values: np.ndarray

    @property
    def n_features(self) -> int:
        """Numbers per person."""
        return self.values.shape[1] * self.values.shape[2]

    def coordinates(self, train: np.ndarray) -> np.ndarray:
        """Return what a person's tokens say, which tokens they are, and which are there.

        Parameters
        ----------
        train : int ndarray
            Rows of the training side; nothing is fitted on others.

        Returns
        -------
        float32 ndarray of shape (n_people, n_tokens, n_own + n_which + 1)
            Principal coordinates of the tokens less the training side's mean of the same token, those of these means,
            both of mean squared length 1, and 1 where the token is there. Who has none is like the mean of all.
        """
        present = np.isfinite(self.values).all(axis=2)
        filled = np.where(present[:, :, None], self.values, 0).astype(np.float32)
        seen = present[train].sum(axis=0)
        mean = filled[train].sum(axis=0) / np.maximum(seen, 1).astype(np.float32)[:, None]  # (token, dim)
        own = np.where(present[:, :, None], filled - mean, 0)
        own = _principal(own, own[train][present[train]], N_OWN)
        which = mean - mean[seen > 0].mean(axis=0) if seen.any() else np.zeros_like(mean)
        which = _principal(which, which[seen > 0], N_WHICH)
        which = np.broadcast_to(which, (*present.shape, which.shape[1]))
        there = present | ~present.any(axis=1, keepdims=True)
        return np.concatenate([own, which, there[:, :, None]], axis=2).astype(np.float32)


def _principal(x: np.ndarray, fitted: np.ndarray, n: int) -> np.ndarray:
    """Return the first `n` principal coordinates (..., n) of `x`, in which `fitted` has mean squared length 1."""
    values, vectors = np.linalg.eigh(fitted.T @ fitted)
    kept = vectors[:, ::-1][:, :n] * (values[::-1][:n] > max(values[-1], 0) * 1e-6)
    size = np.sqrt(np.mean(np.sum((fitted @ kept) ** 2, axis=1))) if len(fitted) else 0
    return x @ kept / size if size > 0 else x @ kept


class _Attentive:
    """Queries, weights and intercepts of many label columns, fitted together by Adam on all training people."""

    def __init__(self, train: np.ndarray, y: np.ndarray, other: np.ndarray) -> None:
        self._train, self._other = _split(train), _split(other)
        self._y = y.astype(np.float32)
        dim = train.shape[2] - 1
        self._weights = np.zeros((2 * dim + 1, y.shape[1]), dtype=np.float32)  # query, weight, intercept

    def predict(self, columns: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        """Return predictions (n_other, len(columns)); later calls start from the weights of earlier ones."""
        start, y = self._weights[:, columns], self._y[:, columns]
        fitted = _fit(*self._train, y, self._mean_gradient, strengths.astype(np.float32) / len(y), start)
        self._weights[:, columns] = fitted
        return _forward(*self._other, fitted)[0].astype(np.float64)

    @staticmethod
    def _mean_gradient(y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Return the derivative of the mean loss with respect to predictions (n, n_columns)."""
        raise NotImplementedError


class AttentiveLogistic(_Attentive):
    """For classes; predictions are logits, the penalty is that of `Logistic` on query and weights."""

    loss = staticmethod(Logistic.loss)

    @staticmethod
    def _mean_gradient(y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        return (expit(prediction) - y) / len(y)


class AttentiveRidge(_Attentive):
    """For numbers, in units of their standard deviation while fitting; the penalty is that of `Ridge`."""

    loss = staticmethod(Ridge.loss)

    def __init__(self, train: np.ndarray, y: np.ndarray, other: np.ndarray) -> None:
        self._mean, self._sd = y.mean(axis=0), y.std(axis=0)
        super().__init__(train, (y - self._mean) / np.where(self._sd > 0, self._sd, 1), other)

    def predict(self, columns: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        """Return predictions (n_other, len(columns)) in the unit of the labels."""
        return super().predict(columns, strengths) * self._sd[columns] + self._mean[columns]

    @staticmethod
    def _mean_gradient(y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        return (prediction - y) / len(y)


READOUT: dict[str, type[Path]] = {"binary": AttentiveLogistic, "regression": AttentiveRidge}


def _split(coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens (n, token, dim), and what is added to their scores (n, token, 1)."""
    return coordinates[:, :, :-1], np.where(coordinates[:, :, -1:] > 0, 0, ABSENT).astype(np.float32)


def _forward(x: np.ndarray, absent: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return predictions (n, n_columns), attention and what each token would say (n, token, n_columns)."""
    dim = x.shape[2]
    attention = x @ weights[:dim]
    attention += absent
    attention -= attention.max(axis=1, keepdims=True)
    np.exp(attention, out=attention)
    attention /= attention.sum(axis=1, keepdims=True)
    said = x @ weights[dim:-1]
    return np.einsum("ntc,ntc->nc", attention, said) + weights[-1], attention, said


def _fit(
    x: np.ndarray, absent: np.ndarray, y: np.ndarray, mean_gradient, penalty: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Return weights (2 * dim + 1, n_columns) after `N_STEPS` steps of Adam from `start`.

    Parameters
    ----------
    penalty : ndarray (n_columns,)
        On the squares of query and weight, per person.
    """
    weights, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    flat = x.reshape(-1, x.shape[2]).T  # (dim, n * token)
    decay = np.repeat([1.0, 1.0, 0.0], [x.shape[2], x.shape[2], 1]).astype(np.float32)[:, None] * penalty
    for step in range(1, N_STEPS + 1):
        prediction, attention, said = _forward(x, absent, weights)
        slope = mean_gradient(y, prediction)
        through = attention * slope[:, None]  # (n, token, column)
        said -= (prediction - weights[-1])[:, None]
        said *= through  # what scores are to do: rise where a token says more of what is wanted than the pool
        columns = y.shape[1]
        gradient = np.concatenate(
            [flat @ said.reshape(-1, columns), flat @ through.reshape(-1, columns), slope.sum(axis=0)[None]]
        )
        gradient += decay * weights
        first += 0.1 * (gradient - first)
        second += 0.01 * (gradient**2 - second)
        size = STEP * (1 + np.cos(np.pi * step / N_STEPS)) / 2
        weights -= size * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
    return weights

"""k nearest neighbours: what the training people who are most alike say, by Euclidean distance of coordinates.

A training side's coordinates keep all distances to its rows up to a number per person that is told, so neighbours are
those of the standardised features themselves. Neighbours do not depend on labels: a null of permuted labels costs one
product. The number of neighbours is chosen on inner folds, for every label column by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from neuropipe.evaluate.linear import Nested

NEIGHBOURS = (1, 3, 5, 9, 15, 25, 41, 65, 101)
TIED = 1e-9  # squared distances that differ by less than this share of the largest are equal


class Means:
    """The mean of the neighbours' numbers, of scikit-learn's `KNeighborsRegressor`; the loss is squared error."""

    @classmethod
    def nested(cls, train: np.ndarray, y: np.ndarray, other: np.ndarray, inner: np.ndarray) -> Nested:
        """Choose the number of neighbours by cross-validation inside the training side, then ask all of it.

        Parameters and result are those of `linear.nested`; among equally good numbers the largest is chosen.
        """
        held = [inner == fold for fold in np.unique(inner)]
        grid = possible(min(int((~out).sum()) for out in held))
        total = np.zeros((len(grid), y.shape[1]))
        for out in held:
            for place, mean in enumerate(means(train[~out], y[~out], train[out], grid)):
                error = (mean - y[out]) ** 2
                total[place] += error.sum(axis=(0, *range(2, y.ndim)))
        # Sums of products may differ in their last digit where losses are equal.
        good = total <= total.min(axis=0) * (1 + 1e-12)
        chosen = len(grid) - 1 - np.argmax(good[::-1], axis=0)
        final = np.empty((len(other), *y.shape[1:]))
        for place, mean in enumerate(means(train, y, other, grid)):
            final[:, chosen == place] = cls._answer(mean, y, grid[place])[:, chosen == place]
        return Nested(final, chosen, total / len(train), tuple({"n_neighbours": k} for k in grid))

    @staticmethod
    def _answer(mean: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
        return mean


class Votes(Means):
    """The share of a class among the neighbours, of `KNeighborsClassifier`, as log odds or log probabilities.

    One more neighbour is added that is as the training side is on average, so that nobody is certain; whom a share
    puts before whom does not change. The loss is Brier's.
    """

    @staticmethod
    def _answer(mean: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
        share = np.clip((k * mean + y.mean(axis=0)) / (k + 1), 1e-9, 1 - 1e-9)
        return np.log(share) - np.log1p(-share) if y.ndim == 2 else np.log(share)


def possible(n_train: int) -> tuple[int, ...]:
    """Return the numbers of neighbours that `n_train` people allow, at most half of them (but one at least)."""
    return tuple(k for k in NEIGHBOURS if k <= max(1, n_train // 2))


def means(train: np.ndarray, y: np.ndarray, other: np.ndarray, grid: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield, for every number of neighbours, their mean labels (n_other, ...).

    People who are equally far share the places that are left, so that no order of people decides.

    Parameters
    ----------
    train : ndarray of shape (n_train, r)
    y : ndarray of shape (n_train, ...)
    other : ndarray of shape (n_other, r)
    grid : tuple of int
        Ascending, the last at most n_train.
    """
    squared = (other**2).sum(axis=1)[:, None] + (train**2).sum(axis=1) - 2 * other @ train.T
    margin = TIED * max(float(np.abs(squared).max(initial=0)), 1e-300)
    ordered = np.sort(squared, axis=1)
    flat = y.reshape(len(y), math.prod(y.shape[1:]))
    for k in grid:
        last = ordered[:, k - 1 : k]
        nearer, tied = squared < last - margin, np.abs(squared - last) <= margin
        left = k - nearer.sum(axis=1, keepdims=True)
        weight = nearer + tied * (left / tied.sum(axis=1, keepdims=True))
        yield ((weight @ flat) / k).reshape(len(other), *y.shape[1:])

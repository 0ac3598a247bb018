"""Ridge and logistic regression of one label on few people, by their inner products: for learning curves.

The readouts of `neuropipe.evaluate.linear` share one decomposition among many label columns. A learning curve fits many
small training sides with one label column each; there a few steps of Newton's method cost less than a decomposition.
Strengths, their choice on inner folds and the predictions are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import lapack
from scipy.special import expit

from neuropipe.evaluate.linear import STRENGTHS, Logistic, Path, Ridge

MAX_ITERATIONS = 50
TOLERANCE = 1e-3  # of the last step in log odds; what is left is of the order of its square
LEAST_WEIGHT = 1e-8  # of people whose outcome is certain: keeps steps finite

State = tuple[np.ndarray, float]  # dual weights (n,), which sum to zero, and intercept


def prediction(model: type[Path], train: np.ndarray, y: np.ndarray, other: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return what `linear.nested` predicts for one label column.

    Parameters
    ----------
    model : type
        `Ridge` or `Logistic`.
    train : ndarray of shape (n_train, r)
        Coordinates; strengths are in units of their mean squared length about their mean.
    y : ndarray of shape (n_train,)
    other : ndarray of shape (n_other, r)
    inner : int ndarray of shape (n_train,)
        Inner fold of every training person.

    Returns
    -------
    ndarray of shape (n_other,)
        Numbers, or log odds.
    """
    kernel = train @ train.T
    size = np.trace(kernel) / len(y) - kernel.mean()
    size = size if size > 0 else 1.0
    strength = size * _chosen(model, kernel, y, inner, size)
    dual, intercept = FITS[model](kernel, y, strength * len(y), _nothing(y))
    return other @ (train.T @ dual) + intercept


def _nothing(y: np.ndarray) -> State:
    return np.zeros(len(y)), 0.0


def _chosen(model: type[Path], kernel: np.ndarray, y: np.ndarray, inner: np.ndarray, size: float) -> float:
    """Return the strength with the least loss over inner folds, the strongest of equally good ones.

    Strengths are tried from the strongest on, until the loss has risen twice in a row.
    """
    held = [inner == fold for fold in np.unique(inner)]
    inside = [kernel[np.ix_(~out, ~out)] for out in held]
    across = [kernel[np.ix_(out, ~out)] for out in held]
    states = [_nothing(y[~out]) for out in held]
    losses: list[float] = []
    for strength in reversed(STRENGTHS):
        losses.append(0.0)
        for place, out in enumerate(held):
            penalty = strength * size * np.count_nonzero(~out)
            states[place] = dual, intercept = FITS[model](inside[place], y[~out], penalty, states[place])
            losses[-1] += float(model.loss(y[out], across[place] @ dual + intercept))
        if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
            break
    return STRENGTHS[::-1][int(np.argmin(losses))]


def _ridge(kernel: np.ndarray, y: np.ndarray, penalty: float, start: State) -> State:
    """Minimise ``|y - Ka - b|^2 + penalty a'Ka``."""
    return _solved(kernel.copy(), np.ones(len(y)), y, penalty)


def _solved(system: np.ndarray, root: np.ndarray, scaled: np.ndarray, penalty: float) -> State:
    """Return weighted least squares with a penalty; ``system`` is ``root K root`` (overwritten), ``scaled`` root z."""
    system.flat[:: len(system) + 1] += penalty
    found = lapack.dposv(system, np.stack([scaled, root], axis=1), lower=1, overwrite_a=1, overwrite_b=1)[1]
    found *= root[:, None]
    intercept = found[:, 0].sum() / found[:, 1].sum()
    return found[:, 0] - intercept * found[:, 1], intercept


def _logistic(kernel: np.ndarray, y: np.ndarray, penalty: float, start: State) -> State:
    """Minimise ``sum log(1 + exp(-+(Ka + b))) + penalty / 2 a'Ka`` by Newton's method, halving steps that go uphill."""
    dual, intercept = start
    inner = kernel @ dual
    cost = _cost(inner, y, penalty, dual, intercept)
    for _ in range(MAX_ITERATIONS):
        probability = expit(inner + intercept)
        root = np.sqrt(np.maximum(probability * (1 - probability), LEAST_WEIGHT))
        wanted = root * (inner + intercept) + (y - probability) / root
        aim, aim_intercept = _solved(np.outer(root, root) * kernel, root, wanted, penalty)
        move, move_intercept = aim - dual, aim_intercept - intercept
        moved, step = kernel @ move, 1.0
        while (
            now := _cost(inner + step * moved, y, penalty, dual + step * move, intercept + step * move_intercept)
        ) > cost * (1 + 1e-10) and step > 1e-6:
            step /= 2
        dual, intercept = dual + step * move, intercept + step * move_intercept
        inner, cost = inner + step * moved, now
        if step * np.abs(moved + move_intercept).max() < TOLERANCE:
            break
    return dual, intercept


def _cost(inner: np.ndarray, y: np.ndarray, penalty: float, dual: np.ndarray, intercept: float) -> float:
    """Return the penalised negative log-likelihood; `inner` is ``K dual``."""
    said = inner + intercept
    return float((np.logaddexp(0, said) - y * said).sum() + penalty / 2 * dual @ inner)


FITS: dict[type[Path], Callable[[np.ndarray, np.ndarray, float, State], State]] = {Ridge: _ridge, Logistic: _logistic}

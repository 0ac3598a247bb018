"""Embeddings joined with a baseline's features: how much of the squared length is theirs is chosen on inner folds.

Inner products of both add linearly, so every share is one more decomposition, not one more pass over features. A share
of 0 is the baseline alone: embeddings that say nothing are left out, and cost next to nothing.
"""

from __future__ import annotations

import numpy as np

from neuropipe.evaluate.features import Blocks, Features, Kernel, principal_coordinates
from neuropipe.evaluate.linear import STRENGTHS, Nested, Path, Ridge, nested

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


def read(
    model: type[Path],
    table: Features | Kernel | Blocks,
    train: np.ndarray,
    other: np.ndarray,
    y: np.ndarray,
    inner: np.ndarray,
) -> tuple[Nested, np.ndarray]:
    """Let a readout learn from a training side, with its choices; return also the coordinates of the first column.

    Parameters
    ----------
    model : type
        A readout.
    table : Features, Kernel, Blocks or Tokens
        One row per person.
    train, other : int ndarray
        Rows to learn from and to predict.
    y : ndarray of shape (n_train, n_columns) or (n_train, n_columns, n_classes)
        Label columns.
    inner : int ndarray of shape (n_train,)
        Inner fold of every training row.
    """
    if isinstance(table, Blocks):
        return _joined(model, table, train, other, y, inner)
    coordinates = table.coordinates(train)
    return nested(model, coordinates[train], y, coordinates[other], inner), coordinates


def _joined(
    model: type[Path], table: Blocks, train: np.ndarray, other: np.ndarray, y: np.ndarray, inner: np.ndarray
) -> tuple[Nested, np.ndarray]:
    """Choose every column's share by ridge, together with its strength, then let the readout answer at that share.

    Ridge stands for readouts without a closed form, whose own choice would take as many fits as there are shares;
    their strength, or number of neighbours, they choose themselves at the share.
    """
    added, baseline = table.grams(train)
    at = [principal_coordinates(share * added + (1 - share) * baseline, train) for share in SHARES]
    losses = np.stack([Ridge.inner_losses(x[train], y, inner, STRENGTHS) for x in at])  # (share, strength, column)
    best = np.argmin(losses.min(axis=1), axis=0)  # the smallest of equally good ones
    parts = {}
    for share in np.unique(best):
        columns, x = np.flatnonzero(best == share), at[share]
        known = losses[share][:, columns] if model is Ridge else None
        parts[share] = columns, nested(model, x[train], y[:, columns], x[other], inner, total=known)
    prediction = np.empty((len(other), *y.shape[1:]))
    for columns, part in parts.values():
        prediction[:, columns] = part.prediction
    return _first(parts[best[0]][1], prediction, losses[:, :, 0] / len(train), best[0], model), at[best[0]]


def _first(own: Nested, prediction: np.ndarray, losses: np.ndarray, share: int, model: type[Path]) -> Nested:
    """Return everyone's predictions with what was tried for the first column: of ridge, all shares and strengths."""
    if model is Ridge:
        tried = tuple({"share": a, "strength": b} for a in SHARES for b in STRENGTHS)
        return Nested(prediction, share * len(STRENGTHS) + own.chosen[:1], losses.reshape(-1, 1), tried)
    tried = tuple({**setting, "share": SHARES[share]} for setting in own.tried)
    return Nested(prediction, own.chosen[:1], own.inner_loss[:, :1], tried)

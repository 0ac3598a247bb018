"""How well the site of a person can be told from features: what a scanner leaves in an embedding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neuropipe.evaluate.features import Blocks, Features, Kernel
from neuropipe.evaluate.linear import Ridge, nested
from neuropipe.evaluate.question import inner_folds
from neuropipe.splits.people import People

MIN_PEOPLE = 5  # of a site: one for each fold
SEED = 11  # of the folds; the same people are divided alike for every system


def told_sites(
    people: People,
    rows: np.ndarray,
    sites: np.ndarray,
    features: Callable[[np.ndarray], Features | Kernel | Blocks],
) -> tuple[np.ndarray, np.ndarray]:
    """Return whose site was told, and as which, each person by a readout that saw neither them nor their kin.

    Ridge regression tells each site from the others, standardised so that large sites are no likelier than small
    ones; its strength is chosen on folds inside the training side.

    Parameters
    ----------
    rows : int ndarray
        People to ask about.
    sites : text ndarray (n_people,)
        Empty where unknown.
    features : callable
        Of the rows to learn from: everyone's features, as far as they are fitted, on these rows.

    Returns
    -------
    rows : int ndarray (n,)
        Those of `rows` at sites with `MIN_PEOPLE` people; empty where there are fewer than two such sites.
    predicted : text ndarray (n,)
    """
    names, counts = np.unique(sites[rows], return_counts=True)
    names = names[(counts >= MIN_PEOPLE) & (names != "")]
    rows = rows[np.isin(sites[rows], names)]
    if len(names) < 2:
        return rows[:0], np.empty(0, dtype=object)
    folds = inner_folds(people, rows, SEED)
    predicted = np.empty(len(rows), dtype=object)
    for fold in np.unique(folds):
        train, tested = rows[folds != fold], rows[folds == fold]
        onehot = (sites[train, None] == names).astype(float)
        spread = onehot.std(axis=0)
        columns = (onehot - onehot.mean(axis=0)) / np.where(spread > 0, spread, 1)
        at = features(train).coordinates(train)
        found = nested(Ridge, at[train], columns, at[tested], inner_folds(people, train, SEED))
        predicted[folds == fold] = names[found.prediction.argmax(axis=1)]
    return rows, predicted


def balanced_accuracy(hits: np.ndarray, sites: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over sites of the share of people who were told rightly, once per row of weights.

    Parameters
    ----------
    hits : bool ndarray (n,)
    sites : ndarray (n,)
    weights : ndarray (draws, n)
        How often each person counts.
    """
    onehot = (sites[:, None] == np.unique(sites)).astype(float)
    return ((weights * hits) @ onehot / np.maximum(weights @ onehot, 1e-12)).mean(axis=1)

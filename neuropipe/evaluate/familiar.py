"""Which people lie far from a training side, as its own people rarely do when they are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neuropipe.hub import familiarity


def distances(values: np.ndarray, train: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, float]:
    """Return everyone's distance from the training side, and the distance beyond which one is far.

    Parameters
    ----------
    values : ndarray (n_people, n_features)
        NaN rows for people without features; their distance is NaN.
    train : int ndarray
        Rows of the training side.
    folds : int ndarray (n_train,)
        Its inner folds: each is left out once, and how far its people then lie away says what is usual.

    Notes
    -----
    The distance is that of `hub.familiarity`, of features that are scaled by the training side.
    """
    usable = np.isfinite(values).all(axis=1)
    spread = values[train[usable[train]]].std(axis=0)
    if not (spread > 0).any():  # a network that says the same of everyone
        return np.full(len(values), np.nan), np.nan
    scaled = values / np.where(spread > 0, spread, 1)
    fits, left_out = [], []
    for fold in np.unique(folds):
        inside, outside = (train[part & usable[train]] for part in (folds != fold, folds == fold))
        if len(inside) > 1 and len(outside):
            fits.append(familiarity.fit(scaled[inside], scaled[outside]))
            left_out.append(fits[-1].distance(scaled[outside]))
    found, own = np.full(len(values), np.nan), train[usable[train]]
    if not fits:
        return found, np.nan
    # What lies outside the components is measured by people who did not draw them.
    beyond = np.mean([one.outside for one in fits])
    whole = replace(familiarity.fit(scaled[own], scaled[own]), outside=np.asarray(beyond))
    found[usable] = whole.distance(scaled[usable])
    return found, float(np.quantile(np.concatenate(left_out), familiarity.QUANTILE, method="higher"))

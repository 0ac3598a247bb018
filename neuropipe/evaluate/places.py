"""Where people lie in the plane of the two directions in which a training side varies most."""

from __future__ import annotations

import numpy as np


def plane(coordinates: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return everyone's first two principal components (n_people, 2), fitted on the training side.

    Parameters
    ----------
    coordinates : ndarray (n_people, r)
        Centred on the training side, see `features.Features.coordinates`.
    train : int ndarray
        Rows of the training side.

    Notes
    -----
    A component's sign means nothing; the side with the longer tail of training people is made the positive one, so
    that the picture is the same each time.
    """
    _, _, directions = np.linalg.svd(coordinates[train], full_matrices=False)
    found = np.zeros((len(coordinates), 2))
    across = coordinates @ directions[:2].T
    found[:, : across.shape[1]] = across
    return found * np.where((found[train] ** 3).sum(axis=0) < 0, -1, 1)

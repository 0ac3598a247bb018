"""Whether people are recognised: a second recording is looked for among those of everyone who has two."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from neuropipe.evaluate.features import fisher_z, kept_samples
from neuropipe.splits.people import People

ORDER = ["dataset", "session", "run", "key"]  # in which a person's recordings are first and second


def pairs(people: People) -> pd.DataFrame:
    """Return the first two recordings of every individual who has as many.

    Returns
    -------
    DataFrame
        One row per individual: ``row`` (of `people.table`), ``first`` and ``second`` (rows of `people.recordings`).
    """
    table = people.recordings
    order = [name for name in ORDER if name in table]
    table = table.assign(individual=people.individuals.to_numpy()[table["row"]]).sort_values(order, kind="stable")
    own = [
        (rows["row"].iloc[0], *rows.index[:2]) for _, rows in table.groupby("individual", sort=True) if len(rows) > 1
    ]
    return pd.DataFrame(own, columns=["row", "first", "second"], dtype=np.int64)


def found(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each first recording is most like its second of all, and each second like its first.

    Likeness is Pearson's correlation over features, as of Finn et al. (2015).

    Parameters
    ----------
    first, second : ndarray (n, n_features)
        The same person in the same row. What is missing (NaN) is told by the mean over rows.
    """
    likeness = _unit(first) @ _unit(second).T
    own = np.arange(len(likeness))
    return likeness.argmax(axis=1) == own, likeness.argmax(axis=0) == own


def connectivity_of(people: People, sources: list, rows: Iterable[int]) -> np.ndarray:
    """Return the connectivity (n, n_pairs) of single recordings, rows of `people.recordings`."""
    table = people.recordings
    each = []
    for row in rows:
        source, position = sources[table["source"].at[row]], table["position"].at[row]
        each.append(fisher_z(kept_samples(source, position), source.valid_regions(position)).astype(np.float32))
    return np.stack(each)


def _unit(values: np.ndarray) -> np.ndarray:
    """Return rows with mean 0 and length 1."""
    values = np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    mean = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, values, mean)
    centred = centred - centred.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)

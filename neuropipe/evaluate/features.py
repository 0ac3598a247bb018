"""Features of persons for linear readouts: connectivity, confounds, and their coordinates on a training side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.splits.people import People

MAX_CORRELATION = 1 - 1e-6  # Fisher's z of a perfect correlation would be infinite
SCAN_MEASURES = {"mean_fd": "series", "n_timepoints": "series", "duration_s": "series", "tiv_ml": "volume"}


@dataclass(frozen=True, eq=False)
class Features:
    """A table of features, one row per person, that becomes coordinates for a training side.

    Missing values (NaN) are filled with the training side's mean, which is also what centres a feature;
    nothing is ever fitted on other rows.

    Attributes
    ----------
    values : float ndarray of shape (n_people, n_features)
        NaN where unknown.
    scaled : bool
        Divide each feature by its standard deviation over the training side. Off for features that
        share one unit, such as connectivity.
    """

    values: np.ndarray
    scaled: bool = True

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.values.shape[1]

    def coordinates(self, train: np.ndarray) -> np.ndarray:
        """Return coordinates (n_people, r) in which every L2-penalised linear model is unchanged.

        Parameters
        ----------
        train : int ndarray
            Rows of the training side.

        Returns
        -------
        float64 ndarray
            Centred on the training side, and divided by one number so that the mean squared length of
            the training rows is 1. Of more features than training people, only the directions that the
            training side spans are kept: a penalised linear model has no weight outside them.
        """
        if self.values.shape[1] > len(train) and not self.scaled:
            return self._rotated(train)
        return _unit(_standardised(self.values, train, self.scaled), train)

    @cached_property
    def _gram(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(values less a constant with zeros where missing, present, their inner products), made once.

        The constant is each feature's overall mean: it cancels when a fold is centred, and only keeps
        single-precision products from losing digits to it.
        """
        present = np.isfinite(self.values)
        shifted = np.where(present, self.values - _mean(self.values), 0).astype(self.values.dtype)
        return shifted, present, (shifted @ shifted.T).astype(np.float64)

    def _rotated(self, train: np.ndarray) -> np.ndarray:
        """Principal coordinates from inner products; only rows with missing values are multiplied again."""
        shifted, present, gram = self._gram
        seen = present[train].sum(axis=0)
        centre = shifted[train].sum(axis=0, dtype=np.float64) / np.maximum(seen, 1)
        along = shifted @ centre.astype(shifted.dtype)
        kernel = gram - along[:, None] - along[None, :] + centre @ centre
        holes = np.flatnonzero(~present.all(axis=1))
        if len(holes):
            filled = np.where(present[holes], shifted[holes] - centre, 0).astype(shifted.dtype)
            rows = filled @ shifted.T - (filled @ centre.astype(shifted.dtype))[:, None]
            kernel[holes] = rows
            kernel[:, holes] = rows.T
            kernel[np.ix_(holes, holes)] = filled @ filled.T
        return _unit(principal_coordinates(kernel, train), train)


@dataclass(frozen=True, eq=False)
class Kernel:
    """Features that are known by their inner products alone; to readouts they look like `Features`.

    Attributes
    ----------
    gram : float64 ndarray of shape (n_people, n_people)
        Inner products of everyone's features, all less the same constant.
    n_features : int
        Number of features behind them.
    """

    gram: np.ndarray
    n_features: int

    def coordinates(self, train: np.ndarray) -> np.ndarray:
        """Return all principal coordinates (n_people, r) that the training side spans; see `Features.coordinates`."""
        return _unit(principal_coordinates(self.centred(train), train), train)

    def centred(self, train: np.ndarray) -> np.ndarray:
        """Return the inner products (n_people, n_people) of everyone less the training side's mean."""
        along = self.gram[:, train].mean(axis=1)
        return self.gram - along[:, None] - along[None, :] + along[train].mean()


@dataclass(frozen=True, eq=False)
class Blocks:
    """Several sets of features side by side; to readouts they look like `Features`.

    Here each is brought to the same mean squared length on the training side, so that none drowns another by the
    number of its features or by their unit; `neuropipe.evaluate.shares` chooses the first one's share.

    Attributes
    ----------
    parts : tuple of Features or Kernel
        Of the same people.
    """

    parts: tuple[Features | Kernel, ...]

    @property
    def n_features(self) -> int:
        """Number of features of all parts."""
        return sum(part.n_features for part in self.parts)

    def coordinates(self, train: np.ndarray) -> np.ndarray:
        """Return the coordinates of all parts side by side (n_people, r); see `Features.coordinates`."""
        return _unit(np.concatenate([part.coordinates(train) for part in self.parts], axis=1), train)

    def grams(self, train: np.ndarray) -> list[np.ndarray]:
        """Return each part's inner products (n_people, n_people), of mean squared length 1 on the training side."""
        return [x @ x.T for x in (part.coordinates(train) for part in self.parts)]


def principal_coordinates(kernel: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return coordinates (n, r) with the inner products of `kernel` as far as the training rows span them.

    Parameters
    ----------
    kernel : float64 ndarray of shape (n, n)
        Inner products of rows that are centred on the training side.
    train : int ndarray
        Rows of the training side.
    """
    values, vectors = np.linalg.eigh(kernel[np.ix_(train, train)])
    kept = values > values[-1] * len(train) * np.finfo(np.float32).eps
    if not kept.any():
        return np.zeros((len(kernel), 1))
    return kernel[:, train] @ (vectors[:, kept] / np.sqrt(values[kept]))


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean of each column over its known values; 0 where there is none."""
    present = np.isfinite(values)
    total = np.where(present, values, 0).sum(axis=0, dtype=np.float64)
    return total / np.maximum(present.sum(axis=0), 1)


def _standardised(values: np.ndarray, train: np.ndarray, scaled: bool) -> np.ndarray:
    """Centre (and scale) by the training side; missing values become its mean, that is zero."""
    centred = values.astype(np.float64) - _mean(values[train])
    centred[~np.isfinite(centred)] = 0
    if not scaled:
        return centred
    spread = centred[train].std(axis=0)
    known = spread > 1e-9 * np.maximum(
        1, np.abs(values[train]).max(axis=0, initial=0, where=np.isfinite(values[train]))
    )
    return np.divide(centred, spread, out=np.zeros_like(centred), where=known)


def _unit(coordinates: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Divide by the root of the training rows' mean squared length, so that strengths mean the same everywhere."""
    size = np.sqrt(np.mean(np.sum(coordinates[train] ** 2, axis=1)))
    return coordinates / size if size > 0 else coordinates


def fisher_z(series: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Return the functional connectivity of one recording.

    Parameters
    ----------
    series : ndarray of shape (time, region)
        Any scale; computed in float64.
    valid : bool ndarray of shape (region,), optional
        False where a region is missing.

    Returns
    -------
    float64 ndarray of shape (region * (region - 1) / 2,)
        Fisher's z of Pearson's correlations, the upper triangle row by row. NaN where a region is
        missing or constant.
    """
    centred = series - series.mean(axis=0, dtype=np.float64)
    length = np.sqrt(np.einsum("tr,tr->r", centred, centred))
    unit = centred / np.where(known_regions(series, valid), length, np.nan)
    correlation = (unit.T @ unit)[np.triu_indices(series.shape[1], 1)]
    return np.arctanh(np.clip(correlation, -MAX_CORRELATION, MAX_CORRELATION))


def known_regions(series: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Return which regions (region,) of a recording (time, region) are there and vary."""
    varies = series.std(axis=0, dtype=np.float64) > 1e-6
    return varies if valid is None else varies & valid


def connectivity(people: People, sources: list) -> Features:
    """Return every person's functional connectivity; recordings of one person are averaged in Fisher's z.

    Parameters
    ----------
    people : People
        Rows of the result.
    sources : list of Shards
        In the order that `people` was gathered from.
    """
    first = sources[0].regions
    for source in sources[1:]:
        first.check_same(source.regions, f"Connectivity of {source.dataset}")
    n_pairs = len(first) * (len(first) - 1) // 2
    values = np.empty((len(people), n_pairs), dtype=np.float32)
    for row, recordings in people.recordings.groupby("row", sort=True):
        total, count = np.zeros(n_pairs), np.zeros(n_pairs, dtype=np.int64)
        for source, position in zip(recordings["source"], recordings["position"], strict=True):
            z = fisher_z(kept_samples(sources[source], position), sources[source].valid_regions(position))
            present = np.isfinite(z)
            total[present] += z[present]
            count += present
        values[row] = np.divide(total, count, out=np.full(n_pairs, np.nan), where=count > 0)
    return Features(values, scaled=False)


def kept_samples(source: object, position: int) -> np.ndarray:
    """Return a recording without its censored samples."""
    series = source.series(position)
    censored = source.censored(position)
    return np.delete(series, censored, axis=0) if len(censored) else series


def confound_names(confounds: list[str], target: str, people: People) -> list[str]:
    """Return the confounds of a task: those it names and a series' length, never the target itself."""
    names = list(dict.fromkeys([*confounds, *(["duration_s"] if people.content == "series" else [])]))
    return without_target(names, target, people)


def without_target(names: list[str], target: str, people: People) -> list[str]:
    """Return the columns that are not the target, under its own name or as a role."""
    targets = {target, *(people.resolve(dataset, target) for dataset in people.participants)}
    return [n for n in names if not targets & {n, *(people.resolve(d, n) for d in people.participants)}]


def confound_design(people: People, names: list[str]) -> Features:
    """Return the design of the confounds-only baseline.

    Numbers stay numbers, text becomes one column per value; what is missing is filled by the training
    side's mean when coordinates are made. A value that no training person has gets no weight there.
    """
    columns = []
    for name in names:
        values = confound_values(people, name)
        if pd.api.types.is_numeric_dtype(values):
            columns.append(values.to_numpy(float)[:, None])
        else:
            known = sorted(values.dropna().unique())
            columns.append(np.stack([(values == value).to_numpy(float) for value in known], axis=1))
    if not columns:
        raise InputError("The confounds-only baseline has no columns; name some in tasks.<name>.confounds.")
    return Features(np.concatenate(columns, axis=1))


def confound_values(people: People, name: str) -> pd.Series:
    """Return a confound of everyone (n_people,): floats where all values are numbers, else text; missing ones are."""
    measured = _scan_measure(people, name)
    if measured is not None:
        return pd.Series(measured)
    text = _known_column(people, name)
    numbers = pd.to_numeric(text, errors="coerce")
    return numbers.astype(float) if numbers.notna().sum() == text.notna().sum() else text


def _known_column(people: People, name: str) -> pd.Series:
    """Return a confound from the participants tables.

    Raises
    ------
    InputError
        Neither the recordings nor a table have it.
    """
    try:
        return people.column(name)
    except InputError as error:
        if name not in SCAN_MEASURES:
            raise
        raise InputError(
            f"The confound {name!r} is not known: expected it of {SCAN_MEASURES[name]} recordings or as a participants "
            f"column, found {people.content} recordings of {', '.join(people.participants)} without it. Leave it out "
            "of tasks.<name>.confounds, or add the column to participants.tsv and index again."
        ) from error


def _scan_measure(people: People, name: str) -> np.ndarray | None:
    """Return a person's mean over recordings of a measure of the scan; None where the manifests lack it."""
    recordings = people.recordings
    if SCAN_MEASURES.get(name) != people.content or (name not in recordings and name != "duration_s"):
        return None
    values = recordings["n_timepoints"] * recordings["t_r"] if name == "duration_s" else recordings[name]
    mean = values.astype(float).groupby(recordings["row"]).mean().reindex(range(len(people)))
    return mean.to_numpy() if mean.notna().any() else None

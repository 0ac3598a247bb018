"""Connectivity beyond correlation: partial correlations, and covariances in the tangent space of a training side.

Covariances are shrunk as Ledoit and Wolf (2004) say, since a recording has few samples for its regions. A region
that a recording lacks is never made up for partial correlations; the tangent space needs whole matrices, so there a
region is told from the person's other regions as the training side's mean covariance relates them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.covariance import ledoit_wolf

from neuropipe.errors import InputError
from neuropipe.evaluate.features import MAX_CORRELATION, Features, Kernel, kept_samples, known_regions
from neuropipe.splits.people import People

BLOCK = 64  # matrices that are decomposed at once
MAX_ITERATIONS = 30
TOLERANCE = 1e-7  # of the mean tangent vector, per region


def covariance(series: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Return the shrunk covariance of one recording, each region scaled to unit variance before.

    Parameters
    ----------
    series : ndarray of shape (time, region)
        Any scale.
    valid : bool ndarray of shape (region,), optional
        False where a region is missing.

    Returns
    -------
    float64 ndarray of shape (region, region)
        NaN in rows and columns of regions that are missing or constant.
    """
    known = known_regions(series, valid)
    chosen = series[:, known].astype(np.float64)
    found = np.full((series.shape[1], series.shape[1]), np.nan)
    if known.any():
        scaled = (chosen - chosen.mean(axis=0)) / chosen.std(axis=0)
        found[np.ix_(known, known)] = ledoit_wolf(scaled)[0]
    return found


@dataclass(frozen=True, eq=False)
class Covariances:
    """Everyone's covariance, the mean over a person's recordings.

    Attributes
    ----------
    values : float64 ndarray of shape (n_people, region, region)
        Meaningful between regions that are present.
    present : bool ndarray of shape (n_people, region)
        False where no recording of a person has the region.
    """

    values: np.ndarray
    present: np.ndarray

    @classmethod
    def of(cls, people: People, sources: list) -> Covariances:
        """Return the covariances of `people`, who were gathered from `sources` (list of Shards) in this order."""
        first = sources[0].regions
        for source in sources[1:]:
            first.check_same(source.regions, f"Connectivity of {source.dataset}")
        values = np.zeros((len(people), len(first), len(first)))
        present = np.zeros((len(people), len(first)), dtype=bool)
        for row, recordings in people.recordings.groupby("row", sort=True):
            each = [
                covariance(kept_samples(sources[source], position), sources[source].valid_regions(position))
                for source, position in zip(recordings["source"], recordings["position"], strict=True)
            ]
            # Only recordings with the most regions count: a mean of matrices of different regions may be no covariance.
            known = [np.isfinite(np.diagonal(one)) for one in each]
            most = max(known, key=np.count_nonzero)
            alike = [one for one, has in zip(each, known, strict=True) if (has == most).all()]
            values[row], present[row] = np.nan_to_num(np.mean(alike, axis=0)), most
        return cls(values, present)

    def completed(self, train: np.ndarray) -> np.ndarray:
        """Return whole covariances (n_people, region, region), missing regions told by the training side's mean.

        A missing region is regressed on those present with the mean's coefficients, and keeps the mean's variance
        around that regression, so that the matrix stays positive definite.
        """
        whole = self.present.all(axis=1)
        trained = train[whole[train]]
        if not len(trained):
            raise InputError(
                "Tangent-space connectivity needs a training person with every region, found none; leave fc_tangent "
                "out of evaluate, or exclude what is never covered (exclude.min_region_coverage)."
            )
        mean = self.values[trained].mean(axis=0)
        found = self.values.copy()
        for row in np.flatnonzero(~whole):
            here, gone = np.flatnonzero(self.present[row]), np.flatnonzero(~self.present[row])
            slope = np.linalg.solve(mean[np.ix_(here, here)], mean[np.ix_(here, gone)]) if len(here) else None
            if slope is None:
                found[row] = mean
                continue
            own = self.values[row][np.ix_(here, here)]
            across = own @ slope
            rest = mean[np.ix_(gone, gone)] - mean[np.ix_(gone, here)] @ slope
            found[row][np.ix_(here, gone)], found[row][np.ix_(gone, here)] = across, across.T
            found[row][np.ix_(gone, gone)] = slope.T @ across + rest
        return found


def partial_connectivity(people: People, sources: list) -> Features:
    """Return Fisher's z of everyone's partial correlations: two regions, all other regions held fixed."""
    covariances = Covariances.of(people, sources)
    upper = np.triu_indices(covariances.values.shape[1], 1)
    values = np.full((len(people), len(upper[0])), np.nan, dtype=np.float32)
    for row, present in enumerate(covariances.present):
        here = np.flatnonzero(present)
        whole = np.full(covariances.values.shape[1:], np.nan)
        whole[np.ix_(here, here)] = partial_correlation(covariances.values[row][np.ix_(here, here)])
        values[row] = np.arctanh(np.clip(whole[upper], -MAX_CORRELATION, MAX_CORRELATION))
    return Features(values, scaled=False)


def partial_correlation(covariance: np.ndarray) -> np.ndarray:
    """Return the partial correlations of a covariance (region, region); ones on the diagonal."""
    if not covariance.size:
        return covariance
    precision = np.linalg.inv(covariance)
    root = np.sqrt(np.diagonal(precision))
    found = -precision / np.outer(root, root)
    np.fill_diagonal(found, 1)
    return found


def tangent_connectivity(people: People, sources: list) -> Callable[[np.ndarray], Kernel]:
    """Return a function of a training side that gives everyone's connectivity in its tangent space.

    Covariances are whitened by the geometric mean of the training side and their logarithm is taken (Varoquaux et
    al. 2010), so that Euclidean readouts respect how covariances vary. Only inner products are kept.
    """
    covariances = Covariances.of(people, sources)

    def on(train: np.ndarray) -> Kernel:
        values = covariances.completed(train)
        vectors = tangent_vectors(values, geometric_mean(values[train]))
        shifted = vectors - vectors[train].mean(axis=0)
        return Kernel(shifted @ shifted.T, vectors.shape[1])

    return on


def tangent_vectors(covariances: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the logarithms of covariances (n, region, region) whitened by a reference, as vectors.

    Returns
    -------
    float64 ndarray of shape (n, region * (region + 1) / 2)
        The lower triangle row by row, off the diagonal times the root of two, so that lengths are those of matrices.
    """
    rows, columns = np.tril_indices(len(reference))
    weight = np.where(rows == columns, 1.0, np.sqrt(2))
    return np.concatenate([logs[:, rows, columns] * weight for logs in _logs(covariances, reference)])


def geometric_mean(matrices: np.ndarray) -> np.ndarray:
    """Return the affine-invariant mean of positive definite matrices (n, region, region).

    Its tangent vectors average to zero; reached by going along their average (Fletcher and Joshi 2007), with steps
    that are halved where the average grows.
    """
    mean, step, last = matrices.mean(axis=0), 1.0, np.inf
    for _ in range(MAX_ITERATIONS):
        direction = sum(logs.sum(axis=0) for logs in _logs(matrices, mean)) / len(matrices)
        length = np.linalg.norm(direction)
        if length < TOLERANCE * direction.size:
            break
        step = step / 2 if length > last else step
        root = _mapped(mean, np.sqrt)
        mean = root @ _mapped(step * direction, np.exp) @ root
        mean, last = (mean + mean.T) / 2, length
    return mean


def _logs(matrices: np.ndarray, reference: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the logarithms of matrices whitened by `reference`, block by block."""
    whitening = _mapped(reference, lambda values: 1 / np.sqrt(values))
    for first in range(0, len(matrices), BLOCK):
        yield _mapped(whitening @ matrices[first : first + BLOCK] @ whitening, np.log)


def _mapped(matrices: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a function to the eigenvalues of symmetric matrices (..., region, region)."""
    values, vectors = np.linalg.eigh(matrices)
    return (vectors * function(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)

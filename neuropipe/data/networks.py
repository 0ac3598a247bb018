"""Functional networks for an atlas that names none: regions clustered by the training side's connectivity."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import AgglomerativeClustering

from neuropipe.data.recordings import Recordings
from neuropipe.signals.regions import Regions


def mean_connectivity(source: Recordings) -> np.ndarray:
    """Return the mean over recordings of Fisher's z of the correlations, (region, region), 0 where never valid."""
    total = np.zeros((len(source.regions), len(source.regions)))
    count = np.zeros_like(total)
    for i in source:
        series = np.asarray(source.stored(i), dtype=np.float64)
        valid = source.valid_regions[i].numpy() & (series.std(axis=0) > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.arctanh(np.clip(np.corrcoef(series.T), -0.999999, 0.999999))
        both = np.outer(valid, valid)
        total[both] += z[both]
        count += both
    return total / np.maximum(count, 1)


def derive(source: Recordings, n_networks: int) -> Regions:
    """Return the regions of `source` with `n_networks` networks derived by clustering.

    Ward's clustering of the rows of the mean connectivity matrix: two regions belong together when
    they are connected to the same others. Deterministic; networks are numbered by first region.
    """
    found = AgglomerativeClustering(n_clusters=n_networks, linkage="ward").fit_predict(mean_connectivity(source))
    first = {label: int(np.flatnonzero(found == label)[0]) for label in np.unique(found)}
    rank = {label: i for i, label in enumerate(sorted(first, key=first.__getitem__))}
    return source.regions.with_networks(np.array([rank[label] for label in found]))

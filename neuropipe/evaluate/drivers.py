"""What drives a readout: the pattern of every region that goes with its score.

Weights of a linear model are no answer: a feature can carry weight because it cancels the noise of another. The pattern
is the covariance of features with the score, in units of the score's standard deviation (Haufe et al. 2014, eq. 6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from neuropipe.evaluate.features import Features


@dataclass(frozen=True, eq=False)
class Regional:
    """Features that belong to regions: a number per region, or per pair of them.

    Attributes
    ----------
    features : Features
        One row per person.
    table : DataFrame
        ``region, name, network``: columns of `tables.DRIVERS`, one row per region.
    pairs : tuple of int ndarray
        Of pairs: both regions of every feature; else empty.
    """

    features: Features
    table: pd.DataFrame
    pairs: tuple[np.ndarray, ...] = ()

    @classmethod
    def of_pairs(cls, features: Features, sources: list) -> Regional:
        """Return connectivity: `features` of the upper triangle of pairs of regions, row by row."""
        regions = sources[0].regions
        return cls(features, _named(regions.table), np.triu_indices(len(regions), 1))

    @classmethod
    def of_volumes(cls, features: Features, sources: list) -> Regional:
        """Return the volume of every region; `features` has their sum as one more column."""
        return cls(features, _named(sources[0].regions.table))

    def pattern(self, rows: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Return what goes with one standard deviation of the score, by region (n_regions,).

        Of volumes, in units of each volume's standard deviation. Of connectivity, in Fisher's z: the mean over all
        pairs of a region, with their signs, so that a region some of whose connections are stronger and some weaker can
        come out as nothing. Positive is more of the positive class, or of the target.

        Parameters
        ----------
        rows : int ndarray
            People whom the score is of; what is missing counts as their mean.
        score : ndarray, one of each of `rows`
        """
        values = self.features.values[rows]
        present = np.isfinite(values)
        n = np.maximum(present.sum(axis=0), 1)
        centred = np.where(present, values - np.where(present, values, 0).sum(axis=0) / n, 0)
        spread = score.std()
        standard = (score - score.mean()) / spread if spread > 0 else np.zeros(len(score))
        found = standard @ centred / len(rows)
        if self.features.scaled:
            spreads = centred.std(axis=0)
            found = np.divide(found, spreads, out=np.zeros_like(found), where=spreads > 0)
        if not self.pairs:
            return found[: len(self.table)]
        total = sum(np.bincount(region, found, minlength=len(self.table)) for region in self.pairs)
        return total / (len(self.table) - 1)


def _named(regions: pd.DataFrame) -> pd.DataFrame:
    """Return ``region, name, network`` of a region table; no name of a network where there is none."""
    network = regions["network"].replace("", None)
    return pd.DataFrame({"region": range(len(regions)), "name": regions["name"], "network": network})

"""Regional volumes: how much tissue lies in each region of an atlas.

A modulated map says how much tissue, in units of a voxel, each voxel of the template holds. A region's volume
is therefore the sum over its voxels times the volume of a voxel, never their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuropipe.signals.atlases import Atlas
from neuropipe.signals.warp import Warp
from neuropipe.signals.weights import Weights, on_run
from neuropipe.volumes.grids import voxel_ml


@dataclass(frozen=True, eq=False)
class Parcellation:
    """Atlases on the grid of a map.

    Attributes
    ----------
    weights : Weights
        What each voxel counts for each region.
    coverage : float64 array (region,)
        Share of each region, in its atlas, that lies within the field of view of the grid.
    """

    weights: Weights
    coverage: np.ndarray

    @classmethod
    def on_grid(
        cls, atlases: Sequence[Atlas], warp: Warp, space: str, shape: Sequence[int], affine: np.ndarray
    ) -> Parcellation:
        """Bring atlases to a grid of `space`; those of another space by the warp."""
        brought = warp.onto(atlases, space, shape, affine)
        coverage = np.concatenate([coverage_of(atlas, shape, affine) for atlas in brought])
        return cls(on_run(brought, shape, affine), coverage)

    @property
    def n_voxels(self) -> np.ndarray:
        """int64 array (region,): voxels of each region on the grid, those of maps counted by their weight."""
        return np.rint(self.weights.total).astype(np.int64)

    def volumes_ml(self, array: np.ndarray, min_coverage: float = 0.0) -> np.ndarray:
        """Return the volume of tissue in each region in mL, float64 (region,).

        NaN for regions without a voxel on the grid, and for those that lie within the field of view by less than a
        share `min_coverage`: part of a region is not its volume.
        """
        flat = array.ravel(order="F").astype(np.float64)
        sums = self.weights.matrix.T @ flat
        known = (self.weights.total > 0) & (self.coverage >= min_coverage)
        return np.where(known, sums * voxel_ml(self.weights.affine), np.nan)


def coverage_of(atlas: Atlas, shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """Return the share of each region of an atlas within the field of view of a grid, float64 (region,)."""
    to_grid = np.linalg.inv(affine) @ atlas.affine
    if atlas.labels is not None:
        where = np.argwhere(atlas.labels > 0)
        value = atlas.labels[tuple(where.T)]
    else:
        where = np.stack(np.unravel_index(np.arange(atlas.maps.shape[0]), atlas.shape, order="F"), axis=1)
    position = where @ to_grid[:3, :3].T + to_grid[:3, 3]
    inside = ((position >= -0.5) & (position <= np.asarray(shape) - 0.5)).all(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if atlas.labels is None:
            return (atlas.maps.T @ inside.astype(np.float64)) / atlas.maps.sum(axis=0)
        n = int(atlas.table["value"].max()) + 1
        share = np.bincount(value, weights=inside, minlength=n) / np.bincount(value, minlength=n)
    return np.nan_to_num(share[atlas.table["value"]])

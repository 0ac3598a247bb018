"""How much each voxel of a run's grid counts for each region: labels and maps of several atlases as one sparse matrix.

A regional mean is a weighted sum over voxels. So is the mean of a smoothed image, with smoothed
weights: Gaussian smoothing is a symmetric operator S, hence ``w . (S x) = (S w) . x``. Smoothing a
few thousand weights once is a great deal cheaper than smoothing every volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.ndimage import gaussian_filter1d

from neuropipe.signals import images
from neuropipe.signals.atlases import Atlas
from neuropipe.signals.grids import linear_weights, merge

SIGMAS_KEPT = 4.0  # scipy's and nilearn's: the Gaussian is cut at four standard deviations
FWHM_PER_SIGMA = np.sqrt(8 * np.log(2))


@dataclass(frozen=True, eq=False)
class Weights:
    """Several atlases on one grid.

    Attributes
    ----------
    matrix : float64 sparse.csc_array (voxel, region)
        Voxels are numbered with x fastest. A voxel of a label image counts 1 for its region.
    shape : three int
        Size of the grid (x, y, z).
    affine : float64 array (4, 4)
        Voxel indices to mm.
    n_overlapping : int
        Voxels that more than one label image claims; the first one listed has them. Maps may overlap.
    """

    matrix: sparse.csc_array
    shape: tuple[int, ...]
    affine: np.ndarray
    n_overlapping: int = 0

    @property
    def total(self) -> np.ndarray:
        """float64 array (region,): the sum of each region's weights; its voxels, for labels."""
        return np.asarray(self.matrix.sum(axis=0), dtype=np.float64)


def on_run(atlases: Sequence[Atlas], shape: Sequence[int], affine: np.ndarray) -> Weights:
    """Return the weights of atlases of one space on the grid of a run, their regions in the order of the atlases.

    Label images are resampled by nearest neighbour and merged, the first listed wins a voxel; maps are
    resampled by linear interpolation.
    """
    shape = tuple(shape[:3])
    labelled = [atlas for atlas in atlases if atlas.labels is not None]
    merged = merge(labelled, shape, affine)
    of_labels = indicators(merged.labels, len(merged.n_voxels))
    parts, first = [], 0
    for atlas in atlases:
        n_regions = len(atlas.table)
        if atlas.labels is None:
            parts.append(resampled(atlas.maps, atlas.shape, atlas.affine, shape, affine))
        else:
            parts.append(of_labels[:, first : first + n_regions])
            first += n_regions
    return Weights(sparse.csc_array(sparse.hstack(parts)), shape, affine, merged.n_overlapping)


def indicators(labels: np.ndarray, n_regions: int) -> sparse.csc_array:
    """Return a label image (x, y, z) with values 0..n_regions as one column of ones per region."""
    flat = labels.ravel(order="F")
    voxels = np.flatnonzero(flat)
    where = (voxels, flat[voxels] - 1)
    return sparse.csc_array((np.ones(len(voxels)), where), shape=(flat.size, n_regions))


def resampled(
    maps: sparse.csc_array, shape: Sequence[int], affine: np.ndarray, target_shape: Sequence[int], target: np.ndarray
) -> sparse.csc_array:
    """Return maps (voxel, region) on another grid, by linear interpolation in world coordinates; 0 outside."""
    if images.same_grid(tuple(shape), affine, tuple(target_shape), target):
        return maps.astype(np.float64)
    position = np.stack(np.unravel_index(np.arange(np.prod(target_shape)), target_shape, order="F"), axis=1)
    to_source = np.linalg.inv(affine) @ target
    interpolation = linear_weights(position @ to_source[:3, :3].T + to_source[:3, 3], shape)
    return sparse.csc_array(interpolation @ maps.astype(np.float64))


def smoothed(matrix: sparse.csc_array, shape: Sequence[int], affine: np.ndarray, fwhm_mm: float) -> sparse.csc_array:
    """Return weights (voxel, region) with which a raw image gives what `matrix` gives of the smoothed image.

    Parameters
    ----------
    matrix : sparse.csc_array (voxel, region)
        Weights on a grid of size `shape`.
    shape : three int
    affine : array (4, 4)
        Voxel indices to mm; its columns' lengths are the voxel sizes.
    fwhm_mm : float
        Full width at half maximum of the Gaussian in mm.

    Notes
    -----
    The Gaussian is cut at four standard deviations and reflected at the border of the grid, as scipy
    and nilearn do, which keeps it symmetric.
    """
    sigma = fwhm_mm / FWHM_PER_SIGMA / np.linalg.norm(affine[:3, :3], axis=0)  # voxels
    reach = (SIGMAS_KEPT * sigma + 0.5).astype(int)
    voxels, weights, counts = [], [], []
    for region in range(matrix.shape[1]):
        column = slice(matrix.indptr[region], matrix.indptr[region + 1])
        where = np.array(np.unravel_index(matrix.indices[column], tuple(shape), order="F")).T  # (voxel, 3)
        if not len(where):
            counts.append(0)
            continue
        low = np.maximum(where.min(axis=0) - reach, 0)
        high = np.minimum(where.max(axis=0) + reach + 1, shape)
        box = np.zeros(high - low)
        box[tuple((where - low).T)] = matrix.data[column]
        for axis in range(3):
            box = gaussian_filter1d(box, sigma[axis], axis=axis, truncate=SIGMAS_KEPT)
        found = np.argwhere(box > 0)
        voxels.append(np.ravel_multi_index(tuple((found + low).T), tuple(shape), order="F"))
        weights.append(box[tuple(found.T)])
        counts.append(len(found))
    if not voxels:
        return matrix
    starts = np.concatenate([[0], np.cumsum(counts)])
    out = sparse.csc_array((np.concatenate(weights), np.concatenate(voxels), starts), shape=matrix.shape)
    out.sort_indices()
    return out

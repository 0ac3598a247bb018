"""Regional means of a 4-D image, in one pass over the file and in bounded memory.

Inflating the file takes longer than everything else, so the simplest sums win: stored numbers of
the atlas's voxels are added up per region and volume in float64, and the image's scaling is
applied to the sums. Averaging and linear operations in time commute, so cleaning happens
afterwards, on hundreds of regions instead of hundreds of thousands of voxels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from scipy import linalg, ndimage, sparse

from neuropipe.errors import RunExcluded
from neuropipe.signals import images
from neuropipe.signals.weights import Weights, smoothed

VOLUMES_PER_READ = 8
# Voxels this near to one without signal may lose theirs when the head moves; their values are kept, to this size.
EDGE_VOXELS = 2
EDGE_BYTES = 1 << 25


@dataclass(frozen=True, eq=False)
class Extraction:
    """Regional means of one run.

    Attributes
    ----------
    series : float64 array (time, region)
        Mean of each region's usable voxels; NaN for a region without any.
    n_used : int64 array (region,)
        Voxels averaged: inside the brain mask and with signal in every volume.
    coverage : float64 array (region,)
        Their weight over that of all the region's voxels on this grid (for labels, their number over the
        number of voxels); 0 for a region without voxels.
    n_without_signal : int
        Voxels inside mask and atlas left out because they were zero or not finite at some time.
    """

    series: np.ndarray
    n_used: np.ndarray
    coverage: np.ndarray
    n_without_signal: int


def grid_of(image: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the shape and the affine of an image."""
    with images.damage_excludes(image.name), images.open_stream(image, whole=False) as stream:
        layout = images.read_layout(stream, image)
    return layout.shape, layout.affine


def extract(
    image: Path,
    mask: Path | None,
    atlas: Weights,
    *,
    smoothing_fwhm_mm: float | None = None,
    maps: Literal["weighted_mean", "least_squares"] = "weighted_mean",
) -> Extraction:
    """Average an image over the regions of an atlas.

    Parameters
    ----------
    image : Path
        4-D ``.nii`` or ``.nii.gz`` on the atlas's grid.
    mask : Path or None
        Brain mask on the same grid; voxels up to 0.5 are outside (masks may be scaled, so ``== 1``
        would select nothing). What lies outside the mask is zero in preprocessed images and would
        dilute the means.
    atlas : Weights
        On the image's grid.
    smoothing_fwhm_mm : float, optional
        Average the image smoothed by a Gaussian of this full width at half maximum in mm. The weights
        are smoothed in its place, which is the same.
    maps : str
        ``weighted_mean``: sum of weight times value over the sum of weights; ``least_squares``: the
        series whose mixture by the maps comes nearest to the image, as nilearn's ``NiftiMapsMasker``
        does. For labels both are the mean.

    Raises
    ------
    RunExcluded
        An image is missing, truncated or damaged, or the mask lies on another grid.

    Notes
    -----
    A voxel that is zero, or not finite, in some volumes only (it left the field of view) would put
    jumps into its region, so it is left out. Which voxels these are is known only at the end of the
    pass. Nearly all lie at the edge of the field of view, where the voxels' own values are kept and
    can be taken from the sums; where one does not, a second pass sums without it.
    """
    shape, affine = grid_of(image)
    assert shape[:3] == atlas.shape, "the atlas must have been put on the grid of the image"
    inside = atlas.matrix if mask is None else _within(atlas.matrix, _brain(mask, image, shape, affine))
    weights = smoothed(inside, atlas.shape, affine, smoothing_fwhm_mm) if smoothing_fwhm_mm else inside
    voxels = np.flatnonzero(np.bincount(weights.indices, minlength=weights.shape[0]))
    weights = sparse.csr_array(weights[voxels].T)  # (region, voxel)
    found = _sum(image, voxels, weights, keep_edge=True)
    sums, usable = found.sums, found.usable
    if not usable.all():
        lost = ~(usable | found.empty)
        if found.edge[lost].all():
            sums = sums - found.of_edge(weights, lost)
        voxels, weights = voxels[usable], weights[:, np.flatnonzero(usable)]
        if not found.edge[lost].all():
            sums = _sum(image, voxels, weights, keep_edge=False).sums
    used, total = weights.sum(axis=1), atlas.total
    with np.errstate(invalid="ignore", divide="ignore"):
        coverage = np.where(total > 0, used / total, 0.0)
        series = _unmixed(sums, inside[voxels]) if maps == "least_squares" else sums / used
    series[:, used == 0] = np.nan
    n_used = np.diff(sparse.csc_array(inside[voxels]).indptr).astype(np.int64)
    return Extraction(series, n_used, coverage, int((~usable).sum()))


def _brain(mask: Path, image: Path, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Return which voxels (x fastest) a mask says are brain."""
    brain, mask_affine = images.read_volume(mask)
    if not images.same_grid(shape, affine, brain.shape, mask_affine):
        raise RunExcluded(
            "mask on another grid",
            f"expected {mask.name} on the grid of {image.name} {shape[:3]}, found {brain.shape} or another affine",
        )
    return brain.ravel(order="F") > 0.5


def _within(matrix: sparse.csc_array, brain: np.ndarray) -> sparse.csc_array:
    """Return weights without those of voxels outside the brain."""
    kept = brain[matrix.indices]
    starts = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return sparse.csc_array((matrix.data[kept], matrix.indices[kept], starts), shape=matrix.shape)


def _unmixed(sums: np.ndarray, maps: sparse.csc_array) -> np.ndarray:
    """Return the least-squares series (time, region) from the maps' sums (time, region) and the maps themselves.

    The normal equations: ``(M'M) s = M'x``; `sums` holds ``M'x``.
    """
    known = np.diff(sparse.csc_array(maps).indptr) > 0
    columns = maps[:, np.flatnonzero(known)]
    series = np.full_like(sums, np.nan)
    series[:, known] = linalg.lstsq((columns.T @ columns).toarray(), sums[:, known].T)[0].T
    return series


@dataclass(frozen=True, eq=False)
class _Pass:
    """What one pass over an image gives.

    Attributes
    ----------
    sums : float64 array (time, region)
        Weighted sums of all voxels, scaled.
    usable, empty : bool arrays (voxel,)
        Which voxels have signal in every volume, and which never; these add nothing to the sums.
    edge : bool array (voxel,)
        Voxels whose own values were kept.
    values : array (time, edge voxel)
        These values, as stored.
    layout : Layout
        Says how they are scaled.
    """

    sums: np.ndarray
    usable: np.ndarray
    empty: np.ndarray
    edge: np.ndarray
    values: np.ndarray
    layout: images.Layout

    def of_edge(self, weights: sparse.csr_array, chosen: np.ndarray) -> np.ndarray:
        """Return what `chosen` edge voxels (a bool array over all voxels) added to the sums."""
        values = self.layout.scaled(self.values[:, chosen[self.edge]])
        return (weights[:, np.flatnonzero(chosen)] @ values.T).T


def _sum(image: Path, voxels: np.ndarray, weights: sparse.csr_array, *, keep_edge: bool) -> _Pass:
    """Sum an image over `voxels`, weighted by `weights` (region, voxel)."""
    sums: list[np.ndarray] = []
    finite, edge = np.ones(len(voxels), dtype=bool), np.zeros(len(voxels), dtype=bool)
    lowest, highest = np.full(len(voxels), np.inf), np.full(len(voxels), -np.inf)
    with _volumes(image) as (layout, pieces):
        # With an intercept zero is stored as the nearest integer: compare scaled values to half a step.
        step = abs(layout.slope) / 2 if layout.dtype.kind in "iu" and layout.intercept else 0.0
        for first, volumes in zip(count(step=VOLUMES_PER_READ), pieces, strict=False):
            if first == 0:
                if keep_edge:
                    edge = _edge(np.abs(layout.scaled(volumes[0])) <= step, voxels, layout)
                kept = np.empty((layout.n_volumes, int(edge.sum())), dtype=layout.dtype)
            values = np.take(volumes, voxels, axis=1)  # (volume, voxel)
            if values.dtype.kind == "f":
                bad = ~np.isfinite(values)
                if bad.any():
                    finite &= ~bad.any(axis=0)
                    values[bad] = 0
            sums.append((weights @ values.T.astype(np.float64, order="C")).T)
            kept[first : first + len(values)] = values[:, edge]
            np.minimum(lowest, values.min(axis=0), out=lowest)
            np.maximum(highest, values.max(axis=0), out=highest)
    bounds = np.sort(layout.scaled(np.stack([lowest, highest])), axis=0)  # the slope may be negative
    touches_zero = np.abs(bounds[0]) <= step
    empty = touches_zero & (np.abs(bounds[1]) <= step) & (layout.intercept == 0)
    return _Pass(
        sums=np.concatenate(sums) * layout.slope + weights.sum(axis=1) * layout.intercept,
        usable=finite & ~touches_zero,
        empty=empty,
        edge=edge,
        values=kept,
        layout=layout,
    )


def _edge(without_signal: np.ndarray, voxels: np.ndarray, layout: images.Layout) -> np.ndarray:
    """Return which of `voxels` lie near a voxel that has no signal in the first volume; none where they are many."""
    volume = without_signal.reshape(layout.shape[:3], order="F")
    near = ndimage.binary_dilation(volume, iterations=EDGE_VOXELS).ravel(order="F")[voxels]
    if near.sum() * layout.n_volumes * layout.dtype.itemsize > EDGE_BYTES:
        near[:] = False
    return near


@contextmanager
def _volumes(image: Path) -> Iterator[tuple[images.Layout, Iterator[np.ndarray]]]:
    """Open a 4-D image; give its layout and an iterator over pieces of it (volume, voxel), some volumes each."""
    with images.damage_excludes(image.name), images.open_stream(image) as stream:
        layout = images.read_layout(stream, image)
        if len(layout.shape) != 4:
            raise RunExcluded("not a series", f"{image.name}: expected a 4-D image, found shape {layout.shape}")
        compressed = image.suffix != ".nii"
        yield layout, _inflated(stream, layout, image) if compressed else _mapped(layout, image)


def _inflated(stream: BinaryIO, layout: images.Layout, image: Path) -> Iterator[np.ndarray]:
    """Yield pieces as they are inflated, always in the same memory, and check the stream to its end."""
    buffer = memoryview(bytearray(layout.volume_bytes * min(VOLUMES_PER_READ, layout.n_volumes)))
    for first in range(0, layout.n_volumes, VOLUMES_PER_READ):
        piece = buffer[: layout.volume_bytes * min(VOLUMES_PER_READ, layout.n_volumes - first)]
        found = images.read_exactly(stream, piece)
        if found < len(piece):
            raise _truncated(image, layout, first + found // layout.volume_bytes)
        yield np.frombuffer(piece, dtype=layout.dtype).reshape(-1, layout.n_voxels)
    images.check_end(stream, image.name)


def _mapped(layout: images.Layout, image: Path) -> Iterator[np.ndarray]:
    """Yield pieces of an uncompressed image, memory-mapped."""
    expected = layout.offset + layout.n_volumes * layout.volume_bytes
    found = image.stat().st_size
    if found < expected:
        raise _truncated(image, layout, max(found - layout.offset, 0) // layout.volume_bytes)
    if found > expected:
        raise RunExcluded("damaged image", f"{image.name} holds {found - expected} bytes more than its header says")
    shape = (layout.n_volumes, layout.n_voxels)
    volumes = np.memmap(image, dtype=layout.dtype, mode="r", offset=layout.offset, shape=shape)
    for first in range(0, layout.n_volumes, VOLUMES_PER_READ):
        yield volumes[first : first + VOLUMES_PER_READ]


def _truncated(image: Path, layout: images.Layout, n_whole: int) -> RunExcluded:
    return RunExcluded(
        "truncated image",
        f"{image.name}: expected {layout.n_volumes} volumes, found {n_whole} whole ones; copy it again",
    )

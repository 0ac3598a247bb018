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
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from scipy import linalg, sparse

from neuropipe.errors import RunExcluded
from neuropipe.signals import images
from neuropipe.signals.weights import Weights, smoothed

VOLUMES_PER_READ = 8


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
    jumps into its region, so it is left out. That such voxels exist is known only at the end of the
    pass; where they do, a second pass sums without them.
    """
    shape, affine = grid_of(image)
    assert shape[:3] == atlas.shape, "the atlas must have been put on the grid of the image"
    inside = atlas.matrix if mask is None else _within(atlas.matrix, _brain(mask, image, shape, affine))
    weights = smoothed(inside, atlas.shape, affine, smoothing_fwhm_mm) if smoothing_fwhm_mm else inside
    voxels = np.flatnonzero(np.bincount(weights.indices, minlength=weights.shape[0]))
    weights = sparse.csr_array(weights[voxels].T)  # (region, voxel)
    sums, usable, empty = _sum(image, voxels, weights)
    if not usable.all():
        voxels, weights = voxels[usable], weights[:, np.flatnonzero(usable)]
        if not (usable | empty).all():
            sums, _, _ = _sum(image, voxels, weights)
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


def _sum(image: Path, voxels: np.ndarray, weights: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weighted sums (time, region) over `voxels`, which of them have signal throughout, and which never.

    A voxel that is never finite or never differs from zero adds nothing to the sums.
    """
    sums: list[np.ndarray] = []
    finite = np.ones(len(voxels), dtype=bool)
    lowest, highest = np.full(len(voxels), np.inf), np.full(len(voxels), -np.inf)
    with _volumes(image) as (layout, chunks):
        for volumes in chunks:
            values = np.take(volumes, voxels, axis=1)  # (chunk, voxel)
            if values.dtype.kind == "f":
                bad = ~np.isfinite(values)
                if bad.any():
                    finite &= ~bad.any(axis=0)
                    values[bad] = 0
            sums.append((weights @ values.T.astype(np.float64, order="C")).T)
            np.minimum(lowest, values.min(axis=0), out=lowest)
            np.maximum(highest, values.max(axis=0), out=highest)
    # With an intercept zero is stored as the nearest integer: compare scaled values to half a step.
    step = abs(layout.slope) / 2 if layout.dtype.kind in "iu" and layout.intercept else 0.0
    bounds = np.sort(layout.scaled(np.stack([lowest, highest])), axis=0)  # the slope may be negative
    touches_zero = np.abs(bounds[0]) <= step
    empty = touches_zero & (np.abs(bounds[1]) <= step) & (layout.intercept == 0)
    return np.concatenate(sums) * layout.slope + weights.sum(axis=1) * layout.intercept, finite & ~touches_zero, empty


@contextmanager
def _volumes(image: Path) -> Iterator[tuple[images.Layout, Iterator[np.ndarray]]]:
    """Open a 4-D image; give its layout and an iterator over chunks of volumes (chunk, voxel)."""
    with images.damage_excludes(image.name), images.open_stream(image) as stream:
        layout = images.read_layout(stream, image)
        if len(layout.shape) != 4:
            raise RunExcluded("not a series", f"{image.name}: expected a 4-D image, found shape {layout.shape}")
        compressed = image.suffix != ".nii"
        yield layout, _inflated(stream, layout, image) if compressed else _mapped(layout, image)


def _inflated(stream: BinaryIO, layout: images.Layout, image: Path) -> Iterator[np.ndarray]:
    """Yield chunks as they are inflated, always in the same memory, and check the stream to its end."""
    buffer = memoryview(bytearray(layout.volume_bytes * min(VOLUMES_PER_READ, layout.n_volumes)))
    for first in range(0, layout.n_volumes, VOLUMES_PER_READ):
        chunk = buffer[: layout.volume_bytes * min(VOLUMES_PER_READ, layout.n_volumes - first)]
        found = images.read_exactly(stream, chunk)
        if found < len(chunk):
            raise _truncated(image, layout, first + found // layout.volume_bytes)
        yield np.frombuffer(chunk, dtype=layout.dtype).reshape(-1, layout.n_voxels)
    images.check_end(stream, image.name)


def _mapped(layout: images.Layout, image: Path) -> Iterator[np.ndarray]:
    """Yield chunks of an uncompressed image, memory-mapped."""
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

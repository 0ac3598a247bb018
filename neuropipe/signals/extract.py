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
from typing import BinaryIO

import numpy as np

from neuropipe.errors import RunExcluded
from neuropipe.signals import images
from neuropipe.signals.grids import Merged

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
        `n_used` over the region's voxels on this grid; 0 for a region without voxels.
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


def extract(image: Path, mask: Path | None, atlas: Merged) -> Extraction:
    """Average an image over the regions of an atlas.

    Parameters
    ----------
    image : Path
        4-D ``.nii`` or ``.nii.gz`` on the atlas's grid.
    mask : Path or None
        Brain mask on the same grid; voxels up to 0.5 are outside (masks may be scaled, so ``== 1``
        would select nothing). What lies outside the mask is zero in preprocessed images and would
        dilute the means.
    atlas : Merged
        Labels on the image's grid.

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
    assert shape[:3] == atlas.labels.shape, "the atlas must have been merged on the grid of the image"
    inside = atlas.labels > 0
    if mask is not None:
        brain, mask_affine = images.read_volume(mask)
        if not images.same_grid(shape, affine, brain.shape, mask_affine):
            raise RunExcluded(
                "mask on another grid",
                f"expected {mask.name} on the grid of {image.name} {shape[:3]}, found {brain.shape} or another affine",
            )
        inside &= brain > 0.5
    voxels = np.flatnonzero(inside.ravel(order="F"))
    region = atlas.labels.ravel(order="F")[voxels] - 1
    n_regions = len(atlas.n_voxels)
    sums, usable, empty = _sum(image, voxels, region, n_regions)
    if not (usable | empty).all():
        sums, _, _ = _sum(image, voxels[usable], region[usable], n_regions)
    n_used = np.bincount(region[usable], minlength=n_regions)
    with np.errstate(invalid="ignore", divide="ignore"):
        series = sums / n_used
        coverage = np.where(atlas.n_voxels > 0, n_used / atlas.n_voxels, 0.0)
    series[:, n_used == 0] = np.nan
    return Extraction(series, n_used, coverage, int((~usable).sum()))


def _sum(
    image: Path, voxels: np.ndarray, region: np.ndarray, n_regions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sums (time, region) over `voxels`, which of them have signal throughout, and which never.

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
            sums.extend(np.bincount(region, weights=volume, minlength=n_regions) for volume in values)
            np.minimum(lowest, values.min(axis=0), out=lowest)
            np.maximum(highest, values.max(axis=0), out=highest)
    # With an intercept zero is stored as the nearest integer: compare scaled values to half a step.
    step = abs(layout.slope) / 2 if layout.dtype.kind in "iu" and layout.intercept else 0.0
    bounds = np.sort(layout.scaled(np.stack([lowest, highest])), axis=0)  # the slope may be negative
    touches_zero = np.abs(bounds[0]) <= step
    empty = touches_zero & (np.abs(bounds[1]) <= step) & (layout.intercept == 0)
    n_voxels = np.bincount(region, minlength=n_regions)
    return np.stack(sums) * layout.slope + n_voxels * layout.intercept, finite & ~touches_zero, empty


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

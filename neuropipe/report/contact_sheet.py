"""Contact sheets: three slices of every map, or the middle slice of every scan, fifty to a picture.

A sheet is one column of equal strips, so that a page shows a strip by moving the sheet up by whole strips,
whatever the width it is shown at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PER_SHEET = 50
MAX_SIDE = 80  # pixels of the longest side of a slice
WINDOW = (1.0, 99.5)  # percentiles of a strip that become black and white


def of_volume(volume: np.ndarray, voxel_mm: Sequence[float], max_side: int = MAX_SIDE) -> np.ndarray:
    """Return the axial, coronal and sagittal slice through the middle of a map, side by side.

    Parameters
    ----------
    volume : array (x, y, z)
        RAS+: left is left, anterior and superior are up; anterior is right in the sagittal slice.
    voxel_mm : sequence of 3 floats
        Edges of a voxel.
    max_side : int
        Pixels of the longest side, at most.

    Returns
    -------
    float array (row, column)
    """
    x, y, z = (n // 2 for n in volume.shape)
    slices = [volume[:, :, z].T[::-1], volume[:, y, :].T[::-1], volume[x].T[::-1]]
    across, along, up = _pixels(volume.shape, voxel_mm, max_side)
    shapes = [(along, across), (up, across), (up, along)]
    shrunk = [resized(plane, shape) for plane, shape in zip(slices, shapes, strict=True)]
    height = max(along, up)
    return np.hstack([_centred(plane, height) for plane in shrunk])


def of_slices(slices: np.ndarray, max_side: int = 2 * MAX_SIDE) -> np.ndarray:
    """Return the middle slice (row, column) of a scan (slice, row, column), its longest side at most `max_side`."""
    middle = slices[len(slices) // 2]
    rows, columns = _pixels(middle.shape, (1.0, 1.0), max_side)
    return resized(middle, (rows, columns))


def _pixels(shape: Sequence[int], edges: Sequence[float], max_side: int) -> list[int]:
    """Return the pixels of each axis: a whole number of the finest voxels to a pixel where it has to shrink."""
    finest = min(edges)
    lengths = [n * edge / finest for n, edge in zip(shape, edges, strict=True)]
    step = np.ceil(max(lengths) / max_side)
    return [max(int(np.ceil(length / step)), 1) for length in lengths]


def resized(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a plane of another shape: the mean of the pixels that fall together, or pixels that are repeated."""
    plane = np.asarray(plane, dtype=np.float64)
    for axis, n in enumerate(shape):
        starts = np.arange(n) * plane.shape[axis] // n
        counts = np.diff(starts, append=plane.shape[axis])
        total = np.add.reduceat(plane, starts, axis=axis)  # a start that occurs twice gives the pixel itself
        plane = total / np.maximum(counts, 1).reshape((-1, 1) if axis == 0 else (1, -1))
    return plane


def _centred(plane: np.ndarray, height: int) -> np.ndarray:
    """Return a plane with rows of its lowest value above and below."""
    above = (height - len(plane)) // 2
    return np.pad(plane, ((above, height - len(plane) - above), (0, 0)), constant_values=plane.min())


def greys(strip: np.ndarray) -> np.ndarray:
    """Return a strip in uint8; every strip has its own window, so that weak maps are seen as well as strong ones."""
    low, high = np.percentile(strip, WINDOW)
    if not high > low:
        low, high = float(strip.min()), float(strip.max())
    share = (strip - low) / (high - low) if high > low else np.zeros(strip.shape)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def sheet(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Return uint8 strips of any shapes below each other; smaller ones lie in the middle of a black frame."""
    height, width = np.max([strip.shape for strip in strips], axis=0)
    page = np.zeros((len(strips) * height, width), dtype=np.uint8)
    for n, strip in enumerate(strips):
        top, left = n * height + (height - strip.shape[0]) // 2, (width - strip.shape[1]) // 2
        page[top : top + strip.shape[0], left : left + strip.shape[1]] = strip
    return page

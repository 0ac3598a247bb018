"""A stack of slices as one picture that a page can unpack: greys of 8 bits, small enough to travel inside the page."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from neuropipe.report import png

LEVELS = 255
BRIGHTEST = 99.9  # percentile of the values that are not the lowest, shown as white
DARKEST = 0.1


@dataclass(frozen=True)
class Stack:
    """A stack on the page.

    Attributes
    ----------
    uri : str
        The PNG: slices side by side, `columns` in a row.
    shape : (int, int, int)
        Slices, rows and columns of one slice.
    columns : int
        Slices in a row of the picture.
    """

    uri: str
    shape: tuple[int, int, int]
    columns: int


def pack(values: np.ndarray, n_bytes: int, limits: tuple[float, float] | None = None) -> Stack:
    """Return a stack of at most about `n_bytes` of PNG.

    Neighbouring rows and columns are averaged until it is small enough; every slice stays.

    Parameters
    ----------
    values : float array (slice, row, column)
        All finite.
    n_bytes : int
        Before the third that base64 adds.
    limits : (float, float), optional
        Values shown as black and white; default near the ends of what is there.
    """
    low, high = limits or window(values)
    levels = np.rint((np.clip(values, low, high) - low) / ((high - low) or 1) * LEVELS)
    content = png.encode_grey(_side_by_side(levels))
    while len(content) > n_bytes and min(levels.shape[1:]) > 8:
        levels = shrink(levels, math.sqrt(n_bytes / len(content)))
        content = png.encode_grey(_side_by_side(levels))
    return Stack(png.data_uri(content), levels.shape, _columns(len(levels)))


def window(values: np.ndarray) -> tuple[float, float]:
    """Return the values to be shown as black and white: near the ends, so that single bright voxels do not rule."""
    low = float(np.percentile(values, DARKEST))
    above = values[values > low]
    return low, float(np.percentile(above, BRIGHTEST)) if above.size else low + 1


def shrink(stack: np.ndarray, share: float) -> np.ndarray:
    """Return a stack whose slices have `share` of their rows and columns or a little less, neighbours averaged."""
    for axis in (1, 2):
        n = stack.shape[axis]
        size = max(8, min(n - 1, int(n * share)))
        edges = np.linspace(0, n, size + 1)
        # The running sum at fractional edges: what lies between two of them is a pixel of the result.
        total = np.concatenate([np.zeros_like(stack.take([0], axis)), np.cumsum(stack, axis)], axis)
        below = np.minimum(edges.astype(int), n - 1)
        part = (edges - below).reshape([-1 if a == axis else 1 for a in range(3)])
        at = total.take(below, axis) * (1 - part) + total.take(below + 1, axis) * part
        stack = np.diff(at, axis=axis) * size / n
    return stack


def _columns(n_slices: int) -> int:
    return math.ceil(math.sqrt(n_slices))


def _side_by_side(stack: np.ndarray) -> np.ndarray:
    """Return uint8 (row, column): the slices of a stack in rows of as many as there are rows."""
    n, rows, columns = stack.shape
    wide = _columns(n)
    high = -(-n // wide)
    tiles = np.zeros((high * wide, rows, columns), np.uint8)
    tiles[:n] = np.rint(stack)
    return tiles.reshape(high, wide, rows, columns).swapaxes(1, 2).reshape(high * rows, wide * columns)

"""Atlases on another grid: nearest and linear interpolation between voxels, and label images merged into one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from neuropipe.signals import images
from neuropipe.signals.atlases import Atlas

ROUNDING = 1e-9  # of positions, in voxels: nearer to a voxel than this is on it


@dataclass(frozen=True, eq=False)
class Merged:
    """Several atlases on one grid.

    Attributes
    ----------
    labels : int32 array (x, y, z)
        Position of the voxel's region in the region table plus one; 0 outside.
    n_voxels : int64 array (region,)
        Voxels of each region on this grid.
    n_overlapping : int
        Voxels that more than one atlas claims; the first one listed has them.
    """

    labels: np.ndarray
    n_voxels: np.ndarray
    n_overlapping: int


def nearest(position: np.ndarray, n_voxels: int | Sequence[int]) -> np.ndarray:
    """Return the nearest voxels (int64) of positions along axes of `n_voxels`; of two the one with the lower index.

    What lies outside gets -1 at the nearest, or `n_voxels`.
    """
    return np.ceil(position.clip(-1, n_voxels) - 0.5 - 1e-6).astype(np.int64)


def linear_weights(where: np.ndarray, shape: Sequence[int]) -> sparse.csr_array:
    """Return the weights of trilinear interpolation, float64 sparse (position, voxel).

    Parameters
    ----------
    where : float64 array (position, 3)
        Indices of voxels.
    shape : three int
        Size of the grid; its voxels are numbered with x fastest. What lies outside counts as 0.
    """
    shape = tuple(shape)
    near = np.flatnonzero(((where > -1) & (where < shape)).all(axis=1))  # the others have no neighbour
    position = where[near]
    low = np.floor(position + ROUNDING).astype(np.int64)
    rows, columns, weights = [], [], []
    for corner in np.ndindex(2, 2, 2):
        voxel = low + corner
        weight = np.prod(1 - np.abs(position - voxel), axis=1)
        usable = np.flatnonzero(((voxel >= 0) & (voxel < shape)).all(axis=1) & (weight > ROUNDING))
        rows.append(near[usable].astype(np.int32))
        columns.append(np.ravel_multi_index(tuple(voxel[usable].T), shape, order="F").astype(np.int32))
        weights.append(weight[usable])
    pairs = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_array((np.concatenate(weights), pairs), shape=(len(where), int(np.prod(shape))))


def on_grid(labels: np.ndarray, affine: np.ndarray, shape: Sequence[int], target: np.ndarray) -> np.ndarray:
    """Resample a label image by nearest neighbour in world coordinates.

    Orientation, origin and size of both grids come from their affines, never from array positions:
    a left-right flipped array of the same shape is put right.

    Parameters
    ----------
    labels : int array (x, y, z)
        Source.
    affine, target : float64 arrays (4, 4)
        Voxel indices to mm, of the source and of the wanted grid.
    shape : three int
        Size of the wanted grid.

    Returns
    -------
    int32 array of `shape`, 0 outside the source.
    """
    to_source = np.linalg.inv(affine) @ target
    x, y, z = (np.arange(n, dtype=np.float64) for n in shape)
    inside = np.ones(tuple(shape), dtype=bool)
    flat = np.zeros(tuple(shape), dtype=np.int64)
    for axis in range(3):
        a, b, c, d = to_source[axis]
        position = (a * x)[:, None, None] + (b * y)[None, :, None] + ((c * z) + d)[None, None, :]
        voxel = nearest(position, labels.shape[axis])
        inside &= (voxel >= 0) & (voxel < labels.shape[axis])
        flat = flat * labels.shape[axis] + voxel
    out = np.zeros(tuple(shape), dtype=np.int32)
    out[inside] = np.ascontiguousarray(labels).ravel()[flat[inside]]
    return out


def merge(atlases: Sequence[Atlas], shape: Sequence[int], affine: np.ndarray) -> Merged:
    """Merge atlases of one space into one label image on the grid of a run; the first listed wins a voxel."""
    shape = tuple(shape[:3])
    placed = (
        atlas.labels
        if images.same_grid(atlas.labels.shape, atlas.affine, shape, affine)
        else on_grid(atlas.labels, atlas.affine, shape, affine)
        for atlas in atlases
    )
    return overlay(shape, placed, [atlas.table for atlas in atlases])


def overlay(shape: tuple[int, ...], placed: Iterable[np.ndarray], tables: Iterable[pd.DataFrame]) -> Merged:
    """Merge label arrays; the first one wins where several have a region.

    Parameters
    ----------
    shape : tuple of int
        Of all the arrays.
    placed : iterable of int32 arrays
        Values of each atlas, 0 outside.
    tables : iterable of DataFrame
        Their tables, whose rows are the regions in order and whose ``value`` is the integer in the array.
    """
    merged = np.zeros(shape, dtype=np.int32)
    n_overlapping, first = 0, 1
    for values, table in zip(placed, tables, strict=True):
        position = np.zeros(max(int(values.max()), int(table["value"].max())) + 1, dtype=np.int32)
        position[table["value"]] = np.arange(first, first + len(table))
        found = position[np.maximum(values, 0)]
        n_overlapping += int(((merged > 0) & (found > 0)).sum())
        merged = np.where(merged > 0, merged, found)
        first += len(table)
    n_voxels = np.bincount(merged.ravel(), minlength=first)[1:]
    return Merged(merged, n_voxels, n_overlapping)

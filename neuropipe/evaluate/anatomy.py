"""Features of maps and slices for linear readouts: the voxels of a mask, and regional volumes.

A map has two million voxels, so the voxels of everyone are never held at once: shards are read in blocks
of voxels, twice (once for what the masks depend on, once for inner products), and only inner products
are kept. That is all that a penalised linear model on principal components needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.evaluate.features import Features, Kernel
from neuropipe.shards.read import Shards
from neuropipe.splits.people import People

MASK_SHARE = 0.05  # of the range of the training side's mean map, above which a voxel counts
BLOCK_BYTES = 256 * 2**20  # float32 values of one block of voxels, everyone's together


@dataclass(frozen=True, eq=False)
class Maps:
    """Everyone's map, one row per person, read in blocks of voxels; of stacks of slices, their mean slice.

    Parameters
    ----------
    people : People
        Rows; a person's sessions are averaged.
    sources : sequence of Shards
        In the order that `people` was gathered from, all on one grid.
    """

    people: People
    sources: Sequence[Shards]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape (x, y, z) of every map, or (row, column) of every slice.

        Raises
        ------
        InputError
            Maps lie on different grids, or slices have different shapes.
        """
        shapes = self.shapes
        if len(shapes) > 1:
            listed = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes)[:3])
            raise InputError(
                f"Voxels can only be compared on one grid, found {listed}; prepare the datasets with one section "
                "volumes (voxel_mm, size, image_size)."
            )
        if self.people.content == "volume":
            _check_one_grid(self.sources)
        return next(iter(shapes))

    @cached_property
    def shapes(self) -> set[tuple[int, ...]]:
        """The different shapes that there are."""
        first = 1 if self.people.content == "image" else 0
        return {tuple(int(n) for n in shape)[first:] for shape in self.people.recordings["shape"]}

    @cached_property
    def _recordings(self) -> list[tuple[int, np.ndarray, np.float32, np.float32]]:
        """(row of a person, stored values (slices, voxels), scale over the person's sessions, shift likewise)."""
        n_voxels = int(np.prod(self.shape))
        table = self.people.recordings
        sessions = table["row"].value_counts()
        found = []
        for one in table.itertuples():
            stored = self.sources[one.source].array(one.position).reshape(-1, n_voxels)
            share = 1 / sessions[one.row]
            found.append((one.row, stored, np.float32(one.scale * share), np.float32(one.shift * share)))
        return found

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield float32 arrays (n_people, some voxels), in the order of voxels."""
        n_voxels = int(np.prod(self.shape))
        width = max(1, BLOCK_BYTES // (4 * len(self.people)))
        for start in range(0, n_voxels, width):
            values = np.zeros((len(self.people), min(width, n_voxels - start)), dtype=np.float32)
            for row, stored, scale, shift in self._recordings:
                part = stored[:, start : start + width]
                part = part[0] if len(part) == 1 else part.mean(axis=0, dtype=np.float32)
                values[row] += part.astype(np.float32) * scale + shift
            yield values


def _check_one_grid(sources: Sequence[Shards]) -> None:
    first = sources[0].grid
    for source in sources[1:]:
        grid = source.grid
        if grid.space != first.space or not np.allclose(grid.affine, first.affine, atol=1e-3):
            raise InputError(
                f"Voxels of {source.dataset} ({grid.space}) and of {sources[0].dataset} ({first.space}) do not lie in "
                "the same places; a task asks datasets of one space and one affine."
            )


@dataclass(frozen=True, eq=False)
class MaskedVoxels:
    """Inner products of everyone's voxels inside the mask of each of some training sides.

    Masks of folds differ at their edges only, so the voxels that all of them share are multiplied
    once, and those that some have are kept as they are.

    Attributes
    ----------
    shared : float64 ndarray (n_people, n_people)
        Inner products over the voxels that lie inside every mask.
    n_shared : int
        Their number.
    edge : float32 ndarray (n_people, n_edge)
        Voxels inside some masks; all values less their overall mean.
    inside : bool ndarray (n_sides, n_edge)
        Which of these lie inside the mask of a training side.
    """

    shared: np.ndarray
    n_shared: int
    edge: np.ndarray
    inside: np.ndarray

    @classmethod
    def of(cls, maps: Maps, sides: Sequence[np.ndarray], share: float = MASK_SHARE) -> MaskedVoxels:
        """Measure maps for training sides (int arrays of rows).

        A mask holds the voxels whose mean over the training side lies above `share` of that mean's range.
        """
        n_people = len(maps.people)
        weights = np.zeros((len(sides), n_people), dtype=np.float32)
        for side, rows in enumerate(sides):
            weights[side, rows] = 1 / len(rows)
        threshold = _thresholds(maps, weights, share)
        shared, n_shared, edges, insides = np.zeros((n_people, n_people)), 0, [], []
        for values in maps.blocks():
            inside = weights @ values > threshold
            everywhere = inside.all(axis=0)
            some = inside.any(axis=0) & ~everywhere
            values -= values.mean(axis=0, dtype=np.float64).astype(np.float32)  # cancels, but saves digits
            kept = values[:, everywhere]
            shared += kept @ kept.T
            n_shared += kept.shape[1]
            edges.append(values[:, some])
            insides.append(inside[:, some])
        return cls(shared, n_shared, np.concatenate(edges, axis=1), np.concatenate(insides, axis=1))

    def kernel(self, side: int) -> Kernel:
        """Return the features of a training side, by its number."""
        edge = self.edge[:, self.inside[side]]
        n_voxels = self.n_shared + edge.shape[1]
        if n_voxels == 0:
            raise InputError(
                "The mean map of a training side is the same everywhere, so it draws no mask; see the maps."
            )
        return Kernel(self.shared + edge @ edge.T, n_voxels)


def _thresholds(maps: Maps, weights: np.ndarray, share: float) -> np.ndarray:
    """Return (n_sides, 1): the value that a training side's mean must exceed."""
    low, high = np.full(len(weights), np.inf), np.full(len(weights), -np.inf)
    for values in maps.blocks():
        mean = weights @ values
        low, high = np.minimum(low, mean.min(axis=1)), np.maximum(high, mean.max(axis=1))
    return (low + share * (high - low)).astype(np.float32)[:, None]


def regional_volumes(people: People, sources: Sequence[Shards]) -> Features:
    """Return every person's regional volumes in mL and, last, their sum; sessions are averaged.

    Raises
    ------
    InputError
        Datasets have different regions.
    """
    tables = [source.regional for source in sources]
    for source, table in zip(sources, tables, strict=True):
        if list(table) != list(tables[0]):
            raise InputError(
                f"Regional volumes of {source.dataset} and {sources[0].dataset} are of different regions "
                f"({table.shape[1]} and {tables[0].shape[1]}); parcellate both with the same atlases."
            )
    recordings = people.recordings
    rows = [tables[s].loc[key].to_numpy(float) for s, key in zip(recordings["source"], recordings["key"], strict=True)]
    volumes = pd.DataFrame(rows).groupby(recordings["row"].to_numpy()).mean().reindex(range(len(people)))
    return Features(volumes.assign(total=volumes.sum(axis=1)).to_numpy(float))

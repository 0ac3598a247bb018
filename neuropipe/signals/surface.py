"""Series of vertices (and CIFTI's voxels): which region each column belongs to, and regional means.

Columns are matched to an atlas by structure and vertex number, or by the voxel's position in mm; never
by their place in the array, because files differ in whether they hold the medial wall or the subcortex.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel.cifti2 import BrainModelAxis

from neuropipe.errors import AtlasError, RunExcluded
from neuropipe.signals.atlases import Atlas
from neuropipe.signals.cifti import Dense
from neuropipe.signals.extract import Extraction
from neuropipe.signals.gifti import Hemispheres
from neuropipe.signals.grids import Merged, on_grid, overlay

Series = Dense | Hemispheres
VOLUME = "voxels"  # name of the part of a domain that is not a surface


@dataclass(frozen=True, eq=False)
class SurfaceAtlas:
    """Labels of vertices, and of voxels where the file has some.

    Attributes
    ----------
    id, space, table, checksum
        As of `neuropipe.signals.atlases.Atlas`.
    meshes : dict of str to int32 array (vertex,)
        Values of a whole mesh by CIFTI structure; 0 where the file has no label.
    labels : int32 array (x, y, z) or None
        Values of the voxels, 0 outside.
    affine : float64 array (4, 4) or None
        Voxel indices to mm.
    """

    id: str
    space: str
    table: pd.DataFrame
    checksum: str
    meshes: dict[str, np.ndarray]
    labels: np.ndarray | None
    affine: np.ndarray | None


def open_series(images: Sequence[Path]) -> Series:
    """Open a run: one ``.dtseries.nii``, or the ``.func.gii`` of both hemispheres, left first."""
    return Dense(images[0]) if len(images) == 1 else Hemispheres(images)


def fingerprint(columns: BrainModelAxis) -> str:
    """Return a hash of the columns; runs of one study share it."""
    name = columns.name
    starts = np.concatenate([[0], np.flatnonzero(name[1:] != name[:-1]) + 1])
    structures = [(int(start), str(name[start])) for start in starts]
    about = (structures, sorted(columns.nvertices.items()), columns.volume_shape)
    digest = hashlib.sha256(repr(about).encode())
    for part in (columns.vertex, columns.voxel, columns.affine):
        if part is not None:
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def merge(atlases: Sequence[SurfaceAtlas | Atlas], columns: BrainModelAxis) -> Merged:
    """Merge atlases on the columns of a run; the first listed wins a vertex or voxel.

    Parameters
    ----------
    atlases : sequence of SurfaceAtlas or Atlas
        Label images of voxels apply to CIFTI's voxels.
    columns : BrainModelAxis
        The run's.

    Returns
    -------
    Merged
        Its `labels` are an array (column,); its `n_voxels` count every vertex or voxel of a region on the
        whole mesh or grid, whether the run has a column for it or not.

    Raises
    ------
    RunExcluded
        A mesh of the run has another number of vertices than the atlas's.
    AtlasError
        An atlas has maps in place of labels.
    """
    domain = _Domain(columns)
    placed = (domain.place(atlas) for atlas in atlases)
    merged = overlay((domain.size,), placed, [atlas.table for atlas in atlases])
    return Merged(merged.labels[domain.position], merged.n_voxels, merged.n_overlapping)


class _Domain:
    """Everything that a run may have a column for: each vertex of its meshes, each voxel of its grid, in one row."""

    def __init__(self, columns: BrainModelAxis) -> None:
        self.columns = columns
        self.shape = tuple(int(n) for n in columns.volume_shape or ())
        self.parts: dict[str, slice] = {}
        sizes = {name: int(n) for name, n in columns.nvertices.items()} | {VOLUME: int(np.prod(self.shape or 0))}
        self.size = 0
        for name, size in sizes.items():
            self.parts[name] = slice(self.size, self.size + size)
            self.size += size

    @property
    def position(self) -> np.ndarray:
        """int64 array (column,): where each column of the run stands in the row."""
        columns, out = self.columns, np.zeros(len(self.columns), dtype=np.int64)
        for name in columns.nvertices:
            here = columns.name == name
            out[here] = self.parts[name].start + columns.vertex[here]
        voxels = ~columns.surface_mask
        if voxels.any():
            out[voxels] = self.parts[VOLUME].start + np.ravel_multi_index(columns.voxel[voxels].T, self.shape)
        return out

    def place(self, atlas: SurfaceAtlas | Atlas) -> np.ndarray:
        """int32 array (position,): an atlas's values, 0 outside."""
        out = np.zeros(self.size, dtype=np.int32)
        if isinstance(atlas, Atlas) and atlas.labels is None:
            raise AtlasError(f"The atlas {atlas.id} has maps, which apply to volumes only; name an atlas of labels.")
        for name, values in atlas.meshes.items() if isinstance(atlas, SurfaceAtlas) else ():
            if name in self.columns.nvertices:
                part = self.parts[name]
                if len(values) != part.stop - part.start:
                    raise RunExcluded(
                        "wrong density",
                        f"expected {len(values)} vertices of {name}, as in the atlas {atlas.id}, found "
                        f"{part.stop - part.start}; name an atlas of the same density, or select another den",
                    )
                out[part] = values
        if atlas.labels is not None and self.shape:
            out[self.parts[VOLUME]] = on_grid(atlas.labels, atlas.affine, self.shape, self.columns.affine).ravel()
        return out


def extract(series: Series, atlas: Merged) -> Extraction:
    """Average a run over the regions of an atlas.

    Parameters
    ----------
    series : Series
        An open run.
    atlas : Merged
        By `merge`, on the run's columns.

    Returns
    -------
    Extraction
        Vertices count as voxels do. There is no mask: a vertex counts where it has signal in every volume.
    """
    n_regions = len(atlas.n_voxels)
    sums, usable = series.sums(atlas.labels, n_regions)
    inside = atlas.labels > 0
    n_used = np.bincount(atlas.labels[inside & usable] - 1, minlength=n_regions)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / n_used
        coverage = np.where(atlas.n_voxels > 0, n_used / atlas.n_voxels, 0.0)
    means[:, n_used == 0] = np.nan
    return Extraction(means, n_used, coverage, int((inside & ~usable).sum()))

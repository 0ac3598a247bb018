"""Atlases: named ones from the catalogue and files of the user's own, fetched once, held to their checksum, merged.

An atlas is a label image, or an image of one map per region, and a region table. The region table of
several is the concatenation of theirs, in the order in which they are listed; their images are merged
on the grid of each run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csc_array

from neuropipe.config import AtlasFile, expand
from neuropipe.errors import AtlasError, RunExcluded
from neuropipe.provenance import sha256
from neuropipe.signals import checks, images, tables
from neuropipe.signals.cache import verified
from neuropipe.signals.catalogue import CATALOGUE, entry, in_space
from neuropipe.signals.mapfiles import read_maps
from neuropipe.signals.regions import COLUMNS, Regions

if TYPE_CHECKING:
    from neuropipe.signals.surface import SurfaceAtlas

LABEL_TOLERANCE = 1e-3
# The voxels of a CIFTI file in the first space lie in the second, so that their atlases go together.
CIFTI_SPACES = ("fsLR", "MNI152NLin6Asym")


@dataclass(frozen=True, eq=False)
class Atlas:
    """One label image, or one image of maps, with its table.

    Attributes
    ----------
    id : str
        Name in config.yaml.
    space : str
        Template space.
    table : DataFrame
        Columns of a region table, and ``value``: the integer in the label image, or the number of the
        map (from 1).
    labels : int32 array (x, y, z) or None
        Values of the label image, 0 outside; None for maps.
    affine : float64 array (4, 4)
        Voxel indices to mm.
    checksum : str
        SHA-256 of the image file.
    maps : float32 sparse.csc_array (voxel, region) or None
        Weights, one column per row of `table`; voxels are numbered with x fastest. None for labels.
    shape : tuple of int
        Size of the grid (x, y, z).
    centres : float64 array (region, 3) or None
        Centre of each region in the image, in mm; the table's own x, y, z may be other points of it.
    """

    id: str
    space: str
    table: pd.DataFrame
    labels: np.ndarray | None
    affine: np.ndarray
    checksum: str
    maps: csc_array | None = None
    shape: tuple[int, ...] = ()
    centres: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.labels is not None:
            object.__setattr__(self, "shape", self.labels.shape)


# --- loading ------------------------------------------------------------------------------------


def space_of(spec: str | AtlasFile) -> str:
    """Return the declared space of an atlas, without opening anything."""
    return entry(spec).space if isinstance(spec, str) else spec.space


def common_space(specs: Sequence[str | AtlasFile], warp: bool = False) -> str:
    """Return the space of all atlases of a study; with `warp` that of the first, to which the others are brought.

    Surface labels in fsLR and volume labels in MNI152NLin6Asym are one space, fsLR: CIFTI files have both.

    Raises
    ------
    AtlasError
        There is none, or two differ.
    """
    spaces = {(spec if isinstance(spec, str) else spec.id): space_of(spec) for spec in specs}
    if set(spaces.values()) == set(CIFTI_SPACES):
        return CIFTI_SPACES[0]
    if not spaces or (len(set(spaces.values())) > 1 and not warp):
        found = ", ".join(f"{name}: {space}" for name, space in spaces.items()) or "no atlas"
        raise AtlasError(
            f"The atlases of a study must lie in one space, found {found}. Templates differ by millimetres: name the "
            "builds of one space (see neuropipe atlas list), or set warp: true."
        )
    return next(iter(spaces.values()))


def advice(ids: Sequence[str], space: str) -> str:
    """Return what to do about atlases that do not lie in the space of the images."""
    builds = {name: in_space(name, space) for name in ids if name in CATALOGUE}
    named = [f"{build.id} instead of {name}" for name, build in builds.items() if build and build.id != name]
    without = [name for name in ids if not builds.get(name)]
    lines = [f"name {', '.join(named)} in atlases"] if named else []
    if without:
        lines.append(f"{', '.join(without)} has no build in {space}")
    return "; ".join([*lines, "or set warp: true to bring atlases there by TemplateFlow's transform"])


def load(spec: str | AtlasFile) -> Atlas | SurfaceAtlas:
    """Load an atlas of the catalogue, or a user's file.

    Raises
    ------
    AtlasError
        It is unknown, not fetched, altered, or its image and table do not fit together.
    """
    if isinstance(spec, AtlasFile) and spec.on_surface:
        from neuropipe.signals import surface_atlases  # it builds on this module

        return surface_atlases.load(spec)
    if isinstance(spec, str):
        item, name = entry(spec), spec
        image, checksum = verified(item.image, name)
        path = None if item.table is None else verified(item.table, name)[0]
        table = tables.of_entry(item, path)
    else:
        item, name, path = spec, spec.id, Path(expand(spec.table or ""))
        image, checksum = _own_image(spec)
        table = tables.of_file(name, path, spec.kind)
    read = _labels if item.kind == "labels" else _maps
    try:
        atlas = read(name, item.space, table, image, checksum)
    except RunExcluded as error:
        raise AtlasError(f"The image {image} of the atlas {name} cannot be read: {error}") from error
    if atlas.labels is not None:
        checks.labels_fit(atlas.labels, table, name, image, path)
    checks.sides_fit(atlas.table, atlas.centres, name, image)
    return atlas


def _labels(name: str, space: str, table: pd.DataFrame, image: Path, checksum: str) -> Atlas:
    values, affine = images.read_volume(image)
    labels = integer_labels(values, image)
    centres = _centres_of_labels(labels, table["value"].to_numpy(), affine)
    return Atlas(name, space, _filled(table, centres), labels, affine, checksum, centres=centres)


def _maps(name: str, space: str, table: pd.DataFrame, image: Path, checksum: str) -> Atlas:
    """Read maps; the table's rows, in the order of their numbers (from 0 or from 1), are the image's maps."""
    maps, shape, affine = read_maps(image)
    n_maps = maps.shape[1]
    first = table["value"].min()
    if sorted(table["value"]) != list(range(first, first + n_maps)) or first not in (0, 1):
        raise AtlasError(
            f"The atlas {name}: expected one row of its table for each of the {n_maps} maps of {image}, numbered from "
            f"0 or from 1, found {len(table)} rows numbered {first} to {table['value'].max()}."
        )
    table = table.assign(value=table["value"] - first + 1)
    columns = maps[:, table["value"].to_numpy() - 1]
    centres = _centres_of_maps(columns, shape, affine)
    return Atlas(name, space, _filled(table, centres), None, affine, checksum, columns, shape, centres)


def _own_image(spec: AtlasFile) -> tuple[Path, str]:
    image = Path(expand(spec.images[0]))
    if not image.is_file():
        raise AtlasError(f"No label image {image} (atlas {spec.id}); correct atlases in config.yaml.")
    checksum = sha256(image)
    if spec.sha256 not in (None, checksum):
        raise AtlasError(f"{image} (atlas {spec.id}) was altered: expected SHA-256 {spec.sha256}, found {checksum}.")
    return image, checksum


def integer_labels(values: np.ndarray, path: Path) -> np.ndarray:
    """Return a label image as int32: floats are rounded, never cut, and must lie on integers.

    Raises
    ------
    AtlasError
        Some voxel is no integer (a probability map, or labels interpolated as if they were a signal).
    """
    rounded = np.rint(values)
    far = ~(np.abs(values - rounded) < LABEL_TOLERANCE)
    if far.any():
        raise AtlasError(
            f"{path}: expected integer labels, found {values[far][0]:g} and {int(far.sum()) - 1} more; "
            "label images are resampled by nearest neighbour only."
        )
    return rounded.astype(np.int32)


def _centres_of_labels(labels: np.ndarray, values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the mean position of the voxels of each of `values`, float64 (region, 3) in mm; NaN where it has none."""
    where = np.argwhere(labels > 0)
    value = labels[tuple(where.T)]
    count = np.bincount(value, minlength=values.max(initial=0) + 1)
    sums = np.stack([np.bincount(value, weights=axis, minlength=len(count)) for axis in where.T], axis=1)
    with np.errstate(invalid="ignore"):
        return (sums / count[:, None])[values] @ affine[:3, :3].T + affine[:3, 3]


def _centres_of_maps(maps: csc_array, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Return the centre of weight of each map, float64 (region, 3) in mm."""
    where = np.unravel_index(np.arange(maps.shape[0]), shape, order="F")
    with np.errstate(invalid="ignore", divide="ignore"):
        centres = np.stack([maps.T @ axis.astype(np.float64) / maps.sum(axis=0) for axis in where], axis=1)
    return centres @ affine[:3, :3].T + affine[:3, 3]


def _filled(table: pd.DataFrame, centres: np.ndarray) -> pd.DataFrame:
    """Return a table whose missing centres are taken from `centres`, in mm to a tenth."""
    computed = pd.DataFrame(centres.round(1), columns=["x", "y", "z"], index=table.index)
    return table.assign(**{axis: table[axis].fillna(computed[axis]) for axis in "xyz"})


def regions(atlases: Sequence[Atlas]) -> Regions:
    """Return the region table of several atlases, in the order in which they are listed.

    Raises
    ------
    AtlasError
        A region occurs twice.
    """
    table = pd.concat([atlas.table for atlas in atlases], ignore_index=True)
    twice = table.duplicated(["atlas", "label"])
    if twice.any():
        row = table.loc[twice].iloc[0]
        raise AtlasError(f"The region {row['name']} ({row['atlas']} {row['label']}) is listed twice in atlases.")
    return Regions(table.assign(index=np.arange(len(table)))[COLUMNS])


def regions_of_series(atlas: str | None, table: str | None) -> Regions:
    """Return the region table of ready-made series.

    Parameters
    ----------
    atlas : str or None
        Id of the atlas that the columns come from; of the catalogue, or a name of the user's own.
    table : str or None
        Region table; without one the regions of a catalogue atlas are numbered, so that a product does
        not depend on what happens to be fetched on this machine.

    Raises
    ------
    AtlasError
        The number of regions cannot be known.
    """
    name = atlas or "regions"
    if table is not None:
        rows = tables.of_file(name, Path(expand(table)))
        return Regions(rows.assign(index=np.arange(len(rows)))[COLUMNS])
    if atlas is None:
        raise AtlasError(
            "A dataset of kind series needs atlas: <catalogue id> (see neuropipe atlas list) or regions: <tsv>, "
            "so that its columns have names."
        )
    return Regions.plain(name, entry(name).n_regions)


def regions_of_columns(names: Sequence[str], source: str) -> Regions:
    """Return the regions of tables of which nothing is known but the names of their columns.

    Parameters
    ----------
    names : sequence of str
        In order. Whole numbers are labels.
    source : str
        Where they were read, for messages.

    Returns
    -------
    Regions
        Of an atlas whose id stands for exactly these names in this order; networks and hemispheres as in Schaefer's.

    Raises
    ------
    AtlasError
        There are none, one is empty, or two are the same.
    """
    if not names:
        raise AtlasError(
            f"The columns in {source} have no names: a dataset of kind series then needs atlas: <catalogue id> (see "
            "neuropipe atlas list) or regions: <tsv>, or tables whose first line names their columns."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        found = f"{', '.join(twice[:5])} more than once" if any(twice) else f"none in column {names.index('') + 1}"
        raise AtlasError(
            f"{source}: expected a name of its own for every column, found {found}. Write tables without an index, "
            "rename columns, or set atlas: or regions: of the dataset."
        )
    labels = [int(name) for name in names if name.isdecimal()]
    numbers = labels if len(set(labels)) == len(names) else range(1, len(names) + 1)
    atlas = "columns-" + hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
    table = tables.of_labels(atlas, dict(zip(numbers, names, strict=True)))
    return Regions(table.assign(index=np.arange(len(table)))[COLUMNS])

"""Atlases: named ones from the catalogue and files of the user's own, fetched once, held to their checksum, merged.

An atlas is a label image, or an image of one map per region, and a region table. The region table of
several is the concatenation of theirs, in the order in which they are listed; their images are merged
on the grid of each run.
"""

from __future__ import annotations

import os
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
from neuropipe.signals import images, tables
from neuropipe.signals.catalogue import CATALOGUE, Entry, Remote
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
    """

    id: str
    space: str
    table: pd.DataFrame
    labels: np.ndarray | None
    affine: np.ndarray
    checksum: str
    maps: csc_array | None = None
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.labels is not None:
            object.__setattr__(self, "shape", self.labels.shape)


# --- finding and fetching -----------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the folder of fetched atlases: ``NEUROPIPE_CACHE``, or ``~/.cache/neuropipe``."""
    return Path(os.environ.get("NEUROPIPE_CACHE") or Path.home() / ".cache" / "neuropipe") / "atlases"


def templateflow_folder() -> Path:
    """Return TemplateFlow's own folder, which is looked in first: ``TEMPLATEFLOW_HOME``, or its default."""
    return Path(os.environ.get("TEMPLATEFLOW_HOME") or Path.home() / ".cache" / "templateflow")


def entry(name: str) -> Entry:
    """Return the catalogue entry of an id; an unknown id is an error that lists the known ones."""
    if name not in CATALOGUE:
        raise AtlasError(
            f"No atlas {name!r} in the catalogue; known: {', '.join(CATALOGUE)}. An atlas of your own is written as "
            "{id: ..., image: ..., table: ..., space: ...} in config.yaml."
        )
    return CATALOGUE[name]


def locate(remote: Remote) -> Path | None:
    """Return where a file of the catalogue lies on this machine, or None where it was never fetched."""
    places = [cache_folder() / remote.file]
    if remote.source == "templateflow":
        places.insert(0, templateflow_folder() / remote.file)
    # TemplateFlow's skeleton holds empty files for what it has not downloaded.
    return next((place for place in places if place.is_file() and place.stat().st_size > 0), None)


def record_of(path: Path) -> Path:
    """Return the file that keeps the checksum of the first fetch."""
    return path.with_name(f"{path.name}.sha256")


def verified(remote: Remote, name: str) -> tuple[Path, str]:
    """Return a fetched file and its checksum.

    Raises
    ------
    AtlasError
        The file was not fetched, or differs from what was published, or from what was first fetched.
    """
    path = locate(remote)
    if path is None:
        raise AtlasError(
            f"The atlas {name} is not on this machine ({remote.file} is neither in {cache_folder()} nor in "
            f"TEMPLATEFLOW_HOME). Fetch it once, with a network: neuropipe atlas fetch {name}"
        )
    found, record = sha256(path), record_of(path)
    expected = remote.sha256 or (record.read_text(encoding="utf-8").split()[0] if record.is_file() else found)
    if found != expected:
        raise AtlasError(
            f"{path} of the atlas {name} was altered: expected SHA-256 {expected}, found {found}. "
            f"Delete it and fetch it again: neuropipe atlas fetch {name}"
        )
    return path, found


# --- loading ------------------------------------------------------------------------------------


def space_of(spec: str | AtlasFile) -> str:
    """Return the declared space of an atlas, without opening anything."""
    return entry(spec).space if isinstance(spec, str) else spec.space


def common_space(specs: Sequence[str | AtlasFile]) -> str:
    """Return the space of all atlases of a study.

    Surface labels in fsLR and volume labels in MNI152NLin6Asym are one space, fsLR: CIFTI files have both.

    Raises
    ------
    AtlasError
        There is none, or two differ.
    """
    spaces = {(spec if isinstance(spec, str) else spec.id): space_of(spec) for spec in specs}
    if set(spaces.values()) == set(CIFTI_SPACES):
        return CIFTI_SPACES[0]
    if len(set(spaces.values())) != 1:
        found = ", ".join(f"{name}: {space}" for name, space in spaces.items()) or "no atlas"
        raise AtlasError(
            f"The atlases of a study must lie in one space, found {found}. Templates differ by millimetres: name the "
            "builds of one space (see neuropipe atlas list)."
        )
    return next(iter(spaces.values()))


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
        item = entry(spec)
        image, checksum = verified(item.image, spec)
        table = tables.of_entry(item, None if item.table is None else verified(item.table, spec)[0])
        space = item.space
    else:
        image, checksum = _own_image(spec)
        table, space = tables.of_file(spec.id, Path(expand(spec.table or "")), spec.kind), spec.space
    kind, name = (item.kind, spec) if isinstance(spec, str) else (spec.kind, spec.id)
    read = _labels if kind == "labels" else _maps
    try:
        return read(name, space, table, image, checksum)
    except RunExcluded as error:
        raise AtlasError(f"The image {image} of the atlas {name} cannot be read: {error}") from error


def _labels(name: str, space: str, table: pd.DataFrame, image: Path, checksum: str) -> Atlas:
    values, affine = images.read_volume(image)
    labels = integer_labels(values, image)
    table = _with_centres(table, labels, affine)
    return Atlas(name, space, _checked(table, labels, name, image), labels, affine, checksum)


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
    table = _filled(table, _centres_of_maps(columns, shape, affine))
    return Atlas(name, space, table, None, affine, checksum, columns, shape)


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


def _with_centres(table: pd.DataFrame, labels: np.ndarray, affine: np.ndarray) -> pd.DataFrame:
    """Fill missing centres of regions with the mean position of their voxels."""
    if table[["x", "y", "z"]].notna().all(axis=None):
        return table
    where = np.argwhere(labels > 0)
    value = labels[tuple(where.T)]
    count = np.bincount(value, minlength=table["value"].max() + 1)
    sums = np.stack([np.bincount(value, weights=axis, minlength=len(count)) for axis in where.T], axis=1)
    with np.errstate(invalid="ignore"):
        return _filled(table, (sums / count[:, None])[table["value"]] @ affine[:3, :3].T + affine[:3, 3])


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


def _checked(table: pd.DataFrame, labels: np.ndarray, name: str, image: Path) -> pd.DataFrame:
    """Refuse a table that belongs to another image: with regions that this one lacks, or counting from 0."""
    found, value = np.unique(labels), table["value"].to_numpy()
    present = np.isin(value, found)
    if not present.all():
        absent = table.loc[~present, "name"].tolist()
        raise AtlasError(
            f"The table of the atlas {name} names {len(absent)} regions that {image} does not have "
            f"({', '.join(absent[:5])}); table and image must belong together."
        )
    # A few stray voxels of other labels are common; the one label that follows the last is a region.
    if np.array_equal(np.sort(value), np.arange(1, len(value) + 1)) and found.max() == len(value) + 1:
        raise AtlasError(
            f"The table of the atlas {name} ends with {len(value)}, and {image} has the label {len(value) + 1} "
            "besides; a table that counts from 0 must be made to count from 1."
        )
    return table


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

"""Label files of surfaces: a ``.dlabel.nii``, or the ``.label.gii`` or ``.annot`` of both hemispheres."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from neuropipe.config import AtlasFile, expand
from neuropipe.errors import AtlasError, RunExcluded
from neuropipe.signals import cifti, gifti, tables
from neuropipe.signals.atlases import integer_labels
from neuropipe.signals.surface import SurfaceAtlas

SMALLEST_COLOUR = 1 << 16  # of red + 256 green + 65536 blue
# Labels that files give to what is no region.
NO_REGION = re.compile(r"\?\?\?|unknown|background.*|.*medial[ _-]?wall.*", re.IGNORECASE)


def load(spec: AtlasFile) -> SurfaceAtlas:
    """Load a user's surface atlas.

    Raises
    ------
    AtlasError
        A file is missing, altered, damaged, or does not fit to the table.
    """
    paths = [Path(expand(image)) for image in spec.images]
    checksum = _checksum(spec, paths)
    labels, affine = None, None
    try:
        if len(paths) == 1:
            meshes, labels, affine, names = _of_dlabel(paths[0])
        else:
            meshes, names = _of_hemispheres(paths, None if spec.table is None else _table(spec))
    except RunExcluded as error:
        raise AtlasError(f"The labels of the atlas {spec.id} cannot be read: {error}") from error
    present = _present(meshes, labels)
    if spec.table is not None:
        table = _table(spec)
    elif named := {n: names[n] for n in sorted(present) if not _no_region(n, names)}:
        table = tables.of_labels(spec.id, named)
    else:
        raise AtlasError(f"No vertex of {paths[0].name} has a named label; give the atlas {spec.id} a table: <tsv>.")
    absent = table.loc[~table["value"].isin(present), "name"].tolist()
    if absent:
        raise AtlasError(
            f"The table of the atlas {spec.id} names {len(absent)} regions that no vertex of {paths[0].name} has "
            f"({', '.join(absent[:5])}); table and labels must belong together."
        )
    return SurfaceAtlas(spec.id, spec.space, _with_sides(table, meshes), checksum, meshes, labels, affine)


def _table(spec: AtlasFile) -> pd.DataFrame:
    return tables.of_file(spec.id, Path(expand(spec.table or "")))


def _checksum(spec: AtlasFile, paths: list[Path]) -> str:
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise AtlasError(f"No label file {', '.join(missing)} (atlas {spec.id}); correct atlases in config.yaml.")
    found = sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    if spec.sha256 not in (None, found):
        raise AtlasError(f"{paths[0]} (atlas {spec.id}) was altered: expected SHA-256 {spec.sha256}, found {found}.")
    return found


def _of_dlabel(
    path: Path,
) -> tuple[dict[str, np.ndarray], np.ndarray | None, np.ndarray | None, dict[int, str]]:
    """Return values by mesh, values of the voxels with their affine, and names."""
    columns, stored, names = cifti.read_labels(path)
    values = integer_labels(stored, path)
    meshes = {}
    for name, n_vertices in columns.nvertices.items():
        here = columns.name == name
        meshes[str(name)] = np.zeros(n_vertices, dtype=np.int32)
        meshes[str(name)][columns.vertex[here]] = values[here]
    voxels = ~columns.surface_mask
    if not voxels.any():
        return meshes, None, None, names
    labels = np.zeros(columns.volume_shape, dtype=np.int32)
    labels[tuple(columns.voxel[voxels].T)] = values[voxels]
    return meshes, labels, columns.affine, names


def _of_hemispheres(paths: list[Path], table: pd.DataFrame | None) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """Return values by mesh, and names.

    Files made by FreeSurfer number each hemisphere from 1, so that one integer means two regions. Then
    the right hemisphere's numbers go on after the left's last, as they do in the volumes of the same
    atlases (Schaefer). A table that holds the integers as they are, means them: one region on both sides.
    """
    halves = []
    for path, structure in zip(paths, gifti.STRUCTURES, strict=True):
        halves.append(_of_hemisphere(path, structure))
    (left, left_names), (right, right_names) = halves
    shared = set(_regions_of(left, left_names)) & set(_regions_of(right, right_names))
    as_stored = table is not None and table["value"].isin([*np.unique(left), *np.unique(right)]).all()
    if shared and not as_stored:
        last = int(left.max())
        twice = {left_names[n] for n in shared} & {right_names[n] for n in shared}
        left_names = {n: f"L_{name}" if name in twice else name for n, name in left_names.items()}
        right_names = {n + last: f"R_{name}" if name in twice else name for n, name in right_names.items() if n > 0}
        left_names = {n: name for n, name in left_names.items() if n <= last}  # some tables list the right's too
        right = np.where(right > 0, right + last, 0).astype(np.int32)
    cortex = [f"CIFTI_STRUCTURE_{structure}" for structure in gifti.STRUCTURES]
    return dict(zip(cortex, (left, right), strict=True)), right_names | left_names


def _of_hemisphere(path: Path, structure: str) -> tuple[np.ndarray, dict[int, str]]:
    """Return values (vertex,) and names of one file.

    FreeSurfer's labels are colours packed into one number. Its regions are numbered by their place in the
    table in their stead, from 0 (unknown, or the medial wall), as its own tools do.
    """
    if path.suffix == ".annot":
        with cifti.damage_excludes(path.name):
            values, _, listed = nib.freesurfer.read_annot(path)
            return values.astype(np.int32), {n: name.decode() for n, name in enumerate(listed)}
    stored, names = gifti.read_labels(path, structure)
    values = integer_labels(stored, path)
    if max(names, default=0) < SMALLEST_COLOUR:
        return values, names
    place = {value: n for n, value in enumerate(names)}
    found, where = np.unique(values, return_inverse=True)
    numbers = np.array([place.get(int(value), 0) for value in found], dtype=np.int32)
    return numbers[where], dict(enumerate(names.values()))


def _no_region(value: int, names: Mapping[int, str]) -> bool:
    return value <= 0 or bool(NO_REGION.fullmatch(names.get(value, "???").strip() or "???"))


def _regions_of(values: np.ndarray, names: Mapping[int, str]) -> list[int]:
    return [int(n) for n in np.unique(values) if not _no_region(int(n), names)]


def _present(meshes: dict[str, np.ndarray], labels: np.ndarray | None) -> set[int]:
    parts = [*meshes.values()] + ([] if labels is None else [labels])
    return {int(n) for part in parts for n in np.unique(part)}


def _with_sides(table: pd.DataFrame, meshes: dict[str, np.ndarray]) -> pd.DataFrame:
    """Fill a missing hemisphere with that of the structure whose vertices a region has."""
    sides: dict[int, str] = {}
    for name, values in meshes.items():
        side = {"LEFT": "L", "RIGHT": "R"}.get(name.rpartition("_")[2], "")
        for n in np.unique(values):
            sides[int(n)] = side if sides.get(int(n), side) == side else ""
    known = pd.Series([sides.get(n, "") for n in table["value"]], index=table.index, dtype=object)
    return table.assign(hemisphere=table["hemisphere"].where(table["hemisphere"] != "", known))

"""Maps of anatomy and stacks of slices: what a door hands over, and the checks and rows that all doors share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neuropipe.bids import ready
from neuropipe.bids.series import SKIPPED_FOLDERS
from neuropipe.bids.tree import check_fetched
from neuropipe.errors import RunExcluded
from neuropipe.signals import images

NEWEST_SPACE = "MNI152NLin2009cAsym"  # of fMRIPrep, and of CAT12 from 12.8 on
# CAT12 before 12.8, and what was made with it (OpenBHB, the volumes of y-Aware): the bounding box of its defaults,
# -90 -126 -72 to 90 90 108 mm, at 1.5 mm.
OLD_GRID = (121, 145, 121)
OLD_AFFINE = ((1.5, 0, 0, -90), (0, 1.5, 0, -126), (0, 0, 1.5, -72), (0, 0, 0, 1))
ENTITIES = ("session", "run", "space")


@dataclass(frozen=True, eq=False)
class Map:
    """One scan's map of anatomy, or its slices.

    Attributes
    ----------
    array : float32 array (x, y, z) or (slice, row, column)
        Finite everywhere and not constant. A map keeps the axes of its file; `affine` says where they point.
    affine : float64 array (4, 4) or None
        Voxel indices to mm; None for slices, and for arrays whose source does not say it.
    space : str or None
        Template space; None for slices.
    modulated : bool
        Values are tissue per voxel of the template, whose sum times the volume of a voxel is the tissue of this
        person: to be summed, never averaged.
    known : dict
        What the source states itself, where it does: ``tiv_ml``, ``gm_ml``, ``wm_ml``, ``csf_ml`` (mL) and
        ``iqr_grade`` (CAT12's rating of image quality, 1 excellent to 6 unacceptable).
    names : list of str
        Of slices, in their order.
    """

    array: np.ndarray
    affine: np.ndarray | None = None
    space: str | None = None
    modulated: bool = False
    known: dict[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


def affine_of(shape: tuple[int, ...]) -> np.ndarray | None:
    """Return where the voxels of an array without header lie, in mm, if its grid is that of CAT12 before 12.8."""
    return np.array(OLD_AFFINE, dtype=np.float64) if tuple(shape) == OLD_GRID else None


def manifest_row(search: ready.Search, person_id: str, run_id: str, image: str, said: Mapping[str, str]) -> dict:
    """Return the manifest row of one scan, without its fingerprint.

    Raises
    ------
    RunExcluded
        The person has no row in the participants table.
    """
    person = ready.owner(search.persons, person_id, image)
    row = ready.identity(person, search.n_chunks, run_id, image)
    return row | {key: said[key] for key in ENTITIES if said.get(key)}


def check_header(path: Path) -> tuple[int, ...]:
    """Return the shape of a 3-D image by its header, having checked that the file may hold what that says.

    Raises
    ------
    RunExcluded
        The file was not fetched, is damaged, ends too early, or has more axes.
    """
    check_fetched(path)
    with images.damage_excludes(path.name), images.open_stream(path, whole=False) as stream:
        layout = images.read_layout(stream, path)
    if layout.n_volumes != 1:
        raise RunExcluded("not a map", f"{path.name}: expected a 3-D image (x, y, z), found shape {layout.shape}")
    expected = layout.offset + layout.volume_bytes
    if path.suffix == ".nii" and path.stat().st_size < expected:
        raise RunExcluded("truncated image", f"{path.name} has less than {expected} bytes; copy it again")
    return layout.shape


def read_map(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a 3-D NIfTI image as float32 with its affine; see `checked` for what is refused."""
    array, affine = images.read_volume(path)
    return checked(array, path.name), affine


def checked(array: np.ndarray, name: str) -> np.ndarray:
    """Return an array as float32, C-ordered; one that holds nothing to learn from is excluded."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        n_bad = int((~np.isfinite(array)).sum())
        raise RunExcluded("not finite", f"{name}: {n_bad} of {array.size} values are NaN or infinite; make it again")
    if array.min() == array.max():
        raise RunExcluded("constant", f"{name}: every value is {array.flat[0]:g}; the program that made it failed")
    return array


def files(root: Path, extensions: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths, relative to `root` and sorted, of the files below it with one of some extensions."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS)
        for name in sorted(names):
            if name.endswith(extensions) and not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")

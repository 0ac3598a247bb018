"""Atlases brought from one template space to another by the transforms that TemplateFlow publishes.

A file ``tpl-B_from-A_mode-image_xfm.h5`` resamples *images* of space A on grids of space B. As
resampling asks, for each voxel of B, where to look in A, the file maps points of B to points of A.
It is an ITK composite: a displacement field, then an affine, in millimetres with x to the left and
y to the back (LPS), where NIfTI has x to the right and y to the front (RAS).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.ndimage import map_coordinates

from neuropipe.errors import AtlasError
from neuropipe.signals import cache, catalogue
from neuropipe.signals.atlases import Atlas
from neuropipe.signals.grids import linear_weights, nearest

LPS = np.array([-1.0, -1.0, 1.0])  # to RAS and back
POINTS_AT_A_TIME = 200_000


@dataclass(frozen=True, eq=False)
class Affine:
    """``y = matrix @ (x - centre) + centre + translation``.

    Attributes
    ----------
    matrix : float64 array (3, 3)
        Linear part.
    offset : float64 array (3,)
        What is added, centre included, in mm.
    """

    matrix: np.ndarray
    offset: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points, float64 (n, 3)."""
        return points @ self.matrix.T + self.offset


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """``y = x + d(x)``, d interpolated linearly between voxels and zero outside the field.

    Attributes
    ----------
    vectors : float array (x, y, z, 3)
        Displacements in mm.
    to_voxel : Affine
        From mm to indices of voxels.
    """

    vectors: np.ndarray
    to_voxel: Affine

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points, float64 (n, 3)."""
        where = self.to_voxel(points)
        inside = ((where >= -0.5) & (where <= np.array(self.vectors.shape[:3]) - 0.5)).all(axis=1)
        moved = points.copy()
        for axis in range(3):
            component = self.vectors[..., axis]
            moved[inside, axis] += map_coordinates(component, where[inside].T, order=1, mode="nearest")
        return moved


@dataclass(frozen=True, eq=False)
class Transform:
    """Points of the space of a grid to points of the space of an atlas, in mm (RAS)."""

    steps: tuple[Callable[[np.ndarray], np.ndarray], ...]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points, float64 (n, 3)."""
        points = points * LPS
        for step in self.steps:
            points = step(points)
        return points * LPS


# --- reading ------------------------------------------------------------------------------------


def read_transform(path: Path) -> Transform:
    """Read an ITK transform from HDF5: affine, displacement field, or a composite of them.

    Raises
    ------
    AtlasError
        The file is damaged, or holds a transform of another kind.

    Notes
    -----
    A composite is a stack: the part that was added last, and stands last in the file, is applied
    first (documentation of ``itk::CompositeTransform``).
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            groups = file["TransformGroup"]
            parts = [_part(groups[key], path) for key in sorted(groups, key=int)]
    except (OSError, KeyError, ValueError) as error:
        raise AtlasError(f"{path} cannot be read as an ITK transform ({error}); fetch it again.") from error
    steps = [part for part in parts if part is not None]
    if not steps:
        raise AtlasError(f"{path} holds no transform; fetch it again.")
    return Transform(tuple(reversed(steps)))


def _part(group: Any, path: Path) -> Affine | DisplacementField | None:
    """Return one transform of a file; None for the composite itself, which has no parameters."""
    kind = group["TransformType"][()].reshape(-1)[0]
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    name, _, dimensions = kind.partition("_")
    if name == "CompositeTransform":
        return None
    if name not in ("AffineTransform", "MatrixOffsetTransformBase", "DisplacementFieldTransform") or not (
        dimensions.endswith("3_3")
    ):
        raise AtlasError(f"{path}: expected a 3-D affine, displacement field, or a composite of them, found {kind}.")
    # Files of ITK before 5 spell both names without the first s.
    parameters, fixed = (
        group[f"Transform{what}" if f"Transform{what}" in group else f"Tranform{what}"][()]
        for what in ("Parameters", "FixedParameters")
    )
    return _field(parameters, fixed) if name.startswith("Displacement") else _affine(parameters, fixed)


def _affine(parameters: np.ndarray, centre: np.ndarray) -> Affine:
    matrix = parameters[:9].reshape(3, 3).astype(np.float64)
    return Affine(matrix, parameters[9:12] + centre - matrix @ centre)


def _field(parameters: np.ndarray, fixed: np.ndarray) -> DisplacementField:
    """Return a field; it is stored with x fastest, the three components of a vector together."""
    size, origin, spacing = fixed[:3].astype(int), fixed[3:6], fixed[6:9]
    to_mm = fixed[9:18].reshape(3, 3) * spacing
    to_voxel = np.linalg.inv(to_mm)
    vectors = parameters.reshape(*size[::-1], 3).transpose(2, 1, 0, 3)
    return DisplacementField(vectors, Affine(to_voxel, -to_voxel @ origin))


# --- of a study ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Warp:
    """The transforms that a study needs; each is checked once and read again for each new grid.

    Attributes
    ----------
    checked : dict
        Path and SHA-256 of the transforms already found, by source and target space.
    """

    checked: dict[tuple[str, str], tuple[Path, str]] = field(default_factory=dict)

    def find(self, source: str, target: str) -> tuple[Path, str]:
        """Return the file that brings images of `source` to `target`, and its SHA-256.

        Raises
        ------
        AtlasError
            It is not on this machine, or was altered; the message says how to fetch it.
        """
        pair = (source, target)
        if pair not in self.checked:
            if pair not in catalogue.TRANSFORMS and cache.locate(catalogue.transform(*pair)) is None:
                known = ", ".join(catalogue.transform_name(*known) for known in catalogue.TRANSFORMS)
                raise AtlasError(
                    f"No transform is known that brings an atlas of the space {source} to {target} (known: {known}). "
                    f"Name an atlas of the space {target}, or select images of the space {source}."
                )
            self.checked[pair] = cache.verified(catalogue.transform(*pair), catalogue.transform_name(*pair))
        return self.checked[pair]

    def used(self, atlases: Sequence[Atlas], space: str) -> dict[str, str]:
        """Return the SHA-256 of the transform of each atlas that does not lie in `space`, by the atlas's id."""
        return {atlas.id: self.find(atlas.space, space)[1] for atlas in atlases if atlas.space != space}

    def onto(self, atlases: Sequence[Atlas], space: str, shape: Sequence[int], affine: np.ndarray) -> list[Atlas]:
        """Return atlases in `space`: those of another space on the given grid, the others as they are."""
        sources = {atlas.space for atlas in atlases} - {space}
        transforms = {source: read_transform(self.find(source, space)[0]) for source in sources}
        return [
            warped(atlas, transforms[atlas.space], space, shape, affine) if atlas.space in transforms else atlas
            for atlas in atlases
        ]


# --- resampling ---------------------------------------------------------------------------------


def warped(atlas: Atlas, transform: Transform, space: str, shape: Sequence[int], affine: np.ndarray) -> Atlas:
    """Return an atlas on a grid of another space; one interpolation, from the published image.

    Parameters
    ----------
    atlas : Atlas
        Labels go to the nearest voxel, maps are interpolated linearly.
    transform : Transform
        From points of `space` to points of the atlas's space.
    space : str
        The space of the grid.
    shape : three int
        Size of the grid.
    affine : float64 array (4, 4)
        Its voxel indices to mm.
    """
    to_voxel = np.linalg.inv(atlas.affine)
    pieces = (
        (first, transform(points) @ to_voxel[:3, :3].T + to_voxel[:3, 3]) for first, points in _points(shape, affine)
    )
    shape = tuple(shape[:3])
    if atlas.labels is not None:
        return replace(atlas, space=space, affine=affine, labels=_nearest(atlas.labels, pieces, shape))
    by_voxel = atlas.maps.tocsr()
    maps = sparse.vstack([linear_weights(where, atlas.shape).astype(np.float32) @ by_voxel for _, where in pieces])
    return replace(atlas, space=space, affine=affine, maps=sparse.csc_array(maps), shape=shape)


def _points(shape: Sequence[int], affine: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the voxels of a grid in mm, float64 (n, 3), x fastest, piece by piece with the number of the first."""
    n_voxels = int(np.prod(shape[:3]))
    for first in range(0, n_voxels, POINTS_AT_A_TIME):
        numbers = np.arange(first, min(first + POINTS_AT_A_TIME, n_voxels))
        voxels = np.stack(np.unravel_index(numbers, tuple(shape[:3]), order="F"), axis=1)
        yield first, voxels @ affine[:3, :3].T + affine[:3, 3]


def _nearest(labels: np.ndarray, pieces: Iterator[tuple[int, np.ndarray]], shape: tuple[int, ...]) -> np.ndarray:
    """Return the labels at positions (indices of voxels), int32 of `shape`; 0 outside."""
    out = np.zeros(int(np.prod(shape)), dtype=np.int32)
    for first, where in pieces:
        voxel = nearest(where, labels.shape)
        inside = ((voxel >= 0) & (voxel < labels.shape)).all(axis=1)
        out[first : first + len(where)][inside] = labels[tuple(voxel[inside].T)]
    return out.reshape(shape, order="F")

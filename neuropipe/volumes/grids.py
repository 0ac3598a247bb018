"""Where the voxels of maps lie: axes turned to RAS+, other voxel sizes, boxes cut about the centre.

Each step exists twice: for the grid alone, so that a header tells where a map will end up, and for its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import nibabel as nib
import numpy as np
from nibabel.affines import obliquity
from scipy.ndimage import affine_transform

from neuropipe.config import Volumes
from neuropipe.errors import RunExcluded

MAX_OBLIQUE_DEGREES = 2.0
ROUNDING = 1e-3  # of positions, in voxels: nearer to the lattice than this is on it

Shape = tuple[int, ...]
Affine = np.ndarray | None


def planned(shape: Sequence[int], affine: Affine, settings: Volumes) -> tuple[Shape, Affine]:
    """Return the grid (shape, affine in mm) on which a map of some grid ends up.

    Raises
    ------
    RunExcluded
        The map is no volume, is oblique, or has no affine where voxels of another size are asked for.
    """
    shape, affine = ras_grid(volume_shape(shape), affine)
    if settings.voxel_mm is not None:
        shape, affine = lattice(shape, affine, settings.voxel_mm)
    for wanted in boxes(shape, settings):
        shape, affine = wanted, moved(affine, starts(shape, wanted))
    return shape, affine


def placed(array: np.ndarray, affine: Affine, settings: Volumes, modulated: bool) -> tuple[np.ndarray, Affine]:
    """Return a map that lies in RAS+ order on the grid that `planned` names; zeros where it does not reach.

    Parameters
    ----------
    array : float32 array (x, y, z)
        Axes in RAS+ order, see `as_ras`.
    affine : float64 array (4, 4) or None
        Voxel indices to mm.
    modulated : bool
        Values are volumes of tissue per volume of the template; resampling keeps their integral.
    """
    if settings.voxel_mm is not None:
        target = lattice(array.shape, affine, settings.voxel_mm)
        array, affine = resampled(array, affine, *target, keep_integral=modulated), target[1]
    for wanted in boxes(array.shape, settings):
        first = starts(array.shape, wanted)
        array, affine = cut(array, first, wanted), moved(affine, first)
    return np.ascontiguousarray(array), affine


# --- orientation --------------------------------------------------------------------------------


def volume_shape(shape: Sequence[int]) -> Shape:
    """Return (x, y, z) without axes of length one behind.

    Raises
    ------
    RunExcluded
        There is a fourth axis, or there are fewer than three.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise RunExcluded(
            "not a volume",
            f"expected one map (x, y, z), found an array of shape {shape}; a series of images is a dataset of kind "
            "fmriprep without map, of several maps keep the one that is meant",
        )
    return shape[:3]


def as_ras(array: np.ndarray, affine: Affine) -> tuple[np.ndarray, Affine]:
    """Turn and flip the axes of a map to right, anterior, superior, as its affine says where they point.

    Without an affine nothing is known of the axes, and they stay as they are.
    """
    array = array.reshape(volume_shape(array.shape))
    if affine is None:
        return array, None
    shape, turned = ras_grid(array.shape, affine)
    turned_array = nib.orientations.apply_orientation(array, nib.orientations.io_orientation(affine))
    assert turned_array.shape == shape
    return np.ascontiguousarray(turned_array), turned


def ras_grid(shape: Shape, affine: Affine) -> tuple[Shape, Affine]:
    """Return the grid whose axes point right, anterior, superior, of the same voxels.

    Raises
    ------
    RunExcluded
        The affine has no inverse, or the axes lie oblique to those of the template.
    """
    if affine is None:
        return shape, None
    affine = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise RunExcluded("damaged image", f"its affine has no inverse: {affine.tolist()}; write the image again")
    angle = float(np.rad2deg(obliquity(affine)).max())
    if angle > MAX_OBLIQUE_DEGREES:
        raise RunExcluded(
            "oblique image",
            f"expected axes along those of the template, found {angle:.1f} degrees between them; resample the image "
            "to the grid of the template first",
        )
    orientation = nib.orientations.io_orientation(affine)
    turned = [0, 0, 0]
    for axis, (target, _) in enumerate(orientation):
        turned[int(target)] = shape[axis]
    return tuple(turned), affine @ nib.orientations.inv_ornt_aff(orientation, shape)


# --- voxel size ---------------------------------------------------------------------------------


def voxel_ml(affine: np.ndarray) -> float:
    """Return the volume of a voxel in mL."""
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000


def lattice(shape: Shape, affine: Affine, voxel_mm: float) -> tuple[Shape, np.ndarray]:
    """Return the grid of isotropic voxels whose centres lie on multiples of `voxel_mm` within the field of view.

    One voxel centre is the origin of the template, so that maps of one field of view share the grid whatever
    their voxel size was.
    """
    if affine is None:
        raise RunExcluded(
            "no affine",
            "volumes.voxel_mm asks for voxels of another size, but nothing says which size these have; set it to null",
        )
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1) @ affine[:3, :3].T + affine[:3, 3]
    first = np.ceil(corners.min(axis=0) / voxel_mm - ROUNDING)
    last = np.floor(corners.max(axis=0) / voxel_mm + ROUNDING)
    target = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    target[:3, 3] = first * voxel_mm
    return tuple(int(n) for n in last - first + 1), target


def resampled(
    array: np.ndarray, affine: np.ndarray, shape: Shape, target: np.ndarray, keep_integral: bool
) -> np.ndarray:
    """Return a map on another grid by linear interpolation, zero outside.

    Parameters
    ----------
    array : float32 array (x, y, z)
        Source.
    affine, target : float64 arrays (4, 4)
        Voxel indices to mm, of the source and of the wanted grid.
    shape : three int
        Size of the wanted grid.
    keep_integral : bool
        Scale the result so that its sum times the volume of a voxel is that of the source: what a modulated map
        says is how much tissue there is.
    """
    step = np.linalg.inv(affine) @ target
    found = affine_transform(array, step[:3, :3], step[:3, 3], output_shape=shape, order=1, mode="constant")
    if keep_integral:
        before = array.sum(dtype=np.float64) * voxel_ml(affine)
        after = found.sum(dtype=np.float64) * voxel_ml(target)
        found *= before / after if after else 1.0
    return found


# --- boxes --------------------------------------------------------------------------------------


def boxes(shape: Shape, settings: Volumes) -> Iterator[Shape]:
    """Yield the sizes to which a map is brought in turn: never larger by ``crop``, and exactly that of ``size``."""
    if settings.crop is not None:
        yield tuple(min(n, wanted) for n, wanted in zip(shape, settings.crop, strict=True))
    if settings.size is not None:
        yield tuple(settings.size)


def starts(shape: Shape, wanted: Shape) -> tuple[int, ...]:
    """Return the index of the source at which each axis of a box about its centre begins; negative where it is padded.

    Of an odd difference the smaller half is cut off, or padded, before: 145 to 128 begins at 8, 121 to 128 at -3.
    """
    return tuple((n - w) // 2 if n >= w else -((w - n) // 2) for n, w in zip(shape, wanted, strict=True))


def cut(array: np.ndarray, first: Sequence[int], shape: Shape) -> np.ndarray:
    """Return the box of `shape` that begins at index `first` of an array; zero where the array does not reach."""
    source = tuple(slice(max(f, 0), min(f + n, m)) for f, n, m in zip(first, shape, array.shape, strict=True))
    if all(s.stop - s.start == n for s, n in zip(source, shape, strict=True)):
        return array[source]
    box = np.zeros(shape, dtype=array.dtype)
    box[tuple(slice(s.start - f, s.stop - f) for s, f in zip(source, first, strict=True))] = array[source]
    return box


def moved(affine: Affine, first: Sequence[int]) -> Affine:
    """Return the affine of a box that begins at index `first`."""
    if affine is None:
        return None
    box = affine.copy()
    box[:3, 3] += affine[:3, :3] @ np.asarray(first, dtype=np.float64)
    return box

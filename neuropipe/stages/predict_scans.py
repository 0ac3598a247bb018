"""What a network reads of one person: their files, prepared as its training data were."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuropipe.config import Volumes
from neuropipe.errors import InputError, RunExcluded
from neuropipe.stages.predict_files import LeftOut, Person, is_nifti

if TYPE_CHECKING:
    from neuropipe.data.batch import Batch
    from neuropipe.volumes.prepare import Prepared

UNMODULATED = re.compile(r"probseg|^r?wp\d", re.IGNORECASE)  # fMRIPrep's shares of a voxel; CAT12 without modulation
SCAN_OF = re.compile(r"^m0?wp\d(.+?)\.nii(\.gz)?$")  # the name of a scan in that of CAT12's map
SPACE = re.compile(r"_space-([A-Za-z0-9]+)")
COLOURED = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
AXES = "xyz"


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan as a network reads it, and as it is looked at.

    Attributes
    ----------
    batch : Batch
        One volume, or the slices of one scan.
    shown : float array (x, y, z) or (slice, row, column)
    positions : list of three lists of str
        Names of places along the axes of `shown`.
    size : three float
        Extent along them, in mm or pixels.
    notes : list of str
    """

    batch: Batch
    shown: np.ndarray
    positions: list[list[str]]
    size: tuple[float, float, float]
    notes: list[str] = field(default_factory=list)


def read(person: Person, about: dict[str, Any], device) -> tuple[list[Scan], list[LeftOut]]:
    """Return the scans of one person, and the files that cannot be used.

    Every map is a scan, and all pictures together are one.

    Parameters
    ----------
    about : dict
        The ``config.json`` of the network.
    """
    scans, pictures, left_out = [], [], []
    for path in person.files:
        try:
            _check_kind(path, person.files[0], about)
            if is_nifti(path):
                scans.append(_map(path, about, device))
            else:
                pictures.append((path, _brightness(path)))
        except RunExcluded as error:
            left_out.append(LeftOut(str(path), person.participant_id, error.reason, error.detail))
    return scans + ([_pictures(pictures, about, device)] if pictures else []), left_out


def _check_kind(path: Path, first: Path, about: dict[str, Any]) -> None:
    """Refuse maps where pictures are read, pictures where maps are, and both of one person."""
    if is_nifti(path) != is_nifti(first):
        raise RunExcluded("mixed files", f"{first.name} and {path.name} are of one person; give maps, or pictures")
    reads = f"maps ({about['map']})" if about["map"] else "maps"
    if about["content"] == "volume" and not is_nifti(path):
        raise RunExcluded("not a map", f"{path.name}: the network reads {reads}; expected NIfTI, found a picture")
    of_pictures = about["content"] == "image" and about["grid"] is None and not about.get("released")
    if of_pictures and is_nifti(path):
        raise RunExcluded("not a picture", f"{path.name}: the network was trained on pictures of slices, not on maps")
    if about["content"] == "image" and about["grid"] is not None and not is_nifti(path):
        detail = f"{path.name}: the network was trained on slices cut from {reads}; its grey values are not theirs"
        raise RunExcluded("not a map", detail)


# ------------------------------------------------------------------ maps


def _map(path: Path, about: dict[str, Any], device) -> Scan:
    """Return a NIfTI map, whole or as slices."""
    import torch

    from neuropipe.data.batch import Batch

    prepared = _prepared(path, about)
    array, notes = prepared.array, _notes(prepared)
    if about["content"] == "image":
        return _slices(array, prepared.affine, about, device, notes)
    batch = Batch.of_volumes(torch.from_numpy(array)[None, None].to(device))
    size = np.multiply(array.shape, voxel_mm(prepared.affine))
    return Scan(batch, array, [_places(prepared.affine, axis, n) for axis, n in enumerate(array.shape)], size, notes)


def _prepared(path: Path, about: dict[str, Any]) -> Prepared:
    """Return a map in the orientation, on the grid and in the unit of the training data, rounded as they are stored."""
    from dataclasses import replace

    from neuropipe.bids.maps import Map, read_map
    from neuropipe.volumes import scale
    from neuropipe.volumes.prepare import prepare

    settings, is_tissue = Volumes.model_validate(about["volumes"] or {}), about["map"] in ("gm", "wm")
    is_modulated = is_tissue and not UNMODULATED.search(path.name)
    array, affine = read_map(path)
    found = Map(array, affine, _space(path, about), modulated=is_modulated, known=_known(path))
    prepared = prepare(found, settings, is_tissue=is_tissue)
    check_grid(prepared, about["grid"], path.name)
    stored, step, shift = scale.pack(prepared.array, settings.dtype)
    return replace(prepared, array=stored.astype(np.float32) * np.float32(step) + np.float32(shift))


def _space(path: Path, about: dict[str, Any]) -> str | None:
    """Return the space that a name says; another one than that of the training data is refused."""
    said = SPACE.search(path.name)
    wanted = (about["grid"] or {}).get("space")
    if said and wanted and said[1] != wanted:
        raise RunExcluded("wrong space", f"{path.name}: expected a map in {wanted}, found {said[1]}")
    return said[1] if said else wanted


def _known(path: Path) -> dict[str, float]:
    """Return what CAT12's report says of a map: beside it, or in the folder that CAT12 makes."""
    scan = SCAN_OF.match(path.name)
    if scan is None:
        return {}
    from neuropipe.bids import cat12_xml

    name = f"cat_{scan[1]}.xml"
    places = (path.parent / name, path.parent.parent / "report" / name, path.parent / "report" / name)
    return next((cat12_xml.report(place) for place in places if place.is_file()), {})


def check_grid(prepared: Prepared, grid: dict[str, Any] | None, name: str) -> None:
    """Refuse a map whose voxels are not those of the training data.

    Raises
    ------
    RunExcluded
        Shape or place differ.
    """
    from neuropipe.signals.images import same_grid

    if grid is None:
        return
    wanted, shape = tuple(grid["shape"]), prepared.array.shape
    affine = None if grid["affine"] is None else np.asarray(grid["affine"], dtype=float)
    fits = tuple(shape) == wanted
    if fits and affine is not None:
        fits = same_grid(shape, prepared.affine, wanted, affine)
    if not fits:
        raise RunExcluded(
            "wrong grid",
            f"{name}: expected {_grid(wanted, affine)} as in training, found {_grid(shape, prepared.affine)}; "
            "normalise the scan as the training data were",
        )


def _grid(shape: Sequence[int], affine: np.ndarray | None) -> str:
    words = " × ".join(map(str, shape))
    if affine is None:
        return f"{words} voxels"
    edges = " × ".join(f"{edge:.3g}" for edge in voxel_mm(affine))
    return f"{words} voxels of {edges} mm from ({', '.join(f'{at:.4g}' for at in affine[:3, 3])}) mm"


def voxel_mm(affine: np.ndarray | None) -> np.ndarray:
    """Return the edges of a voxel in mm; 1 where nothing is known of them."""
    return np.ones(3) if affine is None else np.linalg.norm(affine[:3, :3], axis=0)


def _places(affine: np.ndarray | None, axis: int, n: int) -> list[str]:
    """Return the names of the places along an axis of a map in RAS order."""
    if affine is None:
        return [f"{AXES[axis]} {i + 1} of {n}" for i in range(n)]
    return [f"{AXES[axis]} = {affine[axis, 3] + i * affine[axis, axis]:.1f} mm".replace("-", "−") for i in range(n)]


def _notes(prepared: Prepared) -> list[str]:
    shapes = prepared.source.shape, prepared.array.shape
    if shapes[0] == shapes[1]:
        return []
    return [f"Brought from {_grid(shapes[0], prepared.source_affine)} to {_grid(shapes[1], prepared.affine)}."]


# ------------------------------------------------------------------ slices


def _slices(array: np.ndarray, affine: np.ndarray | None, about: dict[str, Any], device, notes: list[str]) -> Scan:
    """Return a map cut into slices as in training; those without any contrast are left out."""
    import torch

    from neuropipe.data import image
    from neuropipe.data.slices import NORMALS, Slicing, square, stack

    slicing = Slicing.model_validate(about["slices"] or {})
    axis = NORMALS[slicing.plane]
    slices = stack(array, slicing.plane)
    chosen = _chosen(slices, slicing.positions(len(slices)), about.get("n_clips"))
    x, y, z = voxel_mm(affine)
    edges = {"sagittal": (z, y), "coronal": (z, x), "axial": (y, x)}[slicing.plane]
    images = torch.from_numpy(np.ascontiguousarray(slices[chosen]))[:, None].to(device)
    images = image.fit(square(images, edges), _img_size(about))
    if about.get("released"):
        notes = [
            *notes,
            f"Cut into {len(chosen)} {slicing.plane} slices; the release was trained on pictures of slices.",
        ]
    places = _places(affine, axis, array.shape[axis])
    return _stack(images, [f"{slicing.plane}, {places[k]}" for k in chosen], notes)


def _chosen(slices: np.ndarray, wanted: np.ndarray, n_clips: int | None) -> np.ndarray:
    """Return the positions of the slices that are read, as in training: evenly spaced over those with contrast."""
    there = wanted[[bool((slices[k] != slices[k, 0, 0]).any()) for k in wanted]]
    if not len(there):
        raise RunExcluded("constant", f"none of the {len(wanted)} slices that the network reads has any contrast")
    n = min(n_clips or len(there), len(there))
    return there[((np.arange(n) + 0.5) * len(there) / n).astype(np.int64)]


def _pictures(pictures: Sequence[tuple[Path, np.ndarray]], about: dict[str, Any], device) -> Scan:
    """Return the pictures of one person as one scan."""
    images = (_as_released if about.get("released") else _as_trained)(pictures, about)
    chosen = _chosen(images.numpy(), np.arange(len(images)), about.get("n_clips"))
    read = [pictures[k][0] for k in chosen]
    notes = [note for path in read for note in picture_notes(path)]
    if len(read) < len(pictures):
        notes.insert(0, f"{len(read)} of {len(pictures)} slices, evenly spaced, were read, as in training.")
    return _stack(images[chosen][:, None].to(device), [path.name for path in read], notes)


def _stack(images, names: list[str], notes: list[str]) -> Scan:
    """Return slices (slice, 1, row, column) as a scan."""
    from neuropipe.data.batch import Batch

    shown = images[:, 0].cpu().numpy()
    n, rows, columns = shown.shape
    return Scan(Batch.of_images(images), shown, [names, [""] * rows, [""] * columns], (n, rows, columns), notes)


def _img_size(about: dict[str, Any]) -> tuple[int, int]:
    return tuple(about["model"]["img_size"])


def _as_trained(pictures: Sequence[tuple[Path, np.ndarray]], about: dict[str, Any]):
    """Return pictures (slice, row, column) as their door, the preparation and the training read them."""
    import torch

    from neuropipe.bids.maps import Map
    from neuropipe.data import image
    from neuropipe.volumes import pictures as files
    from neuropipe.volumes import scale
    from neuropipe.volumes.prepare import prepare_slices

    settings = Volumes.model_validate(about["volumes"] or {})
    stack = np.stack([files.fit(picture, settings.image_size) for _, picture in pictures])
    stored, step, shift = scale.pack(prepare_slices(Map(stack), settings).array, settings.dtype)
    values = torch.from_numpy(stored.astype(np.float32) * np.float32(step) + np.float32(shift))
    return image.fit(values, _img_size(about))


def _as_released(pictures: Sequence[tuple[Path, np.ndarray]], about: dict[str, Any]):
    """Return pictures as the release reads them: stretched to a square; deep greys keep their own range."""
    import torch
    from torch.nn import functional as F

    from neuropipe.data import image

    def one(path: Path, picture: np.ndarray):
        if picture.max() <= 255:
            return image.read_published(path, shape).float() / 255
        return F.interpolate(torch.from_numpy(picture)[None, None], shape, mode="bilinear", antialias=True)[0, 0]

    shape = _img_size(about)
    return torch.stack([one(*picture) for picture in pictures])


def _brightness(path: Path) -> np.ndarray:
    """Return the pixels of a picture; one without contrast is refused."""
    from neuropipe.data import image

    try:
        values = image.read(path).numpy()
    except InputError as error:
        raise RunExcluded("not a picture", str(error)) from error
    if values.min() == values.max():
        raise RunExcluded("constant", f"{path.name}: every pixel is {values.flat[0]:g}; look at it")
    return values


def picture_notes(path: Path) -> list[str]:
    """Return what a reader should know of how a picture was read."""
    from PIL import Image

    with Image.open(path) as picture:
        mode = picture.mode
    if mode in COLOURED:
        return [f"{path.name} has colours; its brightness (luma) was read."]
    if mode.startswith(("I", "F")):
        return [f"{path.name} has more than 8 bits; it was read at its own depth."]
    return []

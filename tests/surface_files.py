"""Small surface and CIFTI files, written by nibabel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.cifti2 import BrainModelAxis, LabelAxis, SeriesAxis
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable, GiftiMetaData

LEFT, RIGHT = "CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT"
N_VERTICES = 40
MEDIAL_WALL = np.arange(12, 18)
GRID, AFFINE = (4, 5, 6), np.array([[-2.0, 0, 0, 6], [0, 2, 0, -8], [0, 0, 2, -4], [0, 0, 0, 1]])
BLANK = (0.0, 0.0, 0.0, 0.0)


def cortex(structure: str, vertices: np.ndarray | None = None, n_vertices: int = N_VERTICES) -> BrainModelAxis:
    """Return the columns of one hemisphere; by default all its vertices."""
    return BrainModelAxis.from_surface(
        np.arange(n_vertices) if vertices is None else vertices, n_vertices, structure.removeprefix("CIFTI_STRUCTURE_")
    )


def thalamus(voxels: np.ndarray) -> BrainModelAxis:
    """Return the columns of some voxels (voxel, 3)."""
    return BrainModelAxis(
        name="CIFTI_STRUCTURE_THALAMUS_LEFT", voxel=voxels, affine=AFFINE, volume_shape=GRID, nvertices={}
    )


def grayordinates() -> BrainModelAxis:
    """Return columns as fMRIPrep has them: both hemispheres without medial wall, then voxels."""
    kept = np.setdiff1d(np.arange(N_VERTICES), MEDIAL_WALL)
    voxels = np.array([[1, 2, 3], [1, 2, 4], [2, 2, 3], [3, 4, 5]])
    return cortex(LEFT, kept) + cortex(RIGHT, kept) + thalamus(voxels)


def save_dtseries(path: Path, data: np.ndarray, columns: BrainModelAxis, t_r: float = 2.0) -> Path:
    """Write a dense series; `data` is (time, column)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Cifti2Image(data, (SeriesAxis(0, t_r, len(data)), columns))
    image.update_headers()
    image.nifti_header.set_data_dtype(data.dtype)
    nib.save(image, path)
    return path


def save_dlabel(path: Path, values: np.ndarray, columns: BrainModelAxis, names: Mapping[int, str]) -> Path:
    """Write dense labels; `values` is (column,)."""
    table = {0: ("???", BLANK)} | {key: (name, (1.0, 0.0, 0.0, 1.0)) for key, name in names.items()}
    image = nib.Cifti2Image(values[None].astype(np.float32), (LabelAxis(["parcels"], [table]), columns))
    image.update_headers()
    nib.save(image, path)
    return path


def save_func(path: Path, data: np.ndarray, t_r: float | None = 2.0, structure: str = "CortexLeft") -> Path:
    """Write a functional series as FreeSurfer does, an array per volume; `data` is (time, vertex)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = GiftiMetaData({} if t_r is None else {"TimeStep": f"{1000 * t_r:f}"})
    arrays = [
        GiftiDataArray(
            volume.astype(np.float32), intent="NIFTI_INTENT_TIME_SERIES", datatype="NIFTI_TYPE_FLOAT32", meta=meta
        )
        for volume in data
    ]
    about = GiftiMetaData({"AnatomicalStructurePrimary": structure} if structure else {})
    nib.save(GiftiImage(meta=about, darrays=arrays), path)
    return path


def save_label(
    path: Path, values: np.ndarray, names: Mapping[int, str], structure: str = "CortexLeft", zero: str | None = "???"
) -> Path:
    """Write a label file; `values` is (vertex,)."""
    table = GiftiLabelTable()
    for key, name in (({} if zero is None else {0: zero}) | dict(names)).items():
        label = GiftiLabel(key)
        label.label = name
        table.labels.append(label)
    array = GiftiDataArray(values.astype(np.int32), intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32")
    meta = GiftiMetaData({"AnatomicalStructurePrimary": structure})
    nib.save(GiftiImage(meta=meta, darrays=[array], labeltable=table), path)
    return path

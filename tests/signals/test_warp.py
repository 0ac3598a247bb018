"""Transforms between template spaces: ITK's files, ITK's results, and which way they point."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from own_atlas import AFFINE, own
from scipy import sparse

from neuropipe.errors import AtlasError
from neuropipe.signals import atlases, cache, catalogue, grids
from neuropipe.signals.atlases import Atlas
from neuropipe.signals.warp import Transform, Warp, read_transform, warped

LPS = np.array([-1, -1, 1])


def affine_part() -> tuple[str, np.ndarray, np.ndarray]:
    matrix = [1.02, 0.03, -0.01, -0.02, 0.98, 0.04, 0.01, -0.03, 1.05]
    return "AffineTransform_double_3_3", np.array([*matrix, 1.5, -2.25, 0.75]), np.array([3.0, -4.0, 5.0])


def field_part(kind: str = "double") -> tuple[str, np.ndarray, np.ndarray]:
    """A field of 6 x 5 x 4 vectors, turned by 0.2 radians; stored with x fastest, a vector's components together."""
    x, y, z = np.meshgrid(np.arange(6), np.arange(5), np.arange(4), indexing="ij")
    vectors = [np.sin(x + 2 * y) - 0.3 * z, 0.5 * np.cos(y - z) + 0.1 * x, 0.2 * x * y - 0.4 * z]
    parameters = np.stack(vectors, -1).transpose(2, 1, 0, 3).ravel()
    c, s = math.cos(0.2), math.sin(0.2)
    fixed = np.array([6, 5, 4, -7.0, -6.0, -5.0, 2.5, 3.0, 4.0, c, -s, 0, s, c, 0, 0, 0, 1])
    return f"DisplacementFieldTransform_{kind}_3_3", parameters, fixed


def write(path: Path, *parts: tuple[str, np.ndarray, np.ndarray], spelling: str = "Transform") -> Path:
    """Write transforms as ITK does: one alone, or several in a composite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        groups = list(parts) if len(parts) == 1 else [("CompositeTransform_double_3_3", None, None), *parts]
        for number, (kind, parameters, fixed) in enumerate(groups):
            group = file.create_group(f"TransformGroup/{number}")
            group["TransformType"] = np.array([kind.encode()], dtype=h5py.string_dtype("ascii"))
            if parameters is not None:
                group[f"{spelling}Parameters"], group[f"{spelling}FixedParameters"] = parameters, fixed
    return path


POINTS = [(0, 0, 0), (1, 2, 3), (-3.5, -2, 0.5), (20, 20, 20), (-7.5, -6, -5), (5.5, 4, 3.9)]
# What SimpleITK 2.5.7 made of POINTS with the same transforms, in its own coordinates (LPS).
BY_ITK = {
    "affine": [
        (1.61, -2.47, 0.35),
        (2.66, -0.41, 3.45),
        (-2.025, -4.34, 0.9),
        (22.41, 17.53, 20.95),
        (-6.17, -8.4, -4.795),
        (7.301, 1.496, 4.38),
    ],
    "field": [
        (-0.419437, 0.707569, 0.464089),
        (1.209781, 2.857951, 3.771944),
        (-4.39179, -1.421505, 0.313334),
        (20, 20, 20),  # outside the field nothing moves
        (-7.469892, -5.507611, -5),  # within half a voxel of its edge
        (5.5, 4, 3.9),
    ],
    "both": [
        (1.19876, -1.74963, 0.811872),
        (2.891995, 0.457474, 4.236901),
        (-2.915404, -3.762706, 0.677728),
        (22.41, 17.53, 20.95),
        (-6.124518, -7.918061, -4.809471),
        (7.301, 1.496, 4.38),
    ],
}
PARTS = {"affine": [affine_part()], "field": [field_part()], "both": [affine_part(), field_part()]}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("spelling", ["Transform", "Tranform"])  # ITK 4 wrote the second
def test_points_go_where_itk_sends_them(tmp_path: Path, name: str, spelling: str) -> None:
    transform = read_transform(write(tmp_path / "t.h5", *PARTS[name], spelling=spelling))
    found = transform(np.array(POINTS) * LPS) * LPS
    np.testing.assert_allclose(found, BY_ITK[name], atol=2e-6)


def test_fields_are_stored_as_float32_too(tmp_path: Path) -> None:
    kind, parameters, fixed = field_part("float")
    transform = read_transform(write(tmp_path / "t.h5", (kind, parameters.astype(np.float32), fixed)))
    np.testing.assert_allclose(transform(np.array(POINTS) * LPS) * LPS, BY_ITK["field"], atol=2e-6)


# The same images through SimpleITK's resampler: labels and maps of 12 x 11 x 10 voxels of 3 mm, stored right to left,
# on an oblique grid of 5 x 4 x 3 voxels.
SOURCE = np.array([[-3.0, 0, 0, 15], [0, 3, 0, -14], [0, 0, 3, -12], [0, 0, 0, 1]])
COS, SIN = np.cos(0.3), np.sin(0.3)
GRID = np.array([[2.5 * COS, -2.5 * SIN, 0, -4], [2.5 * SIN, 2.5 * COS, 0, -5], [0, 0, 4.0, -6], [0, 0, 0, 1]])
# fmt: off
LABELS_BY_ITK = [
    3, 14, 6, 6, 14, 2, 2, 1, 5, 5, 9, 8, 19, 7, 18, 6, 17, 21, 21, 17, 21, 21, 9, 1, 12, 23, 11, 11, 10, 21,
    14, 6, 17, 17, 2, 4, 4, 3, 4, 4, 3, 7, 7, 18, 17, 10, 21, 20, 20, 8, 23, 23, 8, 7, 23, 11, 10, 10, 21, 13,
]
MAP_BY_ITK = [
    0.93483, 1.05966, 1.07235, 0.91924, 1.44764, 0.66757, 0.99474, 0.92388, 0.84489, 1.23867, 1.23924, 1.1543,
    1.68089, 0.87045, 1.35817, 1.2925, 1.29188, 1.24073, 1.41266, 1.3496, 1.0287, 1.44124, 1.13742, 0.85644,
    1.18404, 1.40414, 1.35306, 1.34371, 1.09617, 1.71859, 1.05447, 1.03846, 1.20417, 1.37948, 0.91788, 0.93273,
    0.96088, 1.3223, 0.89938, 1.13354, 1.1287, 1.08083, 1.24486, 1.35826, 1.33858, 1.17671, 1.41336, 1.46174,
    1.53688, 1.08982, 1.41052, 1.8028, 1.17977, 1.32064, 1.57528, 1.42079, 1.26339, 0.82693, 1.36301, 1.22179,
]
# fmt: on


def test_images_are_resampled_as_by_itk(tmp_path: Path) -> None:
    i, j, k = np.indices((12, 11, 10))
    labels = ((7 * i + 3 * j + 11 * k) % 23 + 1).astype(np.int32)
    transform = read_transform(write(tmp_path / "t.h5", affine_part(), field_part()))
    atlas = Atlas("toy", "A", pd.DataFrame({"value": range(1, 24)}), labels, SOURCE, "")
    found = warped(atlas, transform, "B", (5, 4, 3), GRID)
    assert found.labels.ravel().tolist() == LABELS_BY_ITK and found.space == "B"
    maps = sparse.csc_array((labels / 10).astype(np.float32).ravel(order="F")[:, None])
    soft = Atlas("toy", "A", atlas.table[:1], None, SOURCE, "", maps, labels.shape)
    found = warped(soft, transform, "B", (5, 4, 3), GRID)
    assert found.shape == (5, 4, 3) and found.maps.dtype == np.float32 and found.maps.format == "csc"
    np.testing.assert_allclose(found.maps.toarray().reshape((5, 4, 3), order="F").ravel(), MAP_BY_ITK, atol=1e-5)


def test_standing_still_is_plain_resampling(tmp_path: Path) -> None:
    """Ties included."""
    labels = np.random.default_rng(0).integers(0, 9, size=(7, 6, 5)).astype(np.int16)
    atlas = atlases.load(own(tmp_path, labels))
    half = AFFINE + np.array([[0, 0, 0, 1.0], [0, 0, 0, -3], [0, 0, 0, 0], [0, 0, 0, 0]])
    expected = grids.on_grid(atlas.labels, atlas.affine, (8, 8, 8), half)
    found = warped(atlas, Transform(()), "B", (8, 8, 8), half).labels
    np.testing.assert_array_equal(found, expected)


def test_a_file_from_a_to_b_brings_images_of_a_to_b(tmp_path: Path, empty_cache: Path) -> None:
    """Its points go the other way: what B has at x, A has at T(x). ``x`` counts to the left in ITK's files."""
    labels = np.zeros((20, 6, 6), dtype=np.int16)
    labels[12] = 1  # at x = 24 mm
    atlas = atlases.load(own(tmp_path, labels))
    shift = "AffineTransform_double_3_3", np.array([*np.eye(3).ravel(), -6.0, 0, 0]), np.zeros(3)
    source, target = catalogue.FSL, catalogue.ICBM
    write(cache.templateflow_folder() / catalogue.transform(source, target).file, shift)
    found = Warp().onto([atlas], target, (20, 6, 6), AFFINE)[0]
    assert np.unique(np.argwhere(found.labels)[:, 0]).tolist() == [9]  # 24 = x + 6
    assert Warp().onto([atlas], source, (20, 6, 6), AFFINE) == [atlas]  # nothing to do


def test_a_transform_that_is_not_here_says_how_to_get_it(tmp_path: Path, empty_cache: Path) -> None:
    atlas = atlases.load(own(tmp_path, np.ones((2, 2, 2), dtype=np.int16)))
    name = "MNI152NLin6Asym-to-MNI152NLin2009cAsym"
    with pytest.raises(AtlasError, match=f"neuropipe atlas fetch {name}"):
        Warp().onto([atlas], "MNI152NLin2009cAsym", (2, 2, 2), AFFINE)
    with pytest.raises(AtlasError, match=f"No transform is known .* MNI152NLin6Asym to T1w .*known: {name}"):
        Warp().used([atlas], "T1w")


def test_a_transform_that_changed_is_refused(tmp_path: Path, empty_cache: Path) -> None:
    remote = catalogue.transform(catalogue.FSL, catalogue.ICBM)
    write(cache.templateflow_folder() / remote.file, affine_part())
    cache.record_of(remote).parent.mkdir(parents=True)
    cache.record_of(remote).write_text("00  other\n")
    with pytest.raises(AtlasError, match="was altered"):
        Warp().find(catalogue.FSL, catalogue.ICBM)


@pytest.mark.parametrize("case", ["other kind", "damaged", "empty"])
def test_files_that_hold_no_usable_transform(tmp_path: Path, case: str) -> None:
    path = write(tmp_path / "t.h5", ("BSplineTransform_double_3_3", np.zeros(3), np.zeros(3)))
    message = "expected a 3-D affine, displacement field, or a composite of them, found BSplineTransform"
    if case == "damaged":
        path.write_bytes(path.read_bytes()[:200])
        message = "cannot be read as an ITK transform"
    elif case == "empty":
        path = write(tmp_path / "e.h5", ("CompositeTransform_double_3_3", None, None))
        message = "holds no transform"
    with pytest.raises(AtlasError, match=message):
        read_transform(path)


STEPS = ((1.1, -2.3, 3.7), (-1.1, 2.3, -3.7))


@pytest.mark.realdata
def test_a_warp_restores_a_moved_atlas(published_data: Path, tmp_path: Path) -> None:
    """Schaefer's labels, moved by 4.5 mm and back, are nearly themselves; only moved, they are not."""
    name = "tpl-MNI152NLin2009cAsym_res-02_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.nii.gz"
    image = nib.load(published_data / "atlases" / name)
    labels = np.asarray(image.dataobj).astype(np.int32)
    parts = [("AffineTransform_double_3_3", np.array([*np.eye(3).ravel(), *step]), np.zeros(3)) for step in STEPS]
    there, back = (read_transform(write(tmp_path / f"{part[1][-1]}.h5", part)) for part in parts)
    atlas = Atlas("s", "A", pd.DataFrame({"value": range(1, 401)}), labels, image.affine, "")
    moved = warped(atlas, there, "B", labels.shape, image.affine)
    restored = warped(moved, back, "A", labels.shape, image.affine).labels
    same = np.bincount(labels[labels == restored], minlength=401)[1:]
    sizes = np.bincount(labels.ravel(), minlength=401)[1:] + np.bincount(restored.ravel(), minlength=401)[1:]
    assert np.median(2 * same / sizes) > 0.85
    mixed = np.bincount(labels[labels == moved.labels], minlength=401)[1:]
    assert np.median(2 * mixed / sizes) < 0.7

"""Label images on the grid of a run: world coordinates decide, never the order of an array."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn.image import resample_img, resample_to_img
from own_atlas import AFFINE, own

from neuropipe.signals import atlases, grids, images
from neuropipe.signals.extract import extract
from neuropipe.signals.weights import on_run

GRIDS = {
    "flipped": np.array([[-2.0, 0, 0, 22], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
    "coarser": np.array([[3.9, 0, 0, 0.3], [0, 3.9, 0, 0.3], [0, 0, 3.9, 0.3], [0, 0, 0, 1]]),
    "finer and shifted": np.array([[0.87, 0, 0, -4.2], [0, 0.87, 0, 3.3], [0, 0, 0.87, 1.1], [0, 0, 0, 1]]),
    "swapped axes": np.array([[0, 2.0, 0, 0], [-2, 0, 0, 20], [0, 0, 2, 0], [0, 0, 0, 1]]),
    "oblique": np.array([[1.9, 0.31, 0, 0.4], [-0.31, 1.9, 0.2, 1.7], [0, -0.2, 2, 0.9], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("name", GRIDS)
def test_resampling_is_nilearns_nearest_neighbour(name: str) -> None:
    """Between the outermost voxel centres, and off the ties; scipy calls everything beyond those centres outside."""
    shape, target = (14, 9, 13), GRIDS[name]
    labels = np.random.default_rng(0).integers(0, 90, size=(12, 11, 10)).astype(np.int32)
    found = grids.on_grid(labels, AFFINE, shape, target)
    image = nib.Nifti1Image(labels, AFFINE)
    expected = resample_img(image, target, shape, interpolation="nearest", force_resample=True, copy_header=True)
    to_source = np.linalg.inv(AFFINE) @ target
    position = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ to_source[:3, :3].T + to_source[:3, 3]
    between = ((position >= 0) & (position <= np.array(labels.shape) - 1)).all(axis=-1)
    tie = (np.abs(position % 1 - 0.5) < 1e-6).any(axis=-1)
    comparable = between & ~tie
    assert comparable.sum() > 100
    np.testing.assert_array_equal(found[comparable], np.asarray(expected.dataobj)[comparable])
    far = ((position < -0.51) | (position > np.array(labels.shape) - 0.49)).any(axis=-1)
    assert not found[far].any()


def test_left_stays_left_whatever_the_storage(tmp_path: Path) -> None:
    """The same brain stored left-to-right and right-to-left has the same shape and opposite array order."""
    labels = np.zeros((11, 4, 4), dtype=np.int16)
    labels[:3], labels[-3:] = 1, 2
    centred = AFFINE.copy()
    centred[0, 3] = -10
    flipped = centred.copy()
    flipped[0] *= -1
    atlas = atlases.load(own(tmp_path, labels, affine=centred))
    merged = grids.merge([atlas], labels.shape, flipped)
    np.testing.assert_array_equal(merged.labels, labels[::-1])
    assert merged.n_voxels.tolist() == [48, 48]


def test_the_first_atlas_wins_a_voxel_and_the_loss_is_counted(tmp_path: Path) -> None:
    first, second = np.zeros((4, 1, 1), dtype=np.int16), np.zeros((4, 1, 1), dtype=np.int16)
    first[:2], second[1:] = 5, 9
    pair = [atlases.load(own(tmp_path, first, id="first")), atlases.load(own(tmp_path, second, id="second"))]
    merged = grids.merge(pair, (4, 1, 1), AFFINE)
    assert merged.labels.ravel().tolist() == [1, 1, 2, 2] and merged.n_overlapping == 1
    merged = grids.merge(pair[::-1], (4, 1, 1), AFFINE)
    assert merged.labels.ravel().tolist() == [2, 1, 1, 1] and merged.n_voxels.tolist() == [3, 1]


def test_labels_that_the_table_leaves_out_are_no_region(tmp_path: Path) -> None:
    labels = np.array([1, 2, 3, 8], dtype=np.int16).reshape(4, 1, 1)
    atlas = atlases.load(own(tmp_path, labels, {"index": [1, 3], "name": ["a", "c"]}))
    assert grids.merge([atlas], (4, 1, 1), AFFINE).labels.ravel().tolist() == [1, 0, 2, 0]


def test_a_region_that_a_coarse_grid_loses_keeps_its_place(tmp_path: Path) -> None:
    labels = np.zeros((8, 8, 8), dtype=np.int16)
    labels[:4], labels[5, 5, 5], labels[6:] = 1, 2, 3
    coarse = np.diag([8.0, 8.0, 8.0, 1.0])
    atlas = atlases.load(own(tmp_path, labels, affine=AFFINE))
    assert grids.merge([atlas], (2, 2, 2), coarse).n_voxels.tolist() == [4, 0, 0]


COARSE = np.array([[-3.0, 0, 0, 13.1], [0, 3, 0, -1.2], [0, 0, 3, -2.3], [0, 0, 0, 1]])
FINE = np.array([[2.0, 0, 0, -9.7], [0, 2, 0, 0.2], [0, 0, 2, 0.4], [0, 0, 0, 1]])


@pytest.mark.parametrize("shape", [(11, 13, 14), (6, 5, 4)], ids=["whole", "cropped field of view"])
def test_a_coarse_atlas_on_a_finer_grid_is_nilearns(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """3 mm, stored right to left, on 2 mm, stored left to right."""
    labels = np.random.default_rng(1).integers(0, 30, size=(9, 10, 11)).astype(np.int16)
    atlas = atlases.load(own(tmp_path, labels, affine=COARSE))
    run = nib.Nifti1Image(np.zeros(shape, dtype=np.int16), FINE)
    expected = resample_to_img(
        nib.Nifti1Image(labels, COARSE), run, interpolation="nearest", force_resample=True, copy_header=True
    )
    found = grids.merge([atlas], shape, FINE)
    values = np.concatenate([[0], atlas.table["value"]])[found.labels]
    inside = nilearn_is_inside(labels.shape, shape)
    assert inside.mean() > 0.5
    np.testing.assert_array_equal(values[inside], np.asarray(expected.dataobj)[inside])
    assert len(found.n_voxels) == len(atlas.table)  # whatever the field of view holds


def nilearn_is_inside(source: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Between the outermost voxel centres; scipy, which nilearn asks, calls what lies beyond outside."""
    to_source = np.linalg.inv(COARSE) @ FINE
    position = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ to_source[:3, :3].T + to_source[:3, 3]
    return ((position >= 0) & (position <= np.array(source) - 1)).all(axis=-1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_a_millimetre_is_another_grid(axis: int) -> None:
    """The 2 mm grids of two releases of one template lie 0.5 mm apart; rounding of a header is no difference."""
    shape, shifted, rounded = (97, 115, 97), AFFINE.copy(), AFFINE.copy()
    shifted[axis, 3] += 0.5
    rounded[axis, 3] += 1e-4
    assert not images.same_grid(shape, AFFINE, shape, shifted)
    assert images.same_grid(shape, AFFINE, shape, rounded)
    stretched = AFFINE * [1.001, 1, 1, 1]  # 2.002 mm: 0.2 mm off at the far side
    assert not images.same_grid(shape, AFFINE, shape, stretched)


def test_a_shift_of_more_than_half_a_voxel_moves_the_labels(tmp_path: Path) -> None:
    labels = np.arange(1, 9, dtype=np.int16).reshape(8, 1, 1)
    atlas = atlases.load(own(tmp_path, labels))
    for shift_mm, expected in ((0.5, labels.ravel()), (1.5, [*range(2, 9), 0]), (-1.5, [0, *range(1, 8)])):
        moved = AFFINE.copy()
        moved[0, 3] += shift_mm
        assert grids.merge([atlas], (8, 1, 1), moved).labels.ravel().tolist() == list(expected)


def test_an_oblique_run_is_compared_in_world_coordinates(tmp_path: Path) -> None:
    """A ball keeps its centre when it is put on a grid that is turned by 20 degrees."""
    where = np.stack(np.meshgrid(*[np.arange(30)] * 3, indexing="ij"), -1) * 2.0
    ball = (np.linalg.norm(where - [25, 30, 35], axis=-1) < 11).astype(np.int16)
    atlas = atlases.load(own(tmp_path, ball))
    turn = np.array([[0.94, -0.34, 0], [0.34, 0.94, 0], [0, 0, 1]])
    oblique = np.eye(4)
    oblique[:3, :3], oblique[:3, 3] = turn * 1.7, [-12, -15, 3]
    found = grids.merge([atlas], (60, 60, 34), oblique).labels
    centre = np.argwhere(found).mean(axis=0) @ oblique[:3, :3].T + oblique[:3, 3]
    np.testing.assert_allclose(centre, [25, 30, 35], atol=0.3)
    volume = found.sum() * abs(np.linalg.det(oblique[:3, :3]))
    np.testing.assert_allclose(volume, 4 / 3 * np.pi * 11**3, rtol=0.05)


def test_a_region_that_the_grid_loses_is_a_missing_column(tmp_path: Path) -> None:
    """It neither disappears nor shifts the others."""
    labels = np.zeros((8, 8, 8), dtype=np.int16)
    labels[:4], labels[5, 5, 5], labels[6:] = 1, 2, 3
    atlas = atlases.load(own(tmp_path, labels))
    coarse = np.diag([4.0, 8, 8, 1])
    signal = np.random.default_rng(0).normal(100, 1, size=(4, 2, 2, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(signal, coarse), tmp_path / "bold.nii.gz")
    found = extract(tmp_path / "bold.nii.gz", None, on_run([atlas], (4, 2, 2), coarse))
    np.testing.assert_allclose(found.series[:, 0], signal[:2].mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found.series[:, 2], signal[3].mean(axis=(0, 1)), rtol=1e-6)
    assert np.isnan(found.series[:, 1]).all() and found.coverage.tolist() == [1, 0, 1]

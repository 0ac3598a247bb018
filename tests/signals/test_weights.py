"""Maps and smoothing against nilearn's maskers and scipy."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker, NiftiMapsMasker
from scipy import sparse
from scipy.ndimage import affine_transform

from neuropipe.signals.atlases import Atlas
from neuropipe.signals.extract import extract
from neuropipe.signals.weights import Weights, on_run, resampled, smoothed

SHAPE = (14, 12, 11)
AFFINE = np.array([[-3.0, 0, 0, 20], [0, 2.5, 0, -15], [0, 0, 4, -12], [0, 0, 0, 1]])
N_VOLUMES, N_MAPS = 19, 6


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def image(tmp_path: Path, rng: np.random.Generator) -> Path:
    return save(tmp_path / "bold.nii.gz", rng.normal(100, 10, size=(*SHAPE, N_VOLUMES)).astype(np.float32))


@pytest.fixture
def mask(tmp_path: Path, rng: np.random.Generator) -> Path:
    return save(tmp_path / "mask.nii.gz", (rng.random(SHAPE) > 0.3).astype(np.uint8))


@pytest.fixture
def maps(rng: np.random.Generator) -> np.ndarray:
    """Overlapping blobs, one of them at a corner of the grid."""
    where = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    centres = np.concatenate([[[0, 0, 0]], rng.uniform(2, 10, size=(N_MAPS - 1, 3))])
    blobs = [np.exp(-(((where - centre) / 2.5) ** 2).sum(axis=-1)) for centre in centres]
    return np.where(np.stack(blobs, axis=-1) > 0.05, np.stack(blobs, axis=-1), 0).astype(np.float32)


@pytest.fixture
def labels(rng: np.random.Generator) -> np.ndarray:
    """Seven scattered regions that reach the border of the grid."""
    return rng.integers(0, 8, size=SHAPE).astype(np.int32)


def save(path: Path, data: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    return path


def table(n_regions: int) -> pd.DataFrame:
    return pd.DataFrame({"value": range(1, n_regions + 1)})


def of_labels(labels: np.ndarray) -> Atlas:
    return Atlas("labels", "MNI", table(labels.max()), labels, AFFINE, "")


def of_maps(maps: np.ndarray, affine: np.ndarray = AFFINE) -> Atlas:
    flat = sparse.csc_array(maps.reshape(-1, maps.shape[-1], order="F"))
    return Atlas("maps", "MNI", table(maps.shape[-1]), None, affine, "", flat, maps.shape[:3])


def on_the_run(*atlases: Atlas) -> Weights:
    return on_run(atlases, SHAPE, AFFINE)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fwhm", [None, 3.0, 8.0])
def test_least_squares_equal_nilearns_maps_masker(
    image: Path, mask: Path, maps: np.ndarray, masked: bool, fwhm: float | None
) -> None:
    brain = mask if masked else None
    masker = NiftiMapsMasker(
        nib.Nifti1Image(maps, AFFINE), mask_img=brain, smoothing_fwhm=fwhm, standardize=None, reports=False
    )
    expected = masker.fit_transform(image)
    found = extract(image, brain, on_the_run(of_maps(maps)), smoothing_fwhm_mm=fwhm, maps="least_squares")
    np.testing.assert_allclose(found.series, expected, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fwhm", [3.0, 8.0])
def test_smoothed_means_equal_nilearns_labels_masker(
    image: Path, mask: Path, labels: np.ndarray, masked: bool, fwhm: float
) -> None:
    brain = mask if masked else None
    masker = NiftiLabelsMasker(
        nib.Nifti1Image(labels, AFFINE), mask_img=brain, smoothing_fwhm=fwhm, standardize=None, reports=False
    )
    found = extract(image, brain, on_the_run(of_labels(labels)), smoothing_fwhm_mm=fwhm)
    np.testing.assert_allclose(found.series, masker.fit_transform(image), rtol=1e-5)
    inside = np.ones(SHAPE, bool) if brain is None else nib.load(mask).get_fdata() > 0.5
    counts = np.bincount(labels[inside], minlength=8)[1:]
    np.testing.assert_allclose(found.coverage, counts / np.bincount(labels.ravel(), minlength=8)[1:])


def test_weighted_means(image: Path, mask: Path, maps: np.ndarray) -> None:
    found = extract(image, mask, on_the_run(of_maps(maps)))
    data, brain = nib.load(image).get_fdata(), nib.load(mask).get_fdata() > 0.5
    for region in range(N_MAPS):
        weight = maps[..., region] * brain
        expected = (data * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()
        np.testing.assert_allclose(found.series[:, region], expected, rtol=1e-6)
        np.testing.assert_allclose(found.coverage[region], weight.sum() / maps[..., region].sum(), rtol=1e-6)
        assert found.n_used[region] == (weight > 0).sum()


def test_labels_and_maps_in_one_pass_keep_the_order_of_the_atlases(
    image: Path, mask: Path, maps: np.ndarray, labels: np.ndarray
) -> None:
    both = extract(image, mask, on_the_run(of_maps(maps), of_labels(labels))).series
    np.testing.assert_array_equal(both[:, :N_MAPS], extract(image, mask, on_the_run(of_maps(maps))).series)
    np.testing.assert_array_equal(both[:, N_MAPS:], extract(image, mask, on_the_run(of_labels(labels))).series)


def test_a_voxel_that_leaves_the_field_of_view_has_no_weight(tmp_path: Path, maps: np.ndarray) -> None:
    """Everything is 50; a voxel that is zero once, and one that is never finite, must not pull a mean down."""
    data = np.full((*SHAPE, N_VOLUMES), 50, dtype=np.float32)
    heaviest = [np.unravel_index(maps[..., region].argmax(), SHAPE) for region in (1, 2)]
    data[(*heaviest[0], 7)] = 0
    data[heaviest[1]] = np.nan
    path = save(tmp_path / "bold.nii.gz", data)
    for fwhm in (None, 4.0):
        found = extract(path, None, on_the_run(of_maps(maps)), smoothing_fwhm_mm=fwhm)
        np.testing.assert_allclose(found.series, 50, rtol=1e-6)
        assert (found.coverage[1:3] < 1).all() and found.n_without_signal == 2


def test_a_map_outside_the_brain_is_missing(tmp_path: Path, image: Path, maps: np.ndarray) -> None:
    brain = np.ones(SHAPE, dtype=np.uint8)
    brain[maps[..., 3] > 0] = 0
    path = save(tmp_path / "brain.nii.gz", brain)
    for how in ("weighted_mean", "least_squares"):
        found = extract(image, path, on_the_run(of_maps(maps)), maps=how)
        assert np.isnan(found.series[:, 3]).all() and found.coverage[3] == 0
        assert np.isfinite(found.series[:, [0, 1, 2, 4, 5]]).all()


@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_maps_on_another_grid_are_interpolated_linearly(maps: np.ndarray, angle: float) -> None:
    """Against scipy, which wants the matrix that leads from target to source voxels; oblique grids too."""
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    target_shape, target = (20, 17, 15), turn @ np.diag([2.0, 2.0, 2.5, 1])
    target[:3, 3] = [-22, -14, -11]
    to_source = np.linalg.inv(AFFINE) @ target
    found = resampled(of_maps(maps).maps, SHAPE, AFFINE, target_shape, target).toarray()
    for region in range(N_MAPS):
        expected = affine_transform(
            maps[..., region].astype(np.float64),
            to_source[:3, :3],
            to_source[:3, 3],
            target_shape,
            order=1,
            mode="grid-constant",
        )
        np.testing.assert_allclose(found[:, region].reshape(target_shape, order="F"), expected, atol=1e-6)


def test_smoothing_keeps_the_sum_of_weights(maps: np.ndarray) -> None:
    matrix = of_maps(maps).maps.astype(np.float64)
    wide = smoothed(matrix, SHAPE, AFFINE, 6.0)
    np.testing.assert_allclose(wide.sum(axis=0), matrix.sum(axis=0))
    assert wide.nnz > matrix.nnz

"""Regional volumes against nilearn's sum over labels."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker
from scipy.sparse import csc_array

from neuropipe.signals.atlases import Atlas
from neuropipe.signals.warp import Warp
from neuropipe.volumes.grids import voxel_ml
from neuropipe.volumes.regional import Parcellation, coverage_of

SHAPE = (12, 14, 10)
AFFINE = np.array([[1.5, 0, 0, -9], [0, 1.5, 0, -10.5], [0, 0, 1.5, -6], [0, 0, 0, 1]])
SPACE = "MNI152NLin2009cAsym"


def atlas(labels: np.ndarray, affine: np.ndarray, n: int = 3) -> Atlas:
    table = pd.DataFrame({"value": np.arange(1, n + 1), "label": np.arange(1, n + 1), "atlas": "toy"})
    return Atlas("toy", SPACE, table, labels.astype(np.int32), affine, "0")


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).gamma(2, 0.3, size=SHAPE).astype(np.float32)


def labels_on(shape: tuple[int, ...]) -> np.ndarray:
    """Three slabs, the last of which ends at the border."""
    labels = np.zeros(shape, dtype=np.int32)
    bounds = np.linspace(1, shape[0], 4).astype(int)
    for region in range(3):
        labels[bounds[region] : bounds[region + 1], 2:-2, 1:-1] = region + 1
    return labels


def test_volumes_are_nilearns_sums_times_the_volume_of_a_voxel(array: np.ndarray) -> None:
    labels = labels_on(SHAPE)
    found = Parcellation.on_grid([atlas(labels, AFFINE)], Warp(), SPACE, SHAPE, AFFINE).volumes_ml(array)
    masker = NiftiLabelsMasker(nib.Nifti1Image(labels, AFFINE), strategy="sum", standardize=None)
    sums = masker.fit_transform(nib.Nifti1Image(array, AFFINE)).ravel()
    assert voxel_ml(AFFINE) == pytest.approx(1.5**3 / 1000)
    np.testing.assert_allclose(found, sums * 1.5**3 / 1000, rtol=1e-5)
    assert np.all(found > 2 * array.mean() * voxel_ml(AFFINE)), "a sum, no mean"


def test_labels_of_another_grid_and_orientation_are_brought_to_the_map(array: np.ndarray) -> None:
    """The same labels at half the voxel size, left to right in the file, give the same volumes."""
    fine = np.repeat(np.repeat(np.repeat(labels_on(SHAPE), 2, 0), 2, 1), 2, 2)
    affine = np.diag([0.75, 0.75, 0.75, 1.0])
    affine[:3, 3] = AFFINE[:3, 3] - 0.375
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = fine.shape[0] - 1
    own, other = (
        Parcellation.on_grid([one], Warp(), SPACE, SHAPE, AFFINE).volumes_ml(array)
        for one in (atlas(labels_on(SHAPE), AFFINE), atlas(fine[::-1], affine @ flip))
    )
    np.testing.assert_allclose(other, own, rtol=1e-12)


def test_part_of_a_region_is_not_its_volume(array: np.ndarray) -> None:
    """The grid ends within the last slab; half of the second is enough where half is asked for."""
    labels = labels_on(SHAPE)
    n_second = np.flatnonzero((labels == 2).any(axis=(1, 2)))
    end = n_second[0] + len(n_second) // 2
    small = (end, *SHAPE[1:])
    parcellation = Parcellation.on_grid([atlas(labels, AFFINE)], Warp(), SPACE, small, AFFINE)
    np.testing.assert_allclose(parcellation.coverage, [1, (len(n_second) // 2) / len(n_second), 0])
    found = parcellation.volumes_ml(array[:end], min_coverage=0.6)
    assert np.isfinite(found).tolist() == [True, False, False]
    assert np.isfinite(parcellation.volumes_ml(array[:end], min_coverage=0.5)).tolist() == [True, True, False]
    assert parcellation.n_voxels.tolist() == [(labels[:end] == n).sum() for n in (1, 2, 3)]


def test_maps_of_an_atlas_weigh_the_voxels(array: np.ndarray) -> None:
    weights = np.random.default_rng(1).uniform(size=(array.size, 2)) * (np.arange(array.size)[:, None] % 3 == 0)
    table = pd.DataFrame({"value": [1, 2], "label": [1, 2], "atlas": "soft"})
    soft = Atlas("soft", SPACE, table, None, AFFINE, "0", csc_array(weights.astype(np.float32)), SHAPE)
    found = Parcellation.on_grid([soft], Warp(), SPACE, SHAPE, AFFINE)
    expected = weights.astype(np.float32).T @ array.ravel(order="F") * voxel_ml(AFFINE)
    np.testing.assert_allclose(found.volumes_ml(array), expected, rtol=1e-5)
    half = coverage_of(soft, (6, *SHAPE[1:]), AFFINE)
    inside = np.unravel_index(np.arange(array.size), SHAPE, order="F")[0] < 6
    np.testing.assert_allclose(half, weights[inside].sum(axis=0) / weights.sum(axis=0), rtol=1e-5)

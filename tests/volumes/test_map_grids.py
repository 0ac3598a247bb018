"""Orientation, voxel size and boxes against nibabel, nilearn, and cases worked out by hand."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from nilearn.image import resample_img

from neuropipe.config import Volumes
from neuropipe.errors import RunExcluded
from neuropipe.volumes import grids

AFFINE = np.array([[2.0, 0, 0, -9], [0, 2.0, 0, -11], [0, 0, 2.5, -7], [0, 0, 0, 1]])
ORDERS = list(itertools.permutations(range(3)))
SIGNS = list(itertools.product([1, -1], repeat=3))


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 7, 6)).astype(np.float32)


@pytest.mark.parametrize("order", ORDERS)
def test_any_flip_and_order_of_axes_is_turned_to_ras(array: np.ndarray, order: tuple[int, ...]) -> None:
    """What nibabel stores in any of 48 orders is read back as what it was."""
    image = nib.Nifti1Image(array, AFFINE)
    for signs in SIGNS:
        turn = np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
        other = image.as_reoriented(turn)
        found, affine = grids.as_ras(np.asarray(other.dataobj), other.affine)
        np.testing.assert_array_equal(found, array)
        np.testing.assert_allclose(affine, AFFINE, atol=1e-12)
        shape, of_header = grids.planned(other.shape, other.affine, Volumes())
        assert shape == array.shape and np.allclose(of_header, AFFINE)


def test_a_little_oblique_is_kept_and_more_is_refused(array: np.ndarray) -> None:
    def turned(degrees: float) -> np.ndarray:
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]) @ AFFINE

    found, affine = grids.as_ras(array, turned(1))
    np.testing.assert_array_equal(found, array)
    np.testing.assert_allclose(affine, turned(1))
    with pytest.raises(RunExcluded, match=r"oblique image: .* found 5\.0 degrees"):
        grids.as_ras(array, turned(5))


def test_an_affine_without_inverse_is_refused(array: np.ndarray) -> None:
    with pytest.raises(RunExcluded, match="no inverse"):
        grids.as_ras(array, np.diag([2.0, 0, 2, 1]))


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (1, 2, 4, 5, 6), (4, 5)])
def test_what_is_no_volume_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RunExcluded, match="not a volume"):
        grids.as_ras(np.zeros(shape, dtype=np.float32), np.eye(4))


def test_resampling_is_nilearns_and_keeps_the_integral(array: np.ndarray) -> None:
    smooth = np.zeros((20, 24, 22), dtype=np.float32)
    smooth[4:16, 5:19, 5:17] = np.random.default_rng(1).gamma(2, size=(12, 14, 12))
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = [-15, -18, -12]
    shape, target = grids.lattice(smooth.shape, affine, 2.0)
    # From the centre -15 to the centre 13.5: the multiples of 2 between are -14 to 12.
    assert shape == (14, 18, 16) and target[:3, 3].tolist() == [-14, -18, -12]
    expected = resample_img(
        nib.Nifti1Image(smooth, affine), target, shape, interpolation="linear", copy_header=True, force_resample=True
    ).get_fdata()
    plain = grids.resampled(smooth, affine, shape, target, keep_integral=False)
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    kept = grids.resampled(smooth, affine, shape, target, keep_integral=True)
    assert kept.sum(dtype=float) * 8 == pytest.approx(smooth.sum(dtype=float) * 1.5**3, rel=1e-6)
    assert np.ptp(kept[plain > 0.1] / plain[plain > 0.1]) < 1e-5, "one factor for all voxels"


def test_maps_of_one_field_of_view_share_the_grid_whatever_their_voxels() -> None:
    """CAT12's 1.5 mm grid and FSL's 2 mm grid have the same field of view."""
    cat, fsl = np.diag([1.5, 1.5, 1.5, 1.0]), np.diag([-2.0, 2, 2, 1])
    cat[:3, 3], fsl[:3, 3] = [-90, -126, -72], [90, -126, -72]
    settings = Volumes(voxel_mm=3)
    one, other = (grids.planned(s, a, settings) for s, a in (((121, 145, 121), cat), ((91, 109, 91), fsl)))
    assert one[0] == other[0] == (61, 73, 61)
    np.testing.assert_allclose(one[1], other[1])


def test_the_published_recipe_of_crop_and_pad() -> None:
    """121x145x121 is cut to 8:136 of its second axis, then padded by 3 before and 4 after the others."""
    settings = Volumes(crop=(121, 128, 121), size=(128, 128, 128))
    array = np.random.default_rng(0).normal(size=(121, 145, 121)).astype(np.float32)
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = [-90, -126, -72]
    found, moved = grids.placed(array, affine, settings, modulated=True)
    expected = np.pad(array[:, 8:136, :], [(3, 4), (0, 0), (3, 4)])
    np.testing.assert_array_equal(found, expected)
    shape, planned = grids.planned(array.shape, affine, settings)
    assert shape == (128, 128, 128) and np.array_equal(planned, moved)
    # The same voxel is at the same place: index (3, 0, 3) is what index (0, 8, 0) was.
    np.testing.assert_allclose(moved @ [3, 0, 3, 1], affine @ [0, 8, 0, 1])


def test_size_alone_cuts_and_pads_about_the_centre() -> None:
    line = np.arange(1, 6, dtype=np.float32).reshape(5, 1, 1)
    cut = grids.placed(line, np.eye(4), Volumes(size=(2, 2, 4)), modulated=False)[0]
    assert cut[:, 0, 1].tolist() == [2, 3], "int((5 - 2) / 2) = 1"
    assert cut[0].tolist() == [[0, 2, 0, 0], [0, 0, 0, 0]], "one of one is padded by 0 and 1, and by 1 and 2"
    small = grids.placed(line, np.eye(4), Volumes(crop=(3, 9, 9), size=(5, 1, 1)), modulated=False)[0]
    assert small.ravel().tolist() == [0, 2, 3, 4, 0], "what crop cut off does not come back"


def test_without_an_affine_boxes_work_and_voxels_have_no_size() -> None:
    array = np.ones((4, 4, 4), dtype=np.float32)
    assert grids.placed(array, None, Volumes(size=(6, 6, 6)), modulated=False)[1] is None
    with pytest.raises(RunExcluded, match="no affine"):
        grids.planned(array.shape, None, Volumes(voxel_mm=2))

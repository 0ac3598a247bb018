"""Slices: the right plane the right way up, with its own aspect, whether cut here or stored as stacks."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from volume_shards import AFFINE, toy_maps, toy_people, write_volume_shards

from neuropipe.data.slices import Slices, Slicing, square, stack
from neuropipe.data.source import open_source
from neuropipe.errors import InputError
from neuropipe.models.base import ImageSpec

WHOLE = {"range": (0, 1)}
FREE = ImageSpec()  # takes any size


def marked(shape=(10, 12, 9)) -> np.ndarray:
    """Every voxel says where it is: 10000 x + 100 y + z."""
    x, y, z = np.indices(shape)
    return 10000.0 * x + 100 * y + z


def opened(tmp_path, maps=None, **changes) -> Slices:
    slicing = Slicing(**(WHOLE | {k: v for k, v in changes.items() if k in Slicing.model_fields}))
    written = {k: v for k, v in changes.items() if k in ("dtype", "affine", "content")}
    shards = write_volume_shards(tmp_path / "study", maps or toy_maps(), toy_people(), **written)
    return open_source([shards], residence=changes.get("residence", "device"), slices=slicing)


@pytest.mark.parametrize(
    ("plane", "first", "up", "right"),
    [("axial", "S", "A", "R"), ("coronal", "A", "S", "R"), ("sagittal", "R", "S", "A")],
)
def test_rows_run_from_the_top_down_and_columns_from_left_to_right(plane, first, up, right):
    """nibabel turns the marked volume so that its axes are slice, row (downwards), column; ours is the same."""
    down = {"A": "P", "S": "I"}[up]
    target = nib.orientations.axcodes2ornt((first, down, right))
    turned = nib.orientations.apply_orientation(marked(), nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(("R", "A", "S")), target
    ))  # fmt: skip
    np.testing.assert_array_equal(stack(marked(), plane), turned)


@pytest.mark.parametrize("residence", ["device", "mapped"])
def test_the_left_hemisphere_is_on_the_left_of_an_axial_slice_and_the_front_at_its_top(tmp_path, residence):
    values = np.zeros((10, 12, 9))
    values[2, 9, 4] = 1  # left, in front
    values[7, 3, 4] = 2  # right, behind
    source = opened(tmp_path, {("sub-00", "sub-00_ses-1"): values}, residence=residence)
    batch = source.evaluation_batch(0, FREE)
    assert batch.image.shape == (1, 1, 12, 10)  # the only slice with contrast
    assert [tuple(place) for place in batch.image[0, 0].nonzero().tolist()] == [(2, 2), (8, 7)]
    assert batch.image[0, 0, 2, 2] == 1


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_device_and_memory_map_give_the_same_batches(tmp_path, plane, dtype):
    shards = write_volume_shards(tmp_path, toy_maps(), toy_people(), dtype=dtype)
    resident, mapped = (
        open_source([shards], residence=residence, labels={"age": "number"}, slices=Slicing(plane=plane, **WHOLE))
        for residence in ("device", "mapped")
    )
    for step in range(4):
        a, b = (source.training_batch(ImageSpec((16, 20), n_views=2), 4, 7, step) for source in (resident, mapped))
        assert a.image.shape == (8, 1, 16, 20)
        assert torch.equal(a.image, b.image) and torch.equal(a.person, b.person)
        torch.testing.assert_close(a.labels["age"], b.labels["age"], rtol=0, atol=0, equal_nan=True)


def test_empty_slices_are_skipped_and_a_scan_of_nothing_else_is_named(tmp_path):
    source = opened(tmp_path, residence="mapped")
    assert source.usable(0).tolist() == [2, 3, 4, 5, 6]  # the rim of two voxels is empty
    assert len(source.evaluation_batch(0, FREE, None).image) == 5
    with pytest.raises(InputError, match="vbm_sub-00_ses-1: expected at least one slice with contrast among 2"):
        opened(tmp_path / "rim", range=(0, 0.1))


def test_range_and_step_choose_slices(tmp_path):
    assert Slicing(range=(0.25, 0.75), step=3).positions(121).tolist() == list(range(30, 91, 3))
    assert Slicing(range=(0.5, 0.5)).positions(9).tolist() == [4]
    assert opened(tmp_path, range=(0.5, 1), step=2).usable(0).tolist() == [4, 6]
    with pytest.raises(ValidationError, match="must not be larger"):
        Slicing(range=(0.7, 0.3))
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Slicing(range=(30, 90))


def test_evaluation_takes_the_middles_of_equal_parts(tmp_path):
    values = np.zeros((10, 12, 20)) + np.arange(20)
    values[0] += 100  # contrast in every slice
    source = opened(tmp_path, {("sub-00", "sub-00_ses-1"): values})
    for n_clips, expected in [(1, [10]), (2, [5, 15]), (4, [2, 7, 12, 17]), (99, range(20)), (None, range(20))]:
        batch = source.evaluation_batch(0, FREE, n_clips)
        assert batch.image[:, 0, 0, 5].tolist() == list(expected)


def test_training_draws_every_slice_of_every_scan_equally(tmp_path):
    """Chi-square: two scans of five usable slices each, drawn 2,000 times."""
    maps = {key: values for key, values in toy_maps().items() if key[0] == "sub-00"}
    source = opened(tmp_path, maps)
    known = [image.numpy().tobytes() for i in source for image in source.evaluation_batch(i, FREE).image]
    assert len(set(known)) == 10
    drawn = [source.training_batch(FREE, 1, 0, step).image[0].numpy().tobytes() for step in range(2000)]
    counts = np.array([drawn.count(slice_) for slice_ in known])
    assert counts.sum() == 2000
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # 9 degrees of freedom, p = 0.001


def test_aspect_is_kept_and_the_rest_filled_with_the_background(tmp_path):
    values = np.zeros((10, 12, 9)) + np.arange(9)
    values[:, :, 4] = 7 + np.indices((10, 12)).sum(0) % 2
    batch = opened(tmp_path, {("sub-00", "sub-00_ses-1"): values}).evaluation_batch(0, ImageSpec((24, 24)))
    image = batch.image[0, 0]
    assert image.shape == (24, 24)
    assert (image[:, 2:22].std(0) > 0).all()  # 12 x 10 becomes 24 x 20
    assert (image[:, :2] == 7).all() and (image[:, 22:] == 7).all()


def test_flat_voxels_give_round_heads(tmp_path):
    """A ball in voxels of 12 x 12 x 24 mm is drawn as a disc."""
    affine = AFFINE @ np.diag([1, 1, 2, 1.0])
    x, y, z = np.indices((20, 20, 10))
    ball = ((x - 9.5) ** 2 + (y - 9.5) ** 2 + (2 * (z - 4.5)) ** 2 < 64).astype(float)
    source = opened(tmp_path, {("sub-00", "sub-00_ses-1"): ball}, affine=affine, plane="coronal")
    image = source.evaluation_batch(0, FREE, 1).image[0, 0]
    assert image.shape == (20, 20)
    high, wide = ((image > 0.5).any(axis).sum().item() for axis in (1, 0))
    assert abs(high - wide) <= 2
    same = torch.rand(2, 1, 5, 6)
    assert square(same, (1.5, 1.5)) is same


@pytest.mark.parametrize("residence", ["device", "mapped"])
def test_stored_stacks_are_taken_as_they_are(tmp_path, residence):
    rng = np.random.default_rng(0)
    stacks = {(f"sub-{k:02d}", f"sub-{k:02d}_ses-1"): rng.uniform(size=(3 + k, 8, 6)) for k in range(4)}
    stacks["sub-01", "sub-01_ses-1"][2] = 0.5  # an empty slice
    source = opened(tmp_path, stacks, content="image", residence=residence)
    assert source.content == "image" and source.grid is None and source.regions is None
    assert [len(source.usable(i)) for i in source] == [3, 3, 5, 6]
    batch = source.evaluation_batch(2, FREE)
    expected = stacks["sub-02", "sub-02_ses-1"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(batch.image[:, 0].numpy(), expected)
    assert source.training_batch(ImageSpec((16, 16)), 4, 0, 0).image.shape == (4, 1, 16, 16)


def test_stacks_of_two_sizes_are_refused(tmp_path):
    stacks = {("sub-00", "sub-00_ses-1"): np.eye(6)[None], ("sub-01", "sub-01_ses-1"): np.eye(8)[None]}
    with pytest.raises(InputError, match=r"slices of one size.*\(6, 6\) \(vbm_sub-00_ses-1\); \(8, 8\)"):
        opened(tmp_path, stacks, content="image")

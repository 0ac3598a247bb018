"""Volumes: the stored maps, decoded, whatever the residence; and who and what may come together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from volume_shards import AFFINE, toy_maps, toy_people, write_volume_shards

from neuropipe.data.recordings import Recordings
from neuropipe.data.source import check_reads, open_source
from neuropipe.data.volumes import Volumes
from neuropipe.errors import InputError
from neuropipe.models.base import ClipSpec, ImageSpec, VolumeSpec

SPEC = VolumeSpec()


@pytest.fixture
def shards(tmp_path):
    return write_volume_shards(tmp_path / "study", toy_maps(), toy_people())


@pytest.mark.parametrize("residence", ["device", "mapped"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-4), ("float32", 0), ("uint8", 1 / 500)])
def test_a_batch_holds_what_was_measured(tmp_path, residence, dtype, tolerance):
    maps = toy_maps()
    source = open_source([write_volume_shards(tmp_path, maps, toy_people(), dtype=dtype)], residence=residence)
    assert isinstance(source, Volumes) and len(source) == 10 and source.n_people == 8
    for i in source:
        batch = source.evaluation_batch(i, SPEC)
        assert batch.volume.shape == (1, 1, 10, 12, 9) and batch.volume.dtype == torch.float32
        values = maps[source.table["participant_id"][i], source.table["run_id"][i]]
        np.testing.assert_allclose(batch.volume[0, 0].numpy(), values.astype(np.float32), atol=tolerance)


def test_device_and_memory_map_give_the_same_batches(shards):
    spec = VolumeSpec(n_views=2)
    sources = [
        open_source([shards], sites={"vbm": "site"}, residence=residence, labels={"age": "number"})
        for residence in ("device", "mapped")
    ]
    for step in range(4):
        a, b = (source.training_batch(spec, 4, 7, step) for source in sources)
        for name in ("volume", "person", "site", "dataset"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        torch.testing.assert_close(a.labels["age"], b.labels["age"], rtol=0, atol=0, equal_nan=True)


def test_number_formats_of_two_datasets_meet_in_one_bank(tmp_path):
    maps = toy_maps()
    pair = [
        write_volume_shards(tmp_path, maps, toy_people(), dataset=name, dtype=dtype)
        for name, dtype in (("a", "uint8"), ("b", "float16"))
    ]
    source = open_source(pair)
    assert source.dtype == torch.float16 and source.n_people == 16
    for i in source:
        values = source.shards(i).values(source.row(i))
        np.testing.assert_allclose(source.evaluation_batch(i, SPEC).volume[0, 0].numpy(), values, rtol=1e-6)


def test_one_scan_of_each_person_and_different_ones_as_views(shards):
    source = open_source([shards])
    seen = set()
    for step in range(20):
        batch = source.training_batch(SPEC, 4, 0, step)
        assert len(set(batch.person.tolist())) == 4
        two = source.training_batch(VolumeSpec(n_views=2), 8, 0, step)
        first, second = two.person.view(2, -1)
        assert torch.equal(first, second)
        same = [torch.equal(x, y) for x, y in zip(*two.volume.chunk(2), strict=True)]
        assert same == [len(source.of_person[person]) == 1 for person in first.tolist()]
        seen |= {hash(v.numpy().tobytes()) for v in two.volume}
    assert len(seen) == 10  # every scan is drawn


def test_a_family_of_another_size_is_told_which_was_found(shards):
    message = r"Expected volumes of \(16, 16, 16\) voxels.*found MNI152NLin2009cAsym, 10x12x9 voxels of 12x12x12 mm"
    with pytest.raises(InputError, match=message):
        open_source([shards]).training_batch(VolumeSpec((16, 16, 16)), 2, 0, 0)
    assert len(open_source([shards]).training_batch(VolumeSpec((10, 12, 9)), 2, 0, 0)) == 2


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"space": "MNI152NLin6Asym"}, "found MNI152NLin6Asym"),
        ({"affine": AFFINE + np.diag([0, 0, 1.0, 0])}, "of 12x12x13 mm"),
        ({"affine": np.diag([-1.0, 1, 1, 1]) @ AFFINE}, r"the first at \(80, -110, -60\)"),
    ],
)
def test_voxels_of_other_places_are_refused(tmp_path, shards, changes, found):
    other = write_volume_shards(tmp_path / "study", toy_maps(), toy_people(), dataset="other", **changes)
    with pytest.raises(InputError, match=f"other beside vbm: expected voxels of.*{found}"):
        open_source([shards, other])


def test_a_map_that_does_not_fill_the_grid_is_named(tmp_path):
    maps = toy_maps()
    maps["sub-07", "sub-07_ses-1"] = np.ones((10, 12, 8))
    with pytest.raises(InputError, match=r"vbm_sub-07_ses-1: expected the shape \(10, 12, 9\).*found \(10, 12, 8\)"):
        open_source([write_volume_shards(tmp_path, maps, toy_people())])


def test_contents_do_not_mix_and_families_are_checked(shards, toy_shards, tmp_path):
    with pytest.raises(InputError, match="one content, found vbm: volume, toy: series"):
        open_source([shards, toy_shards])
    assert isinstance(open_source([toy_shards]), Recordings)
    check_reads(SPEC, [shards], "recipe")
    check_reads(ImageSpec(), [shards], "recipe")
    with pytest.raises(InputError, match="recipe: the family reads series, but the shards of vbm hold volumes"):
        check_reads(ClipSpec(20), [shards], "recipe")
    with pytest.raises(InputError, match="the family reads volumes, but the shards of toy hold series"):
        check_reads(SPEC, [toy_shards], "recipe")
    with pytest.raises(InputError, match="the family reads images"):
        check_reads(ImageSpec(), [toy_shards], "recipe")


def test_labels_are_joined_by_person(shards):
    source = open_source([shards], labels={"age": "number", "sex": "category"})
    batch = source.training_batch(SPEC, 8, 0, 0)
    ages = batch.labels["age"][batch.person.argsort()]
    np.testing.assert_array_equal(ages.numpy(), [20, 25, 30, np.nan, 40, 45, 50, 55])
    assert batch.labels["sex"][batch.person.argsort()].tolist() == [0, 1, -1, 1, 0, 1, 0, 1]
    assert batch.labels["sex"].dtype == torch.int64


def test_codes_are_those_of_the_whole_dataset_in_every_fold(tmp_path):
    people = toy_people().assign(scanner=list("CBABCBAC"))
    shards = write_volume_shards(tmp_path, toy_maps(), people)
    fold = pd.DataFrame({"dataset": "vbm", "participant_id": ["sub-00", "sub-01"]})
    source = open_source([shards], fold, labels={"scanner": "category"})
    assert source.labels["scanner"].tolist() == [2, 2, 1, 1]  # C, C, B, B: A is known, though nobody here has it


def test_categories_that_are_numbers_have_one_code_in_two_datasets(tmp_path):
    """1 and 1.0 (a column with an unknown value is read as floats) are one category."""
    one = write_volume_shards(tmp_path, toy_maps(4), toy_people(4).assign(group=[1, 2, 1, 2]), dataset="a")
    two = write_volume_shards(tmp_path, toy_maps(4), toy_people(4).assign(group=[1, None, 1, 2]), dataset="b")
    source = open_source([one, two], labels={"group": "category"})
    assert source.labels["group"].tolist() == [0, 0, 1, 1, 0, 1, 0, 0, -1, -1, 0, 1]


def test_unknown_columns_and_numbers_that_are_none(tmp_path, shards):
    with pytest.raises(InputError, match=r"participants.tsv of vbm has no column 'Age'.*did you mean 'age'\?"):
        open_source([shards], labels={"Age": "number"})
    people = toy_people().astype({"age": object})
    people.loc[4, "age"] = "40+"
    other = write_volume_shards(tmp_path / "study", toy_maps(), people, dataset="other")
    with pytest.raises(InputError, match=r"age should be a number or n/a, found '40\+' for sub-04"):
        open_source([other], labels={"age": "number"})

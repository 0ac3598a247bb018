"""Tables and images that cannot belong together: orders of networks, sides, counting from 0, stray labels."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from own_atlas import SPACE, own

from neuropipe.config import AtlasFile
from neuropipe.errors import AtlasError
from neuropipe.signals import atlases, grids, orders
from neuropipe.signals.regions import Regions

CENTRED = np.diag([2.0, 2, 2, 1])
CENTRED[:3, 3] = [-9, -3, -3]  # ten voxels, five on each side of the midline


def halves() -> np.ndarray:
    """Region 1 on the side where the array starts, region 2 on the other."""
    labels = np.ones((10, 4, 4), dtype=np.int16)
    labels[5:] = 2
    return labels


# --- order of networks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["7Networks_LH_Vis_1", "7Networks_RH_Default_PFC_2"], "7-network order"),
        (["17Networks_LH_VisCent_ExStr_1", "17Networks_RH_SomMotA_1"], "17-network order"),
        (["17networks_LH_DefaultC_PHC_1", "17networks_LH_VisualA_ExStr_5"], "17-network order of Kong 2022"),
        (["7Networks_LH_Vis_1", "17Networks_LH_VisCent_1"], "order of 7 and 17 networks mixed"),
        (["HIP-head-m-rh", "pGP-lh"], None),
        ([], None),
    ],
)
def test_names_tell_the_order(names: list[str], order: str | None) -> None:
    assert orders.of_names(names) == order


def test_ids_tell_the_order() -> None:
    assert orders.of_id("schaefer400-17n-2009c") == "17-network order" and orders.of_id("schaefer100-7n")[0] == "7"
    assert orders.of_id("tian-s3") is None and orders.of_id("my-schaefer400-7n") is None


@pytest.mark.parametrize("kong", [False, True])
def test_a_table_whose_names_contradict_its_id(tmp_path: Path, kong: bool) -> None:
    """The 400 regions in another order have the same length, and every voxel belongs to some region."""
    names = ["17Networks_LH_VisCent_ExStr_1", "17Networks_RH_SomMotA_1"]
    if kong:
        names = ["17networks_LH_VisualA_ExStr_1", "17networks_RH_Language_PFCl_1"]
    spec = own(tmp_path, halves(), {"index": [1, 2], "name": names}, id="schaefer400-7n", affine=CENTRED)
    with pytest.raises(AtlasError, match=r"schaefer400-7n stands for .* 7-network order, but the names .* 17-network"):
        atlases.load(spec)


def test_parts_of_a_merged_table_get_the_id_of_their_order(tmp_path: Path) -> None:
    labels = np.arange(1, 101, dtype=np.int16).reshape(1, 10, 10)
    for n_networks, network in ((7, "Vis"), (17, "VisCent")):
        names = [f"{n_networks}Networks_LH_{network}_{n}" for n in range(1, 101)]
        table = {"index": range(1, 101), "name": names, "atlas": "Schaefer2018", "hemisphere": "n/a"}
        spec = own(tmp_path, labels, table, id=f"merged{n_networks}")
        assert atlases.regions([atlases.load(spec)]).atlases == [f"schaefer100-{n_networks}n"]


def test_the_other_order_is_named_where_regions_are_compared() -> None:
    """In a model's, a checkpoint's and a dataset's regions alike; numbered regions tell it by their atlas's id."""
    seven, seventeen = Regions.plain("schaefer400-7n", 400), Regions.plain("schaefer400-17n", 400)
    with pytest.raises(AtlasError, match=r"model\.pt: expected .* in the 7-network order, found the 17-network order"):
        seven.check_same(seventeen, "model.pt")
    own_names = Regions(
        Regions.plain("mine", 400).table.assign(name=[f"17Networks_LH_VisCent_{n}" for n in range(400)])
    )
    with pytest.raises(AtlasError, match="found the 17-network order"):
        seven.check_same(own_names, "model.pt")
    with pytest.raises(AtlasError, match=r"expected 400 regions of schaefer400-7n .* found 50 regions of tian-s3"):
        seven.check_same(Regions.plain("tian-s3", 50), "model.pt")


# --- left and right -----------------------------------------------------------------------------

SIDED = {"index": [1, 2], "name": ["7Networks_LH_Vis_1", "7Networks_RH_Vis_1"]}


def test_a_flipped_affine_is_refused(tmp_path: Path) -> None:
    """Whichever way the array is stored, left is where x is negative."""
    flipped = CENTRED * [[-1], [1], [1], [1]]
    assert atlases.load(own(tmp_path, halves(), SIDED, affine=CENTRED)).table["x"].tolist() == [-5, 5]
    with pytest.raises(AtlasError, match=r"2 of 2 regions lie on the other side .*7Networks_LH_Vis_1 at x = 5 mm"):
        atlases.load(own(tmp_path, halves(), SIDED, affine=flipped))
    stored_right_to_left = own(tmp_path, halves()[::-1].copy(), SIDED, affine=flipped)
    assert atlases.load(stored_right_to_left).table["x"].tolist() == [-5, 5]


def test_coordinates_in_the_table_do_not_hide_a_flipped_image(tmp_path: Path) -> None:
    told = SIDED | {"x": [-5, 5], "y": [0, 0], "z": [0, 0]}
    with pytest.raises(AtlasError, match="the other side of the midline"):
        atlases.load(own(tmp_path, halves(), told, affine=CENTRED * [[-1], [1], [1], [1]]))


def test_a_missing_origin_is_refused(tmp_path: Path) -> None:
    """An affine without origin puts the whole brain on the right: half of the regions are on the wrong side."""
    with pytest.raises(AtlasError, match=r"1 of 2 regions .*flipped or missing"):
        atlases.load(own(tmp_path, halves(), SIDED, affine=np.diag([2.0, 2, 2, 1])))


def test_maps_are_checked_too(tmp_path: Path) -> None:
    maps = np.stack([halves() == 1, halves() == 2], axis=-1).astype(np.float32)
    nib.save(nib.Nifti1Image(maps, CENTRED * [[-1], [1], [1], [1]]), tmp_path / "maps.nii.gz")
    (tmp_path / "maps.tsv").write_text("index\tname\n1\tParacentral gyrus LH\n2\tParacentral gyrus RH\n")
    paths = {"image": str(tmp_path / "maps.nii.gz"), "table": str(tmp_path / "maps.tsv")}
    with pytest.raises(AtlasError, match="2 of 2 regions lie on the other side"):
        atlases.load(AtlasFile(id="soft", space=SPACE, kind="maps", **paths))


# --- labels -------------------------------------------------------------------------------------


def test_a_table_that_counts_from_zero(tmp_path: Path) -> None:
    """Dropped as background, its first row would shift every name by one."""
    labels = np.arange(1, 5, dtype=np.int16).reshape(4, 1, 1)
    table = {"index": [0, 1, 2, 3], "name": ["a", "b", "c", "d"]}
    with pytest.raises(AtlasError, match=r"counts its regions from 0 \('a'\), .* counts from 1"):
        atlases.load(own(tmp_path, labels, table))


@pytest.mark.parametrize("name", ["Background", "Unknown", "???", "Cerebrospinal fluid"])
def test_label_zero_may_have_a_name(tmp_path: Path, name: str) -> None:
    labels = np.arange(4, dtype=np.int16).reshape(4, 1, 1)
    found = atlases.load(own(tmp_path, labels, {"index": [0, 1, 2, 3], "name": [name, "a", "b", "c"]}))
    assert found.table["name"].tolist() == ["a", "b", "c"]


def test_stray_labels_are_no_regions_and_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A published file of seven networks has five voxels labelled 8, 10 and 12."""
    labels = np.repeat(np.arange(1, 8, dtype=np.int16), 8).reshape(7, 8, 1)
    labels[0, :5, 0] = [8, 10, 10, 12, 12]
    table = {"index": range(1, 8), "name": [f"Network{n}" for n in range(1, 8)]}
    with caplog.at_level(logging.INFO, "neuropipe"):
        atlas = atlases.load(own(tmp_path, labels, table))
    assert "labels 8 (1 voxels), 10 (2 voxels), 12 (2 voxels) are not in its table" in caplog.text
    merged = grids.merge([atlas], labels.shape, atlas.affine)
    assert merged.n_voxels.tolist() == [3, 8, 8, 8, 8, 8, 8]


def test_a_misspelt_name_is_the_same_region(tmp_path: Path) -> None:
    """Names change between releases and have typing errors; the order is that of the labels."""
    labels = np.arange(1, 8, dtype=np.int16).reshape(7, 1, 1)
    names = [f"Network{n}" for n in range(1, 8)]
    right, wrong = (
        atlases.regions([atlases.load(own(tmp_path, labels, {"index": range(1, 8), "name": listed}))])
        for listed in (names, [*names[:5], "Netowrk6", names[6]])
    )
    right.check_same(wrong, "the published table")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_labels_of_any_type_are_the_same_integers(tmp_path: Path, dtype: type) -> None:
    labels = np.arange(60).reshape(3, 4, 5)
    found = atlases.load(own(tmp_path, labels.astype(dtype), id=np.dtype(dtype).name))
    assert found.labels.dtype == np.int32
    np.testing.assert_array_equal(found.labels, labels)


def test_scaled_labels_are_rounded(tmp_path: Path) -> None:
    """Stored as thirds with the slope 0.3333333433, 59 reads 59.0000018."""
    labels = np.arange(60).reshape(3, 4, 5)
    image = nib.Nifti1Image((labels * 3).astype(np.int16), CENTRED)
    image.header.set_slope_inter(1 / 3, 0)
    nib.save(image, tmp_path / "scaled.nii.gz")
    assert np.asarray(nib.load(tmp_path / "scaled.nii.gz").dataobj).max() != 59
    pd.DataFrame({"index": range(1, 60), "name": [f"r{n}" for n in range(1, 60)]}).to_csv(
        tmp_path / "scaled.tsv", sep="\t", index=False
    )
    paths = {"image": str(tmp_path / "scaled.nii.gz"), "table": str(tmp_path / "scaled.tsv")}
    np.testing.assert_array_equal(atlases.load(AtlasFile(id="s", space=SPACE, **paths)).labels, labels)


@pytest.mark.realdata
def test_published_atlases_have_their_left_on_the_left(published_data: Path, tmp_path: Path) -> None:
    """Loaded as published they pass; with their arrays turned round they do not."""
    source = published_data / "atlases"
    stem = "tpl-MNI152NLin2009cAsym_res-02_atlas-Schaefer2018_desc-400Parcels7Networks_dseg"
    table = source / "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.tsv"
    spec = AtlasFile(id="schaefer400-7n", image=str(source / f"{stem}.nii.gz"), table=str(table), space=SPACE)
    atlas = atlases.load(spec)
    nib.save(nib.Nifti1Image(atlas.labels[::-1].astype(np.int16), atlas.affine), tmp_path / "turned.nii.gz")
    with pytest.raises(AtlasError, match=r"400 of 400 regions lie on the other side"):
        atlases.load(spec.model_copy(update={"image": str(tmp_path / "turned.nii.gz")}))

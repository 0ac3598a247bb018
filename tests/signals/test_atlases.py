"""Atlases: published forms of tables, checksums, spaces, grids, and the 457 regions rebuilt from their sources."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from own_atlas import SPACE, own, published_parts

from neuropipe.config import AtlasFile
from neuropipe.errors import AtlasError
from neuropipe.provenance import sha256
from neuropipe.signals import atlases, grids
from neuropipe.signals.catalogue import CATALOGUE

MERGED = "Schaefer400Tian3Buckner7_dseg"


# --- tables -------------------------------------------------------------------------------------


def test_a_table_keeps_its_own_order_and_label_gaps(tmp_path: Path) -> None:
    labels = np.zeros((4, 4, 4), dtype=np.int16)
    labels[0], labels[1], labels[3] = 30, 2, 7
    table = {"index": [30, 0, 2, 7], "name": ["c", "background", "a", "b"], "network": ["X", "n/a", "n/a", "Y"]}
    regions = atlases.regions([atlases.load(own(tmp_path, labels, table))])
    assert regions.table["label"].tolist() == [30, 2, 7] and regions.table["name"].tolist() == ["c", "a", "b"]
    assert regions.table["network"].tolist() == ["X", "", "Y"] and regions.table["index"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(regions.table[["x", "y", "z"]], [[0, 3, 3], [2, 3, 3], [6, 3, 3]])  # mean positions


def test_schaefer_names_tell_network_and_hemisphere(tmp_path: Path) -> None:
    labels = np.arange(1, 9, dtype=np.int16).reshape(2, 2, 2)
    names = ["7Networks_LH_Default_pCunPCC_9", "17Networks_RH_DefaultA_x_1", "HIP-head-m-rh", "pGP-lh"]
    names += ["Left Amygdala", "Network1", "Frontal_R", "rhizome"]
    table = atlases.load(own(tmp_path, labels, {"index": range(1, 9), "name": names})).table
    assert table["network"].tolist() == ["Default", "DefaultA", "", "", "", "", "", ""]
    assert table["hemisphere"].tolist() == ["L", "R", "R", "L", "L", "", "R", ""]


def test_merged_tables_name_their_parts(tmp_path: Path) -> None:
    """Names of the catalogue, or their aliases, with the right number of regions become catalogue ids."""
    labels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    columns = {"index": range(1, 60), "name": [f"r{n}" for n in range(1, 60)]}
    columns["atlas"] = ["Tian2020S3"] * 50 + ["buckner7"] * 7 + ["Schaefer2018"] * 2
    regions = atlases.regions([atlases.load(own(tmp_path, labels, columns))])
    assert regions.atlases == ["tian-s3", "buckner7", "Schaefer2018"]  # two regions are no Schaefer-400
    assert regions.table["label"].tolist() == [*range(1, 51), *range(1, 8), 1, 2]
    assert regions.networks == ["Subcortex", "Cerebellum"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"label": [1], "name": ["a"]}, r"needs the columns index and name .*found \['label', 'name'\]"),
        ({"index": [1, 1], "name": ["a", "b"]}, "index must hold a different whole number"),
        ({"index": ["x"], "name": ["a"]}, "index must hold a different whole number"),
        ({"index": [1, 9], "name": ["a", "b"]}, r"names 1 regions that .* does not have \(b\)"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    spec = own(tmp_path, np.ones((2, 2, 2), dtype=np.int16), table)
    with pytest.raises(AtlasError, match=message):
        atlases.load(spec)


# --- images -------------------------------------------------------------------------------------


def test_float_labels_are_rounded_never_cut(tmp_path: Path) -> None:
    labels = np.full((3, 3, 3), 5.9999, dtype=np.float32)
    assert (atlases.load(own(tmp_path, labels)).labels == 6).all()
    labels[1, 1, 1] = 5.5
    with pytest.raises(AtlasError, match=r"expected integer labels, found 5\.5"):
        atlases.load(own(tmp_path, labels))


def test_damaged_missing_and_altered_images(tmp_path: Path) -> None:
    spec = own(tmp_path, np.ones((5, 5, 5), dtype=np.int16))
    atlases.load(spec.model_copy(update={"sha256": sha256(spec.image)}))
    with pytest.raises(AtlasError, match="was altered: expected SHA-256 00"):
        atlases.load(spec.model_copy(update={"sha256": "00"}))
    Path(spec.image).write_bytes(Path(spec.image).read_bytes()[:-9])
    with pytest.raises(AtlasError, match=r"mine.nii.gz of the atlas mine cannot be read: .*truncated"):
        atlases.load(spec)
    Path(spec.image).unlink()
    with pytest.raises(AtlasError, match=r"No label image .*mine.nii.gz"):
        atlases.load(spec)


def test_the_same_region_twice(tmp_path: Path) -> None:
    spec = own(tmp_path, np.ones((2, 2, 2), dtype=np.int16))
    with pytest.raises(AtlasError, match=r"mine-1 .* is listed twice"):
        atlases.regions([atlases.load(spec), atlases.load(spec)])


def test_spaces_are_compared_before_anything_is_opened() -> None:
    ghost = AtlasFile(id="mine", image="nowhere.nii", table="nowhere.tsv", space="MNI152NLin2009cAsym")
    assert atlases.common_space(["schaefer400-7n", "tian-s3", "buckner7"]) == SPACE
    with pytest.raises(AtlasError, match="cc200: MNI152NLin6Asym, mine: MNI152NLin2009cAsym"):
        atlases.common_space(["cc200", ghost])


# --- the published files ------------------------------------------------------------------------


@pytest.mark.realdata
def test_the_457_regions_are_rebuilt_from_their_sources(published_data: Path, tmp_path: Path) -> None:
    """Voxel by voxel: two float images stored right to left and a cropped one of 1 mm, on the grid of fMRIPrep."""
    image = published_data / "atlases" / f"tpl-{SPACE}_res-02_atlas-{MERGED}.nii.gz"
    table = published_data / "atlases" / f"tpl-{SPACE}_atlas-{MERGED}.tsv"
    reference = nib.load(image)
    parts = [atlases.load(spec) for spec in published_parts(published_data, tmp_path)]
    merged = grids.merge(parts, reference.shape, reference.affine)
    np.testing.assert_array_equal(merged.labels, np.asarray(reference.dataobj))
    whole = atlases.load(AtlasFile(id="whole", image=str(image), table=str(table), space=SPACE))
    ours, theirs = atlases.regions(parts), atlases.regions([whole])
    assert ours.order_hash == theirs.order_hash and len(ours) == 457
    for column in ("atlas", "label", "network", "hemisphere"):
        assert ours.table[column].tolist() == theirs.table[column].tolist(), column
    # Of Buckner's seven only the names differ: the published table says Network1, the merged one Buckner7_Network1.
    assert ours.table["name"].tolist()[:450] == theirs.table["name"].tolist()[:450]
    counts = pd.read_csv(table, sep="\t")["n_voxels"]
    assert merged.n_voxels.tolist() == counts.tolist()


@pytest.mark.realdata
def test_published_files_through_the_catalogue(published_data: Path, empty_cache: Path, tmp_path: Path) -> None:
    """Copied to where a fetch puts them; Schaefer's and Craddock's have a published checksum."""
    source = published_data / "atlases"
    flow = tmp_path / "templateflow" / "tpl-MNI152NLin2009cAsym"
    flow.mkdir(parents=True)
    for file in source.glob("tpl-MNI152NLin2009cAsym*"):
        shutil.copy(file, flow)
    for name in ("tian2020", "buckner2011", "craddock2012"):
        (empty_cache / name).mkdir(parents=True)
    for file in source.glob("Tian_Subcortex_S3_3T_*"):
        shutil.copy(file, empty_cache / "tian2020")
    shutil.copy(source / "cc200_roi_atlas.nii.gz", empty_cache / "craddock2012")
    cerebellum = empty_cache / CATALOGUE["buckner7"].image.file
    cerebellum.write_bytes(gzip.decompress((source / "atl-Buckner7_space-MNI_dseg.nii.gz").read_bytes()))
    for name in ("schaefer400-7n-2009c", "tian-s3", "tian-s3-2009c", "buckner7", "cc200"):
        atlas = atlases.load(name)
        assert len(atlas.table) == CATALOGUE[name].n_regions == len(np.unique(atlas.labels)) - 1
    cortex = atlases.regions([atlases.load("schaefer400-7n-2009c")])
    assert cortex.networks == ["Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default"]
    assert (cortex.table["hemisphere"] == ["L"] * 200 + ["R"] * 200).all()
    # Left is where x is negative.
    assert (np.sign(cortex.table["x"]) == np.where(cortex.table["hemisphere"] == "L", -1, 1)).all()
    assert atlases.regions([atlases.load("cc200")]).order_hash == atlases.regions_of_series("cc200", None).order_hash


@pytest.mark.realdata
def test_mixing_templates_would_cost_a_fifth_of_each_region(published_data: Path, tmp_path: Path) -> None:
    """Why spaces are refused: the labels of one MNI template, put on the grid of the other by affine alone."""
    cortex = atlases.load(published_parts(published_data, tmp_path)[0])
    name = "tpl-MNI152NLin2009cAsym_res-02_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.nii.gz"
    native = nib.load(published_data / "atlases" / name)
    right = np.asarray(native.dataobj)
    wrong = grids.merge([cortex], native.shape, native.affine).labels
    both = np.bincount(right[right == wrong], minlength=401)[1:]
    sizes = np.bincount(right.ravel(), minlength=401)[1:] + np.bincount(wrong.ravel(), minlength=401)[1:]
    dice = 2 * both / sizes
    assert 0.7 < np.median(dice) < 0.82 and dice.min() < 0.5


def test_regions_of_series(tmp_path: Path) -> None:
    assert len(atlases.regions_of_series("cc200", None)) == 200
    table = tmp_path / "regions.tsv"
    table.write_text("index\tname\tnetwork\n1\ta\tX\n2\tb\tn/a\n")
    regions = atlases.regions_of_series("mine", str(table))
    assert regions.table["name"].tolist() == ["a", "b"] and regions.atlases == ["mine"]
    with pytest.raises(AtlasError, match="needs atlas: <catalogue id>"):
        atlases.regions_of_series(None, None)

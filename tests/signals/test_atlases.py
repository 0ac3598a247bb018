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
from nilearn.image import resample_img

from neuropipe.config import AtlasFile
from neuropipe.errors import AtlasError
from neuropipe.provenance import sha256
from neuropipe.signals import atlases, grids
from neuropipe.signals.catalogue import CATALOGUE

MERGED = "Schaefer400Tian3Buckner7_dseg"
SPACE = "MNI152NLin6Asym"
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEUROPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))
    return tmp_path / "cache" / "atlases"


def own(folder: Path, labels: np.ndarray, table: dict[str, Any] | None = None, **fields: Any) -> AtlasFile:
    """Write an atlas of one's own."""
    name = fields.pop("id", "mine")
    image, tsv = folder / f"{name}.nii.gz", folder / f"{name}.tsv"
    nib.save(nib.Nifti1Image(labels, fields.pop("affine", AFFINE)), image)
    present = [int(n) for n in np.unique(np.rint(labels)) if n > 0]
    pd.DataFrame(table or {"index": present, "name": [f"{name}-{n}" for n in present]}).to_csv(
        tsv, sep="\t", index=False
    )
    return AtlasFile(**{"id": name, "image": str(image), "table": str(tsv), "space": SPACE} | fields)


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
    with pytest.raises(AtlasError, match="No atlas 'schaefer-400' in the catalogue; known: schaefer400-7n"):
        atlases.common_space(["schaefer-400"])


# --- grids --------------------------------------------------------------------------------------

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


# --- the catalogue ------------------------------------------------------------------------------


def test_entries_are_complete_and_distinct() -> None:
    for name, entry in CATALOGUE.items():
        assert name == entry.id and entry.licence and entry.citation and entry.space.startswith("MNI152")
        assert not entry.names or len(entry.names) == entry.n_regions
    assert {"schaefer400-7n", "tian-s3", "buckner7", "cc200"} <= set(CATALOGUE)


def test_unfetched_says_how_to_fetch(empty_cache: Path) -> None:
    with pytest.raises(AtlasError, match=r"not on this machine .*neuropipe atlas fetch tian-s3"):
        atlases.load("tian-s3")


def test_an_empty_file_of_templateflows_skeleton_is_not_fetched(tmp_path: Path) -> None:
    path = tmp_path / "templateflow" / CATALOGUE["schaefer400-7n"].image.file
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(AtlasError, match="neuropipe atlas fetch schaefer400-7n"):
        atlases.load("schaefer400-7n")


def test_what_was_fetched_first_is_held_to(empty_cache: Path) -> None:
    remote = CATALOGUE["tian-s3"].image
    path = empty_cache / remote.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    atlases.record_of(path).write_text(f"{sha256(path)}  {path.name}\n")
    assert atlases.verified(remote, "tian-s3") == (path, sha256(path))
    path.write_bytes(b"other")
    with pytest.raises(AtlasError, match=r"was altered: .*neuropipe atlas fetch tian-s3"):
        atlases.verified(remote, "tian-s3")


def test_a_published_checksum_is_held_to(empty_cache: Path) -> None:
    path = empty_cache / CATALOGUE["cc200"].image.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not the published file")
    with pytest.raises(AtlasError, match="expected SHA-256 9467afce"):
        atlases.load("cc200")


# --- the published files ------------------------------------------------------------------------


def published_parts(data: Path, folder: Path) -> list[AtlasFile]:
    """The three sources of the 457 regions; in the first, cortex is 51..450 behind 50 subcortical regions."""
    source = data / "atlases"
    cortex = pd.read_csv(source / "Schaefer2018_400Parcels_7Networks_order_v0143_names.tsv", sep="\t")
    cortex = cortex.assign(label=cortex["index"], index=cortex["index"] + 50)
    cortex.to_csv(folder / "cortex.tsv", sep="\t", index=False)
    names = (source / "Tian_Subcortex_S3_3T_label.txt").read_text().split()
    pd.DataFrame({"index": range(1, 51), "name": names}).to_csv(folder / "subcortex.tsv", sep="\t", index=False)
    combined = "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3_MNI152NLin6Asym_2mm.nii.gz"
    parts = [
        ("schaefer400-7n", combined, folder / "cortex.tsv"),
        ("tian-s3", "Tian_Subcortex_S3_3T_1mm.nii.gz", folder / "subcortex.tsv"),
        ("buckner7", "atl-Buckner7_space-MNI_dseg.nii.gz", source / "atl-Buckner7.tsv"),
    ]
    return [AtlasFile(id=i, image=str(source / image), table=str(table), space=SPACE) for i, image, table in parts]


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

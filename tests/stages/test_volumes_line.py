"""A CAT12 folder and a folder of slices, from index to shards: what models, baselines and pages will read."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_maps import AFFINE, N_REGIONS, SHAPE, SPACE, VOXEL_ML, TinyMaps, atlas_labels, tissue

from neuropipe.config import Roles
from neuropipe.data.slices import Slicing
from neuropipe.data.source import open_source
from neuropipe.errors import InputError
from neuropipe.evaluate.features import confound_design
from neuropipe.models.base import ImageSpec, VolumeSpec
from neuropipe.provenance import read_json, write_json
from neuropipe.shards.read import Shards
from neuropipe.splits.people import gather
from neuropipe.stages import collect, volumes, volumes_job


@pytest.fixture
def study(tmp_path: Path) -> TinyMaps:
    return TinyMaps(tmp_path)


def test_maps_from_cat12_to_shards(study: TinyMaps) -> None:
    names = [f"{n:02d}" for n in range(11)]
    for n, name in enumerate(names):
        study.add(name, tiv_ml=1300.0 + 10 * n, iqr=2 + n / 10)
    study.add("66", np.random.default_rng(0).permutation(tissue("66").ravel()).reshape(SHAPE))
    shards = Shards(study.line(n_chunks=2))
    assert shards.content == "volume" and len(shards) == 12
    for i, row in shards.manifest.iterrows():
        array = shards.array(i)
        assert isinstance(array.base.base, np.memmap) or isinstance(array.base, np.memmap)
        assert array.shape == SHAPE == tuple(row["shape"]) and array.dtype == np.float16
        if row["participant_id"] != "sub-66":
            np.testing.assert_allclose(shards.values(i), tissue(row["participant_id"][4:]), rtol=2**-11)
    assert shards.manifest["member"][0] == "tiny_sub-00.volume.npy"
    assert shards.manifest["tiv_ml"].tolist()[:3] == [1300, 1310, 1320] and shards.manifest["t_r"].isna().all()
    shards.verify()
    assert (shards.grid.space, shards.grid.shape) == (SPACE, SHAPE)
    np.testing.assert_allclose(shards.grid.affine, AFFINE)
    assert shards.regional.shape == (12, N_REGIONS) and list(shards.regional) == ["toy:1", "toy:2", "toy:3"]
    second = tissue("04")[atlas_labels() == 2].sum(dtype=float) * VOXEL_ML
    assert shards.regional.loc["tiny_sub-04", "toy:2"] == pytest.approx(second, abs=1e-6)
    assert shards.regional.index.tolist() == shards.manifest["key"].tolist()
    assert len(shards.regions) == N_REGIONS
    runs = pd.read_parquet(study.results / "qc/tiny/runs.parquet").set_index("run_id")
    measured = "tiv_ml iqr_grade total_ml mean sd nonzero_share group_dice group_correlation outlier_z"
    assert set(measured.split()) <= set(runs) and not {"t_r", "n_timepoints"} & set(runs)
    assert runs["outlier_z"].idxmin() == runs["group_dice"].idxmin() == "sub-66" and runs["outlier_z"].min() < -3.5
    regions = pd.read_parquet(study.results / "qc/tiny/regions.parquet")
    assert (regions["mean_coverage"] == 1).all() and (regions["share_missing"] == 0).all()
    group = np.load(study.results / "qc/tiny/group.npz")
    expected = np.mean([shards.values(i) for i in range(12)], axis=0)
    np.testing.assert_allclose(group["mean"], expected, rtol=1e-5, atol=1e-6)
    assert group["mask"][1:8, 1:9, 1:7].all() and group["mask"].sum() == 7 * 8 * 6


def test_tiv_is_a_confound(study: TinyMaps) -> None:
    for n in range(4):
        study.add(f"{n:02d}", tiv_ml=1300.0 + 10 * n)
    people = gather([Shards(study.line(), study.root / "participants.tsv")], {"tiny": Roles()})
    assert confound_design(people, ["tiv_ml"]).values[:, 0].tolist() == [1300, 1310, 1320, 1330]


def test_a_study_without_atlases_has_no_regions(study: TinyMaps) -> None:
    study.add("01")
    study.add("02")
    shards = Shards(study.line(atlases=False))
    assert len(shards.regions) == 0 and shards.regional.shape == (2, 0)


def test_two_grids_that_reach_the_end_are_refused(study: TinyMaps) -> None:
    study.add("01")
    folder = study.line()
    receipt = study.receipt("shard")
    about = read_json(receipt)
    about["grids"].append(about["grids"][0] | {"shape": [9, 9, 9]})
    write_json(receipt, about)
    with pytest.raises(InputError, match="several grids"):
        collect.run(dataset="tiny", receipts=[receipt], output=folder / "manifest.parquet")


def test_slices_keep_their_order_and_person(study: TinyMaps) -> None:
    pictures = study.root / "pictures"
    pictures.mkdir()
    rows, rng = [], np.random.default_rng(0)
    for person in ("a", "b"):
        study.people.append(f"sub-{person}")
        for n in range(3):
            pixels = rng.integers(0, 60000, size=(12, 10), dtype=np.uint16)
            Image.fromarray(pixels).save(pictures / f"{person}_{n}.png")
            rows.append({"path": f"{person}_{n}.png", "participant_id": f"sub-{person}", "slice": n})
    pd.DataFrame(rows).to_csv(pictures / "slices.tsv", sep="\t", index=False)
    dataset = {"kind": "images", "path": str(pictures)}
    shards = Shards(study.line(dataset=dataset, volumes={"image_size": [12, 12], "dtype": "float32"}))
    assert shards.content == "image" and len(shards) == 2
    assert shards.array(1).shape == (3, 12, 12) and shards.manifest["member"][1] == "tiny_sub-b.image.npy"
    for n in range(3):
        pixels = np.asarray(Image.open(pictures / f"b_{n}.png")).astype(np.float32)
        np.testing.assert_allclose(shards.values(1)[n][:, 1:11], pixels, rtol=1e-6)
    runs = pd.read_parquet(study.results / "qc/tiny/runs.parquet")
    assert runs["n_slices"].tolist() == [3, 3] and "group_dice" not in runs


def test_a_bank_of_y_aware_goes_the_same_way(study: TinyMaps) -> None:
    """Arrays of an unknown place are cut and packed, and no region is looked for in them."""
    folder = study.root / "bank"
    folder.mkdir()
    arrays = np.stack([tissue(name) for name in "abc"])[:, None]
    np.save(folder / "data.npy", arrays)
    (folder / "metadata.csv").write_text("participant_id,age\nsub-a,20\nsub-b,30\nsub-c,40\n")
    study.people += ["sub-a", "sub-b", "sub-c"]
    shards = Shards(study.line(dataset={"kind": "yaware", "path": str(folder)}, volumes={"size": [9, 8, 8]}))
    for i in range(3):
        np.testing.assert_allclose(shards.values(i), arrays[i, 0, :, 1:9], rtol=2**-11)
    assert shards.grid.affine is None and shards.grid.shape == (9, 8, 8) and shards.regional.shape == (3, 0)


def test_arrays_of_openbhb_of_another_shape_are_left_out(study: TinyMaps) -> None:
    folder = study.root / "openbhb" / "train"
    for name in ("1", "2", "3"):
        place = folder / f"derivatives/sub-{name}/ses-1/sub-{name}_preproc-cat12vbm_desc-gm_T1w.npy"
        place.parent.mkdir(parents=True)
        array = tissue(name)[None, None]
        np.save(place, array if name != "2" else array[..., 1:])
        study.people.append(f"sub-{name}")
    study.write(dataset={"kind": "openbhb", "path": str(study.root / "openbhb")})
    excluded = study.index()
    assert excluded[["participant_id", "reason"]].values.tolist() == [["sub-2", "wrong grid"]]
    assert [entry["run_id"] for entry in study.prepare()["products"]] == ["sub-1_ses-1", "sub-3_ses-1"]


def test_probability_maps_of_fmriprep(study: TinyMaps) -> None:
    """Not modulated: they are sums of probabilities in template space, and resampling leaves their values alone."""
    for name in ("01", "02"):
        place = study.root / f"fmriprep/sub-{name}/anat/sub-{name}_space-{SPACE}_label-GM_probseg.nii.gz"
        place.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.minimum(tissue(name), 1), AFFINE), place)
        study.people.append(f"sub-{name}")
    dataset = {"kind": "fmriprep", "path": str(study.root / "fmriprep"), "map": "gm"}
    shards = Shards(study.line(dataset=dataset, volumes={"voxel_mm": 3.0, "dtype": "float32"}))
    first = np.minimum(tissue("01"), 1)
    # Multiples of 3 mm from -6, -7.5 and -4.5 mm on: every second voxel, of the last two axes from the second on.
    np.testing.assert_allclose(shards.values(0), first[::2, 1::2, 1::2], rtol=1e-6)
    own = first[atlas_labels() == 1].sum(dtype=float) * VOXEL_ML
    assert shards.regional.iloc[0, 0] == pytest.approx(own, abs=1e-6)


def test_memory_of_a_large_map_is_bounded(study: TinyMaps) -> None:
    """The stage holds a few copies of one map, not of all; a map is 4 bytes per voxel, 40 are what workers count."""
    array = np.kron(tissue("01"), np.ones((8, 8, 8), dtype=np.float32))
    for name in ("01", "02", "03", "04"):
        study.add(name, array)
    study.write(atlases=False)
    study.index()
    job = volumes_job.Job.load(str(study.root / "config.yaml"), "tiny")
    row = pd.read_csv(study.results / "index/tiny/chunk-00.tsv", sep="\t", dtype=str, keep_default_na=False)
    tracemalloc.start()
    study.prepare()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volumes._read_bytes(job, row.to_dict("records")) == 40 * array.size
    assert peak < 40 * array.size


@pytest.mark.parametrize("residence", ["device", "mapped"])
def test_what_the_line_packs_is_what_models_are_fed(study: TinyMaps, residence: str) -> None:
    for name in ("00", "01"):
        study.add(name)
    shards = Shards(study.line(n_chunks=1))
    whole = open_source([shards], residence=residence).training_batch(VolumeSpec(SHAPE), 2, 0, 0)
    cut = open_source([shards], residence=residence, slices=Slicing(range=(0.5, 0.5)))
    for k, person in enumerate(whole.person.tolist()):
        np.testing.assert_allclose(whole.volume[k, 0], tissue(f"{person:02d}"), rtol=2**-11)
    for i, name in enumerate(("00", "01")):
        place = round(0.5 * (SHAPE[2] - 1))
        image = cut.evaluation_batch(i, ImageSpec(), None).image[0, 0]
        np.testing.assert_allclose(image, tissue(name)[:, ::-1, place].T, rtol=2**-11)

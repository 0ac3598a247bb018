"""A CAT12 folder and a folder of slices, from index to shards: what models, baselines and pages will read."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_maps import AFFINE, N_REGIONS, SHAPE, SPACE, VOXEL_ML, TinyMaps, atlas_labels, tissue

from neuropipe.config import Roles
from neuropipe.errors import InputError
from neuropipe.evaluate.features import confound_design
from neuropipe.provenance import read_json, write_json
from neuropipe.shards.read import Shards
from neuropipe.splits.people import gather
from neuropipe.stages import collect, volumes_job


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
    from neuropipe.stages import volumes

    assert volumes._read_bytes(job, row.to_dict("records")) == 40 * array.size
    assert peak < 40 * array.size

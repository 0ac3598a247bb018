"""From a manifest to maps of one grid and unit: what is written, what is left out, and what survives a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_maps import AFFINE, SHAPE, SPACE, VOXEL_ML, TinyMaps, atlas_labels, tissue

from neuropipe.errors import ConfigError
from neuropipe.provenance import sha256
from neuropipe.stages import parcellate, volumes_job


@pytest.fixture
def study(tmp_path: Path) -> TinyMaps:
    return TinyMaps(tmp_path)


def made_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that fills with the runs that are prepared from now on."""
    made, process = [], volumes_job.process
    monkeypatch.setattr(volumes_job, "process", lambda job, row: made.append(row["run_id"]) or process(job, row))
    return made


# --- what is written ----------------------------------------------------------------------------


def test_products_of_a_scan(study: TinyMaps) -> None:
    study.add("01", tiv_ml=1480.5, iqr=2.25)
    study.write()
    study.index()
    receipt = study.prepare()
    array, about = study.product("01")
    np.testing.assert_allclose(array, tissue("01"), rtol=2**-11)
    assert about["Grid"] == {"space": SPACE, "shape": list(SHAPE), "affine": AFFINE.tolist()}
    assert about["Content"] == "volume" and about["Atlases"] == ["toy"]
    assert set(about["Inputs"]) == {"sub-01/anat/mri/mwp1sub-01_T1w.nii", "sub-01/anat/report/cat_sub-01_T1w.xml"}
    quality, inside = about["Quality"], tissue("01")[tissue("01") > 0]
    assert quality["total_ml"] == pytest.approx(tissue("01").sum(dtype=float) * VOXEL_ML)
    assert quality["mean"] == pytest.approx(inside.mean()) and quality["sd"] == pytest.approx(inside.std(), rel=1e-5)
    assert quality["nonzero_share"] == pytest.approx(inside.size / np.prod(SHAPE))
    assert (quality["tiv_ml"], quality["iqr_grade"]) == (1480.5, 2.25)
    entry = receipt["products"][0]
    assert entry["path"] == "derivatives/tiny/sub-01/anat/sub-01_desc-ready_gm.npy"
    assert entry["sha256"] == about["Sha256"] == sha256(study.results / entry["path"])
    assert entry["fingerprint"] == about["RunFingerprint"]
    table = pd.read_csv(study.results / entry["volumes"], sep="\t")
    assert list(table) == ["index", "atlas", "label", "name", "n_voxels", "coverage", "volume_ml"]
    sums = [tissue("01")[atlas_labels() == region].sum(dtype=float) for region in (1, 2, 3)]
    np.testing.assert_allclose(table["volume_ml"], np.array(sums) * VOXEL_ML, atol=1e-6)


def test_the_published_recipe_scaled_by_tiv_in_uint8(study: TinyMaps) -> None:
    """Crop, pad, scale and steps of integers at once, against the same done by numpy."""
    study.add("01", tiv_ml=1200.0)
    settings = {"crop": [9, 8, 8], "size": [10, 10, 10], "scale": "tiv", "dtype": "uint8"}
    study.write(volumes=settings)
    study.index()
    study.prepare()
    array, about = study.product("01")
    expected = np.pad(tissue("01")[:, 1:9, :], [(0, 1), (1, 1), (1, 1)]) * 1.25
    assert np.abs(array - expected).max() <= expected.max() / 255 / 2 * 1.0001
    assert about["Scale"] == pytest.approx(expected.max() / 255)
    assert np.array(about["Grid"]["affine"])[:3, 3].tolist() == [-6, -7.5 + 1.5 - 1.5, -4.5 - 1.5]
    table = pd.read_csv(study.results / "derivatives/tiny/sub-01/anat/sub-01_desc-ready_volumes.tsv", sep="\t")
    own = tissue("01")[atlas_labels() == 2].sum(dtype=float) * VOXEL_ML
    assert table["volume_ml"][1] == pytest.approx(own, abs=1e-6), "of this person's head, neither cut nor scaled"


def test_a_file_in_another_orientation_gives_the_same_product(study: TinyMaps) -> None:
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = SHAPE[0] - 1
    study.add("01")
    study.add("02", tissue("01")[::-1], affine=AFFINE @ flip)
    study.write()
    assert not (study.index()["reason"] == "wrong grid").any()
    study.prepare()
    np.testing.assert_array_equal(study.product("01")[0], study.product("02")[0])


def test_t1w_images_have_no_volumes(study: TinyMaps) -> None:
    study.add("01", 300 * tissue("01"), prefix="wm")
    study.write(dataset={"map": "t1w"})
    study.index()
    receipt = study.prepare()
    array, about = study.product("01", "T1w")
    np.testing.assert_allclose(array, 300 * tissue("01"), rtol=2**-11)
    assert "volumes" not in receipt["products"][0] and "total_ml" not in about["Quality"]


def test_without_atlases_maps_alone_are_made(study: TinyMaps) -> None:
    study.add("01")
    study.write(atlases=False)
    study.index()
    assert "volumes" not in study.prepare()["products"][0]


# --- what is left out ---------------------------------------------------------------------------


def test_wrong_grids_and_lost_signs_are_left_out_by_the_index(study: TinyMaps) -> None:
    """A smaller field, a shifted one, and an affine whose first axis lost its sign but not its origin."""
    lost, shifted = AFFINE.copy(), AFFINE.copy()
    lost[0, 0] = -lost[0, 0]
    shifted[2, 3] += 1.5
    for subject in ("01", "02", "03", "04"):
        study.add(subject)
    study.add("11", tissue("11")[:-1])
    study.add("12", affine=shifted)
    study.add("13", affine=lost)
    study.write()
    excluded = study.index().set_index("run_id")
    assert excluded["reason"].to_dict() == dict.fromkeys(["sub-11", "sub-12", "sub-13"], "wrong grid")
    assert "9x11x8 voxels of 1.5x1.5x1.5 mm from (-6, -7.5, -4.5) mm" in excluded["detail"]["sub-11"]
    assert "found 8x11x8 voxels" in excluded["detail"]["sub-11"] and "volumes.voxel_mm" in excluded["detail"]["sub-11"]
    assert "from (-18, -7.5, -4.5) mm" in excluded["detail"]["sub-13"]
    assert len(study.prepare()["products"]) == 4


def test_one_grid_can_be_asked_for(study: TinyMaps) -> None:
    """What differs in its voxels alone ends up on the common lattice."""
    fine = np.diag([0.75, 0.75, 0.75, 1.0])
    fine[:3, 3] = AFFINE[:3, 3]
    study.add("01")
    study.add("02", np.repeat(np.repeat(np.repeat(tissue("02"), 2, 0), 2, 1), 2, 2)[:-1, :-1, :-1], affine=fine)
    study.write(volumes={"voxel_mm": 3.0})
    assert study.index().empty
    assert len(study.prepare()["products"]) == 2
    one, other = (study.product(subject)[1] for subject in ("01", "02"))
    assert one["Grid"] == other["Grid"] and one["Grid"]["shape"] == [5, 5, 4]
    array, about = study.product("01")
    assert array.sum() * 27 / 1000 == pytest.approx(about["Quality"]["total_ml"], rel=1e-3)


def test_bad_maps_are_left_out_and_the_others_go_on(study: TinyMaps) -> None:
    holes = tissue("02")
    holes[3, 3, 3] = np.nan
    study.add("01")
    study.add("02", holes)
    study.add("03", np.zeros(SHAPE, dtype=np.float32))
    study.add("04", np.stack([tissue("04")] * 2, axis=-1))
    study.add("05", iqr=4.5)
    study.add("06").write_bytes(b"not an image")
    study.write(exclude={"max_iqr_grade": 4.0})
    excluded = study.index()
    receipt = study.prepare()
    assert [entry["run_id"] for entry in receipt["products"]] == ["sub-01"]
    reasons = dict(zip(excluded["participant_id"], excluded["reason"], strict=True))
    reasons |= {row["participant_id"]: row["reason"] for row in receipt["excluded"]}
    assert reasons.keys() == {f"sub-0{n}" for n in range(2, 7)}
    assert reasons["sub-02"] == "not finite" and reasons["sub-05"] == "image quality"
    graded = next(row for row in receipt["excluded"] if row["participant_id"] == "sub-05")
    assert "at most 4, found 4.5 (exclude.max_iqr_grade)" in graded["detail"]
    assert graded["quality"]["iqr_grade"] == 4.5


def test_no_tiv_to_scale_by(study: TinyMaps) -> None:
    study.add("01", tiv_ml=None)
    study.add("02")
    study.write(volumes={"scale": "tiv"})
    study.index()
    receipt = study.prepare()
    assert [row["reason"] for row in receipt["excluded"]] == ["no TIV"] and len(receipt["products"]) == 1


def test_atlases_of_another_space_are_refused(study: TinyMaps) -> None:
    study.add("01")
    study.write(dataset={"space": "MNI152NLin6Asym"})
    study.index()
    row = study.prepare()["excluded"][0]
    assert row["reason"] == "wrong space" and "found MNI152NLin6Asym" in row["detail"]
    study.write(dataset={"space": "MNI152NLin6Asym"}, volumes={"regional": False})
    assert len(study.prepare()["products"]) == 1


def test_the_other_stage_is_named(study: TinyMaps) -> None:
    study.add("01")
    study.write(dataset={"kind": "series", "atlas": "toy"})
    with pytest.raises(ConfigError, match="neuropipe parcellate"):
        volumes_job.Job.load(str(study.root / "config.yaml"), "tiny")
    study.write()
    with pytest.raises(ConfigError, match="neuropipe volumes"):
        parcellate.Job.load(str(study.root / "config.yaml"), "tiny")


# --- again --------------------------------------------------------------------------------------


def test_finished_maps_are_not_made_again(study: TinyMaps, monkeypatch: pytest.MonkeyPatch) -> None:
    study.add("01")
    study.add("02", iqr=3.0)
    study.write()
    study.index()
    first = study.prepare()
    made = made_by(monkeypatch)
    assert study.prepare() == first and not made
    study.write(exclude={"max_iqr_grade": 2.5})
    strict = study.prepare()
    assert [row["run_id"] for row in strict["excluded"]] == ["sub-02"] and not made
    study.write(exclude={"runs": ["sub-01"]})
    assert [row["reason"] for row in study.prepare()["excluded"]] == ["by hand"] and not made
    study.write()
    study.add("01", tissue("other"))
    study.index()
    study.prepare()
    assert made == ["sub-01"], "its image changed"
    study.write(volumes={"dtype": "float32"})
    study.prepare()
    assert made[1:] == ["sub-01", "sub-02"], "other settings make every map again"
    (study.results / "derivatives/tiny/sub-02/anat/sub-02_desc-ready_volumes.tsv").write_text("cut off")
    study.prepare()
    assert made[3:] == ["sub-02"], "a damaged product is made again"


def test_one_changed_person_reruns_its_chunk_alone(study: TinyMaps) -> None:
    for n in range(8):
        study.add(f"{n:02d}")
    study.write(n_chunks=3)
    study.index()
    folder = study.results / "index" / "tiny"
    before = {path.name: path.read_text() for path in folder.glob("chunk-*.tsv")}
    study.add("03", tissue("other"))
    study.index()
    changed = [name for name, text in before.items() if (folder / name).read_text() != text]
    owner = [name for name, text in before.items() if "sub-03" in text]
    assert changed == owner and len(owner) == 1


def test_killed_in_mid_run_and_started_again(study: TinyMaps) -> None:
    """SIGKILL of the job: the next one, with two workers, goes on and makes the same bytes."""
    for n in range(4):
        study.add(f"{n:02d}")
    study.write()
    study.index()
    expected = study.prepare()
    derivatives = study.results / "derivatives"
    for path in derivatives.rglob("*_desc-ready_*"):
        path.unlink()
    receipt = study.receipt("volumes")
    receipt.unlink()
    arguments = ["volumes", "--config", study.root / "config.yaml", "--dataset", "tiny", "--output", receipt]
    arguments += ["--manifest", study.results / "index/tiny/chunk-00.tsv"]
    job = subprocess.Popen([sys.executable, "-m", "neuropipe.cli", *map(str, arguments)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(derivatives.rglob("*_gm.json")) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert list(derivatives.rglob("*_gm.json"))
    assert study.prepare(workers=2) == expected
    assert not list(derivatives.rglob(".tmp-*"))

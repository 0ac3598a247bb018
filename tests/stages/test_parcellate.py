"""From a manifest to clean series: what is written, what is left out, and what survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from tiny_study import AFFINE, N_REGIONS, SHAPE, SPACE, TinyStudy, atlas_labels, confounds_table, save

from neuropipe.errors import AtlasError, ConfigError, LockedError
from neuropipe.locks import lock
from neuropipe.provenance import sha256
from neuropipe.signals.regions import Regions
from neuropipe.signals.traces import Traces
from neuropipe.stages import chunk, index, parcellate, parcellate_job

LOOSE = {"clean": {"strategy": "none"}, "exclude": {"min_degrees_of_freedom": None, "min_duration_s": None}}
N_CHUNKS = 1


@pytest.fixture
def study(tmp_path: Path) -> TinyStudy:
    return TinyStudy(tmp_path)


def parcellated(study: TinyStudy, workers: int = 1, **sections: Any) -> dict[str, Any]:
    """Index and parcellate a study in one chunk; return the receipt."""
    config = str(study.write(n_chunks=N_CHUNKS, **sections))
    index.run(config=config, dataset="tiny", output=str(results(study) / "index" / "tiny"))
    return again(study, workers)


def again(study: TinyStudy, workers: int = 1) -> dict[str, Any]:
    """Parcellate what is indexed already."""
    receipt = results(study) / "receipts" / "tiny" / "parcellate-00.json"
    parcellate.run(
        config=str(study.root / "config.yaml"),
        dataset="tiny",
        manifest=str(results(study) / "index" / "tiny" / "chunk-00.tsv"),
        output=str(receipt),
        derivatives=None,
        workers=workers,
    )
    return json.loads(receipt.read_text())


def results(study: TinyStudy) -> Path:
    return study.root / "results" / "tiny"


def product(study: TinyStudy, subject: str = "01") -> tuple[np.ndarray, dict[str, Any], pd.DataFrame]:
    """Return a run's series, sidecar and coverage table."""
    folder = results(study) / "derivatives" / "tiny" / f"sub-{subject}" / "func"
    stem = f"sub-{subject}_task-rest_seg-toy_desc-clean_"
    return (
        np.load(folder / f"{stem}timeseries.npy"),
        json.loads((folder / f"{stem}timeseries.json").read_text()),
        pd.read_csv(folder / f"{stem}coverage.tsv", sep="\t"),
    )


def only_excluded(receipt: dict[str, Any]) -> dict[str, str]:
    """Return the one excluded row of a receipt without products."""
    assert not receipt["products"] and len(receipt["excluded"]) == 1
    return receipt["excluded"][0]


def rewrite(study: TinyStudy, image: str, change: Any, t_r: float = 2.0) -> None:
    """Replace an image's data by what `change` makes of it."""
    path = study.data / image
    save(path, change(nib.load(path).get_fdata(dtype=np.float32)), t_r)


def reindex(study: TinyStudy) -> None:
    index.run(config=str(study.root / "config.yaml"), dataset="tiny", output=str(results(study) / "index" / "tiny"))


# --- what is written ----------------------------------------------------------------------------


def test_products_of_a_run(study: TinyStudy) -> None:
    study.add("01", n_volumes=200, t_r=1.5)
    receipt = parcellated(study)
    series, about, coverage = product(study)
    assert series.dtype == np.float32 and series.shape == (150, N_REGIONS)  # floor(199 * 1.5 / 2) + 1
    np.testing.assert_allclose(series.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(series.std(axis=0), 1, atol=1e-6)
    assert (about["RepetitionTime"], about["NumberOfVolumes"]) == (2.0, 150)
    assert about["Source"] == {"RepetitionTime": 1.5, "NumberOfVolumes": 200}
    assert about["Atlases"] == ["toy"] and about["CensoredVolumes"] == []
    assert set(about["Inputs"]) == {
        f"sub-01/func/sub-01_task-rest_{name}"
        for name in (
            f"space-{SPACE}_desc-preproc_bold.nii.gz",
            f"space-{SPACE}_desc-brain_mask.nii.gz",
            "desc-confounds_timeseries.tsv",
        )
    }
    needed = "mean_fd_mm max_fd_mm censored_share n_confounds degrees_of_freedom tsnr_median n_missing_regions "
    assert set(f"{needed} duration_s mean_coverage".split()) <= set(about["Quality"])
    assert about["Quality"]["mean_fd_mm"] == pytest.approx(0.1) and about["Quality"]["n_confounds"] == 24
    assert list(coverage) == ["index", "atlas", "label", "name", "n_voxels", "coverage", "tsnr"]
    assert (coverage["coverage"] == 1).all() and (coverage["n_voxels"] == 8).all()
    folder = results(study) / "derivatives" / "tiny"
    regions = Regions.read(folder / "regions.tsv")
    assert regions.order_hash == about["RegionOrderHash"] and len(regions) == N_REGIONS
    assert json.loads((folder / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    entry = receipt["products"][0]
    path = results(study) / entry["path"]
    assert entry["run_id"] == "sub-01_task-rest" and entry["sha256"] == sha256(path) == about["Sha256"]
    assert entry["fingerprint"] == about["RunFingerprint"]
    seen = Traces.read(results(study) / entry["traces"])
    assert seen.t_r == 1.5 and seen.before.shape == seen.after.shape == (N_REGIONS, 200)
    assert seen.coverage.tolist() == [1] * N_REGIONS and np.isfinite(seen.tsnr).all()


def test_sessions_have_their_folder(study: TinyStudy) -> None:
    study.add("01", session="a")
    path = parcellated(study)["products"][0]["path"]
    assert path == "derivatives/tiny/sub-01/ses-a/func/sub-01_ses-a_task-rest_seg-toy_desc-clean_timeseries.npy"


def test_planted_signals_come_back_and_planted_noise_does_not(study: TinyStudy) -> None:
    """Each region has its own sine in the pass-band, under drift, a fast sine, and motion that is ten times larger."""
    n_volumes, t_r = 300, 1.0
    rng = np.random.default_rng(1)
    table = confounds_table(rng, n_volumes).assign(trans_x=rng.normal(size=n_volumes), rot_z=rng.normal(size=n_volumes))
    times = np.arange(n_volumes) * t_r
    planted = np.stack([np.sin(2 * np.pi * (0.03 + 0.01 * n) * times) for n in range(N_REGIONS)], axis=1)
    noise = 10 * table["trans_x"] + 50 * table["rot_z"] + 0.3 * times + 20 * np.sin(2 * np.pi * 0.3 * times)
    data = np.full((*SHAPE, n_volumes), 1000.0)
    labels = atlas_labels()
    for n in range(N_REGIONS):
        data[labels == n + 1] = 1000 + 10 * planted[:, n] + noise.to_numpy()
    image = study.add("01", n_volumes=n_volumes, t_r=t_r, confounds=table)
    save(study.data / image, data.astype(np.float32), t_r)
    parcellated(study, clean={"strategy": {"columns": ["trans_x", "rot_z"]}, "t_r": None})
    series, _, _ = product(study)
    for n in range(N_REGIONS):
        assert np.corrcoef(series[:, n], planted[:, n])[0, 1] > 0.9
    assert np.abs(table[["trans_x", "rot_z"]].to_numpy().T @ series).max() < 1e-3


def test_the_image_need_not_lie_as_the_atlas_does(study: TinyStudy) -> None:
    """An image stored from right to left gives the same series as one stored from left to right."""
    image = study.add("01")
    parcellated(study)
    straight, _, _ = product(study)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = SHAPE[0] - 1
    mask = study.data / image.replace("preproc_bold", "brain_mask")
    data = nib.load(study.data / image).get_fdata(dtype=np.float32)
    save(study.data / image, data[::-1], 2.0, affine=AFFINE @ flip)
    save(mask, np.ones(SHAPE, dtype=np.uint8), affine=AFFINE @ flip)
    reindex(study)
    again(study)
    np.testing.assert_allclose(product(study)[0], straight, atol=1e-5)


def test_regions_without_enough_voxels_are_missing_in_their_place(study: TinyStudy) -> None:
    image = study.add("01")
    mask = np.ones(SHAPE, dtype=np.uint8)
    mask[2:4, 1, 1:] = 0  # region 2 keeps 2 of 8 voxels
    save(study.data / image.replace("preproc_bold", "brain_mask"), mask)
    rewrite(study, image, lambda data: np.where((atlas_labels() == 4)[..., None], 0, data))
    parcellated(study)
    series, about, coverage = product(study)
    assert np.isnan(series).all(axis=0).tolist() == [False, True, False, True, False]
    assert np.isfinite(series[:, [0, 2, 4]]).all()
    assert coverage["coverage"].tolist() == [1, 0.25, 1, 0, 1] and about["Quality"]["n_missing_regions"] == 2
    assert about["VoxelsWithoutSignal"] == 8
    receipt = parcellated(study, exclude={"max_missing_regions": 1})
    row = only_excluded(receipt)
    assert row["reason"] == "missing regions" and "found 2" in row["detail"]


def test_non_steady_volumes_are_cut_and_scrubbed_ones_marked(study: TinyStudy) -> None:
    table = confounds_table(np.random.default_rng(0), 300)
    table["non_steady_state_outlier00"] = (np.arange(300) == 0).astype(float)
    table["non_steady_state_outlier01"] = (np.arange(300) == 1).astype(float)
    table.loc[[102, 202], "framewise_displacement"] = 3.0
    study.add("01", n_volumes=300, t_r=2.0, confounds=table)
    parcellated(study, clean={"strategy": "scrubbing", "high_pass": None, "low_pass": None})
    series, about, _ = product(study)
    assert len(series) == 298 and about["NonSteadyStateVolumesRemoved"] == 2
    assert about["CensoredVolumes"] == [100, 200]
    assert about["Quality"]["censored_share"] == pytest.approx(2 / 298)


# --- what is left out ---------------------------------------------------------------------------


def damaged(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[: len(content) // 2], "truncated image"),
        (lambda content: content[:-1], "truncated image"),
        (damaged, "damaged image"),
        (lambda content: content[:-8] + bytes(4) + content[-4:], "damaged image"),
    ],
)
def test_images_that_broke_on_the_way(study: TinyStudy, change: Any, reason: str) -> None:
    study.add("01")
    broken = study.data / study.add("02")
    broken.write_bytes(change(broken.read_bytes()))
    receipt = parcellated(study)
    assert [entry["run_id"] for entry in receipt["products"]] == ["sub-01_task-rest"]
    row = receipt["excluded"][0]
    assert row["reason"] == reason and broken.name in row["detail"] and row["stage"] == "parcellate"
    assert not list((results(study) / "derivatives" / "tiny").glob("sub-02/**/*.npy"))


def test_confounds_of_the_wrong_length(study: TinyStudy) -> None:
    study.add("01", n_volumes=150, confounds=confounds_table(np.random.default_rng(0), 149))
    row = only_excluded(parcellated(study))
    assert row["reason"] == "confounds length" and "150" in row["detail"] and "149" in row["detail"]
    assert "sub-01_task-rest_desc-confounds_timeseries.tsv" in row["detail"]


def test_unknown_columns_are_named_with_those_found(study: TinyStudy) -> None:
    study.add("01")
    row = only_excluded(parcellated(study, clean={"strategy": {"columns": ["trans_x", "a_comp_cor_0?"]}}))
    assert row["reason"] == "missing confounds"
    assert "a_comp_cor_0?" in row["detail"] and "framewise_displacement" in row["detail"]


def test_fewer_volumes_than_the_filter_needs(study: TinyStudy) -> None:
    study.add("01", n_volumes=30, t_r=2.0)
    row = only_excluded(parcellated(study, **LOOSE))
    assert row["reason"] == "too few volumes" and "50" in row["detail"] and "30" in row["detail"]


def test_more_regressors_than_the_band_can_bear(study: TinyStudy) -> None:
    study.add("01", n_volumes=150, t_r=2.0)
    row = only_excluded(parcellated(study, clean={"strategy": "36P"}, exclude={"min_degrees_of_freedom": 25}))
    assert row["reason"] == "degrees of freedom"
    # 150 volumes of 2 s carry 55 cosines between 0.01 and 0.1 Hz; 36 regressors leave 19.
    assert "150 volumes - 0 censored - 36 confounds - 95 stop-band = 19" in row["detail"]


def test_motion_and_duration_rules(study: TinyStudy) -> None:
    study.add("01", n_volumes=150, confounds=confounds_table(np.random.default_rng(0), 150, fd_mm=0.6))
    row = only_excluded(parcellated(study))
    assert row["reason"] == "motion" and "found 0.6" in row["detail"] and "max_mean_fd_mm" in row["detail"]
    row = only_excluded(
        parcellated(study, exclude={"max_mean_fd_mm": None, "max_censored_share": None, "min_duration_s": 400})
    )
    assert row["reason"] == "short run" and "400" in row["detail"] and "300" in row["detail"]
    row = only_excluded(parcellated(study, exclude={"max_mean_fd_mm": None}))
    assert row["reason"] == "censored volumes"


def test_slow_sampling_is_not_made_up(study: TinyStudy) -> None:
    study.add("01", n_volumes=150, t_r=5.0)
    row = only_excluded(parcellated(study, **LOOSE))
    assert row["reason"] == "up-sampling" and "5 s" in row["detail"]


def test_a_mask_on_another_grid(study: TinyStudy) -> None:
    image = study.add("01")
    save(study.data / image.replace("preproc_bold", "brain_mask"), np.ones((6, 5, 5), dtype=np.uint8))
    assert only_excluded(parcellated(study))["reason"] == "mask on another grid"


def test_no_signal_inside_the_mask(study: TinyStudy) -> None:
    image = study.add("01")
    rewrite(study, image, np.zeros_like)
    assert only_excluded(parcellated(study))["reason"] == "no signal"


def test_images_of_another_space_than_the_atlas(study: TinyStudy) -> None:
    """An index made before the atlas was changed: the run's space is checked again."""
    study.add("01")
    parcellated(study)
    config = study.root / "config.yaml"
    config.write_text(config.read_text().replace(SPACE, "MNI152NLin2009cAsym"))
    row = only_excluded(again(study))
    assert row["reason"] == "wrong space" and SPACE in row["detail"] and "MNI152NLin2009cAsym" in row["detail"]


def test_files_that_changed_after_the_index(study: TinyStudy) -> None:
    image = study.add("01")
    parcellated(study)
    again(study)
    rewrite(study, image, lambda data: data + 1)
    # What is finished stays: it was made from what was indexed. What has to be made is refused.
    assert len(again(study)["products"]) == 1
    for path in (results(study) / "derivatives").rglob("*.json"):
        path.unlink()
    assert only_excluded(again(study))["reason"] == "changed since index"
    (study.data / image).unlink()
    assert only_excluded(again(study))["reason"] == "missing file"


# --- the whole command --------------------------------------------------------------------------


def test_bugs_are_not_exclusions(study: TinyStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study.add("01")

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(parcellate_job, "extract", broken)
    with pytest.raises(ZeroDivisionError):
        parcellated(study)
    assert not (results(study) / "receipts").exists() or not list((results(study) / "receipts").rglob("*.json"))


def test_an_atlas_that_was_never_fetched(study: TinyStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROPIPE_CACHE", str(study.root / "cache"))
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(study.root / "templateflow"))
    study.add("01")
    with pytest.raises(AtlasError, match="neuropipe atlas fetch schaefer400-7n"):
        parcellated(study, atlases=["schaefer400-7n"])


def test_an_unknown_dataset_name(study: TinyStudy) -> None:
    study.add("01")
    parcellated(study)
    with pytest.raises(ConfigError, match="no dataset 'other'"):
        parcellate.run(
            config=str(study.root / "config.yaml"),
            dataset="other",
            manifest=str(results(study) / "index" / "tiny" / "chunk-00.tsv"),
            output=str(results(study) / "receipts" / "other" / "parcellate-00.json"),
            derivatives=None,
            workers=1,
        )


def test_an_empty_chunk(study: TinyStudy) -> None:
    study.add("01")
    config = str(study.write(n_chunks=9))
    index.run(config=config, dataset="tiny", output=str(results(study) / "index" / "tiny"))
    empty = [
        n for n in range(9) if len((results(study) / f"index/tiny/chunk-{n:02d}.tsv").read_text().splitlines()) == 1
    ]
    receipt = results(study) / "receipts" / "tiny" / f"parcellate-{empty[0]:02d}.json"
    manifest = str(results(study) / f"index/tiny/chunk-{empty[0]:02d}.tsv")
    parcellate.run(config=config, dataset="tiny", manifest=manifest, output=str(receipt), derivatives=None, workers=2)
    assert json.loads(receipt.read_text())["products"] == []


def test_the_lock_of_a_live_job_is_respected(study: TinyStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study.add("01")
    monkeypatch.setattr(chunk, "lock", lambda path: lock(path, wait_s=0.1))
    with lock(results(study) / "derivatives" / "tiny" / ".lock-chunk-00"), pytest.raises(LockedError, match="chunk-00"):
        parcellated(study)


def test_finished_runs_are_not_made_again(study: TinyStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study.add("01")
    study.add("02")
    first = parcellated(study)
    made = []
    process = parcellate_job.process
    monkeypatch.setattr(parcellate_job, "process", lambda job, row: made.append(row["run_id"]) or process(job, row))
    assert again(study) == first and not made
    study.add("03")
    parcellated(study)
    assert made == ["sub-03_task-rest"]
    made.clear()
    parcellated(study, clean={"strategy": "simple"})
    assert len(made) == 3, "other settings make every run again"


def test_changed_limits_are_put_to_finished_runs_without_making_them_again(
    study: TinyStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.add("01")
    study.add("02", confounds=confounds_table(np.random.default_rng(0), 150, fd_mm=0.3))
    first = parcellated(study)
    made = []
    process = parcellate_job.process
    monkeypatch.setattr(parcellate_job, "process", lambda job, row: made.append(row["run_id"]) or process(job, row))
    strict = parcellated(study, exclude={"max_mean_fd_mm": 0.2})
    assert [entry["run_id"] for entry in strict["products"]] == ["sub-01_task-rest"] and not made
    row = strict["excluded"][0]
    assert row["run_id"] == "sub-02_task-rest" and "found 0.3" in row["detail"]
    assert row["quality"]["mean_fd_mm"] == pytest.approx(0.3)
    assert (results(study) / row["traces"]).is_file()
    by_hand = parcellated(study, exclude={"runs": ["sub-01"]})
    assert [entry["run_id"] for entry in by_hand["products"]] == ["sub-02_task-rest"] and not made
    assert (
        by_hand["excluded"][0]["reason"] == "by hand" and (results(study) / by_hand["excluded"][0]["traces"]).is_file()
    )
    assert parcellated(study) == first and not made
    parcellated(study, exclude={"min_region_coverage": 0.9})
    assert len(made) == 2, "this limit shapes the series"


def test_a_lost_picture_is_made_again(study: TinyStudy) -> None:
    study.add("01")
    first = parcellated(study)
    path = results(study) / first["products"][0]["traces"]
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert again(study) == first and path.read_bytes() == content
    path.unlink()
    assert again(study) == first and path.read_bytes() == content


def test_what_was_known_of_a_run_that_is_left_out(study: TinyStudy) -> None:
    study.add("01", confounds=confounds_table(np.random.default_rng(0), 150, fd_mm=0.6))
    row = only_excluded(parcellated(study))
    assert row["quality"]["mean_fd_mm"] == pytest.approx(0.6) and row["quality"]["duration_s"] == 300
    seen = Traces.read(results(study) / row["traces"])
    assert seen.fd_mm[1] == pytest.approx(0.6) and not seen.before.size, "its image was not read"
    row = only_excluded(parcellated(study, exclude={"min_degrees_of_freedom": 60, "max_mean_fd_mm": None,
                                                    "max_censored_share": None}))  # fmt: skip
    seen = Traces.read(results(study) / row["traces"])
    assert row["reason"] == "degrees of freedom" and row["quality"]["tsnr_median"] > 0
    assert seen.before.shape == (N_REGIONS, 150) and not seen.after.size


def test_a_product_that_was_altered_is_made_again(study: TinyStudy) -> None:
    study.add("01")
    first = parcellated(study)
    path = results(study) / first["products"][0]["path"]
    path.write_bytes(path.read_bytes()[:-4])
    assert again(study) == first and sha256(path) == first["products"][0]["sha256"]


def test_the_number_of_workers_does_not_change_a_byte(study: TinyStudy) -> None:
    for subject in ("01", "02", "03"):
        study.add(subject)
    one = parcellated(study, workers=1)
    for path in (results(study) / "derivatives").rglob("*_timeseries.*"):
        path.unlink()
    assert again(study, workers=2) == one


def test_killed_in_mid_run_and_started_again(study: TinyStudy) -> None:
    """SIGKILL of the job: its workers end, the lock is taken over, the next job makes the same bytes."""
    for subject in range(6):
        study.add(f"{subject:02d}", n_volumes=400)
    expected = parcellated(study)
    derivatives = results(study) / "derivatives"
    for path in derivatives.rglob("*_timeseries.*"):
        path.unlink()
    receipt = results(study) / "receipts" / "tiny" / "parcellate-00.json"
    receipt.unlink()
    arguments = ["parcellate", "--config", study.root / "config.yaml", "--dataset", "tiny", "--workers", "2"]
    arguments += ["--manifest", results(study) / "index/tiny/chunk-00.tsv", "--output", receipt]
    command = [sys.executable, "-m", "neuropipe.cli", *map(str, arguments)]
    job = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(derivatives.rglob("*_timeseries.json")) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert not receipt.exists()
    assert again(study) == expected
    assert not list(derivatives.rglob(".tmp-*/*.json"))
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()], "workers of a killed job must end"

"""XCP-D folders: which file is which run's, what was censored, and the planted series at the end of the line."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from doors_study import (
    N_VOLUMES,
    NAMES,
    cleaned,
    indexed,
    people,
    planted,
    recording,
    sharded,
    sidecar,
    table,
    xcpd_atlas,
    xcpd_run,
    zscored,
)

from neuropipe.bids import doors
from neuropipe.bids.index import read_tsv
from neuropipe.config import parse
from neuropipe.errors import ConfigError, InputError


def dataset(root: Path, **changes: object) -> dict:
    return {"kind": "xcpd", "path": str(root / "xcp_d"), "atlas": "Toy"} | changes


def test_the_planted_series_arrive(tmp_path: Path) -> None:
    """Two people, sessions and runs; columns in another order than the atlas's table."""
    root = tmp_path / "xcp_d"
    series = {f"sub-{n}_ses-a_task-rest_run-0{run}": planted(10 * n + run) for n in (1, 2) for run in (1, 2)}
    shuffled = [2, 0, 3, 1]
    for stem, values in series.items():
        xcpd_run(root, stem, values[:, shuffled], [NAMES[i] for i in shuffled])
    xcpd_atlas(root)
    people(root, "1", "2")
    shards = sharded(tmp_path, dataset(tmp_path))
    assert sorted(shards.manifest["run_id"]) == sorted(series)
    for stem, values in series.items():
        np.testing.assert_allclose(recording(shards, stem), zscored(values), atol=1e-5)
    assert shards.regions.table["name"].tolist() == NAMES and shards.regions.networks == ["Vis", "Default", "Cont"]
    assert shards.regions.atlases == ["Toy"] and shards.regions.table["hemisphere"].tolist() == ["L", "L", "R", "R"]
    np.testing.assert_allclose(shards.manifest["mean_fd"], 0.1)
    assert set(shards.manifest["t_r"]) == {2.0} and set(shards.manifest["session"]) == {"a"}


@pytest.mark.parametrize("interpolated", [False, True])
def test_censored_volumes_keep_their_place_in_time(tmp_path: Path, interpolated: bool) -> None:
    """Whether XCP-D dropped them or filled them in, the other volumes stay where they were."""
    root, values = tmp_path / "xcp_d", planted(1)
    censored = np.isin(np.arange(N_VOLUMES), [0, 40, 41, 42, 100])
    filled = values + 50 * censored[:, None]
    xcpd_run(root, "sub-1_task-rest", filled, censored=censored, interpolated=interpolated)
    xcpd_atlas(root)
    people(root, "1")
    receipt = cleaned(tmp_path, dataset(tmp_path, as_is=True))
    about = sidecar(tmp_path, receipt, "sub-1_task-rest")
    assert about["CensoredVolumes"] == [0, 40, 41, 42, 100] and about["Quality"]["censored_share"] == 5 / N_VOLUMES
    assert about["Source"]["Censoring"] == f"volumes {'replaced by interpolation' if interpolated else 'removed'}"
    found = np.load(tmp_path / "s" / receipt["products"][0]["path"])
    np.testing.assert_allclose(found[~censored], values[~censored], rtol=1e-6)
    assert np.isfinite(found).all()
    if not interpolated:
        np.testing.assert_allclose(found[41], (values[39] + values[43]) / 2, rtol=1e-6)


def test_dropped_and_interpolated_volumes_clean_to_the_same(tmp_path: Path) -> None:
    """What stood at a censored volume has no influence on the others."""
    censored, found = np.isin(np.arange(N_VOLUMES), [30, 31, 90]), []
    for mode in (False, True):
        root = tmp_path / str(mode)
        xcpd_run(root / "xcp_d", "sub-1_task-rest", planted(1), censored=censored, interpolated=mode)
        xcpd_atlas(root / "xcp_d")
        people(root / "xcp_d", "1")
        receipt = cleaned(root, dataset(root))
        found.append(np.load(root / "s" / receipt["products"][0]["path"]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    # Three of the 70 cosines of the band go with three volumes: the square of the correlation is about 67/70.
    similar = [np.corrcoef(a, b)[0, 1] for a, b in zip(found[0][~censored].T, planted(1)[~censored].T, strict=True)]
    assert np.mean(similar) > 0.95


def test_the_names_of_all_versions(tmp_path: Path) -> None:
    """Before 0.7: ``atlas-``, ``_coverage``, ``desc-filtered_motion``, tables of atlases at the top; 26: ``name``."""
    root, values = tmp_path / "xcp_d", planted(1)
    folder = xcpd_run(root, "sub-1_task-rest", values, atlas="atlas-Toy", coverage=[1, 0.9, 0.8, 0.7])
    grid = "sub-1_task-rest_space-MNI152NLin6Asym_atlas-Toy"
    (folder / f"{grid}_stat-mean_timeseries.tsv").rename(folder / f"{grid}_timeseries.tsv")
    (folder / f"{grid}_stat-coverage_bold.tsv").rename(folder / f"{grid}_coverage.tsv")
    (folder / "sub-1_task-rest_motion.tsv").rename(folder / "sub-1_task-rest_desc-filtered_motion.tsv")
    xcpd_atlas(root, where="")
    people(root, "1")
    row = indexed(tmp_path, dataset(tmp_path))[0]["sub-1_task-rest"]
    assert row["confounds"].endswith("desc-filtered_motion.tsv") and "_coverage.tsv" in row["beside"]
    receipt = cleaned(tmp_path, dataset(tmp_path))
    about = sidecar(tmp_path, receipt, "sub-1_task-rest")
    assert about["Quality"]["mean_coverage"] == pytest.approx(0.85) and about["Quality"]["mean_fd_mm"] == pytest.approx(
        0.1
    )
    assert len(about["Inputs"]) == 5  # series, motion, outliers, coverage, and the sidecar of the denoised image
    assert about["Source"]["SoftwareFilters"]["Bandpass filter"]["Low-pass cutoff (Hz)"] == 0.08
    (root / "atlas-Toy_dseg.tsv").unlink()
    xcpd_atlas(root, where="sourcedata/atlases/tpl-MNI152NLin6Asym", word="name")
    np.testing.assert_allclose(
        recording(sharded(tmp_path, dataset(tmp_path)), "sub-1_task-rest"), zscored(values), atol=1e-5
    )


def test_names_with_the_hash_of_the_settings(tmp_path: Path) -> None:
    """The layout ``multiverse`` puts it into file names and columns."""
    root, values = tmp_path / "xcp_d", planted(1)
    folder = xcpd_run(root, "sub-1_task-rest", values)
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("task-rest", "task-rest_hash-abc123"))
    series = folder / "sub-1_task-rest_hash-abc123_space-MNI152NLin6Asym_seg-Toy_stat-mean_timeseries.tsv"
    table(series, values, [f"{name}_hash-abc123" for name in NAMES])
    xcpd_atlas(root)
    people(root, "1")
    shards = sharded(tmp_path, dataset(tmp_path))
    np.testing.assert_allclose(recording(shards, "sub-1_task-rest"), zscored(values), atol=1e-5)


def test_images_of_parcels_are_read_where_there_is_no_table(tmp_path: Path) -> None:
    root, values = tmp_path / "xcp_d", planted(1, t_r=1.5)
    folder = xcpd_run(root, "sub-1_task-rest", values, t_r=None)
    for path in folder.glob("*stat-*"):
        path.unlink()
    parcels = nib.cifti2.ParcelsAxis(
        NAMES, [np.zeros((0, 3))] * 4, [{"CIFTI_STRUCTURE_CORTEX_LEFT": np.array([i])} for i in range(4)],
        nvertices={"CIFTI_STRUCTURE_CORTEX_LEFT": 10},
    )  # fmt: skip
    header = nib.cifti2.Cifti2Header.from_axes((nib.cifti2.SeriesAxis(0, 1.5, N_VOLUMES), parcels))
    path = folder / "sub-1_task-rest_space-fsLR_seg-Toy_den-91k_stat-mean_timeseries.ptseries.nii"
    nib.save(nib.Cifti2Image(values.astype(np.float32), header), path)
    xcpd_atlas(root)
    people(root, "1")
    shards = sharded(tmp_path, dataset(tmp_path), clean={"strategy": "none", "t_r": None})
    np.testing.assert_allclose(recording(shards, "sub-1_task-rest"), zscored(values), atol=1e-4)
    assert shards.manifest["t_r"].tolist() == [1.5]
    table(path.with_name(path.name.replace("_den-91k", "").replace("ptseries.nii", "tsv")), values, NAMES)
    runs, excluded = indexed(tmp_path, dataset(tmp_path, t_r=1.5))
    assert runs["sub-1_task-rest"]["image"].endswith("_timeseries.tsv") and not excluded


def test_coverage_decides_which_regions_are_missing(tmp_path: Path) -> None:
    root, values = tmp_path / "xcp_d", planted(1)
    values[:, 3] = np.nan  # below XCP-D's own threshold
    xcpd_run(root, "sub-1_task-rest", values, coverage=[1, 0.6, 0.4, 0.1])
    xcpd_atlas(root)
    people(root, "1")
    shards = sharded(tmp_path, dataset(tmp_path), exclude={"min_region_coverage": 0.5, "min_duration_s": None})
    found = recording(shards, "sub-1_task-rest")
    assert np.isnan(found[:, [2, 3]]).all()
    np.testing.assert_allclose(found[:, :2], zscored(values)[:, :2], atol=1e-5)
    path = next((tmp_path / "s/derivatives/d").rglob("*_coverage.tsv"))
    assert read_tsv(path)["coverage"].tolist() == ["1.0", "0.6", "0.4", "0.1"]


def test_motion_decides_who_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "xcp_d"
    for n, fd_mm in enumerate([0.1, 0.9]):
        xcpd_run(root, f"sub-{n}_task-rest", planted(n), fd_mm=fd_mm)
    xcpd_atlas(root)
    people(root, "0", "1")
    receipt = cleaned(tmp_path, dataset(tmp_path), exclude={"max_mean_fd_mm": 0.5, "max_missing_regions": None})
    assert [p["run_id"] for p in receipt["products"]] == ["sub-0_task-rest"]
    assert [(e["run_id"], e["reason"]) for e in receipt["excluded"]] == [("sub-1_task-rest", "motion")]


def test_series_that_join_runs_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "xcp_d"
    for run in ("_dir-AP_run-1", "_dir-AP_run-2", ""):
        xcpd_run(root, f"sub-1_task-rest{run}", planted(1))
    xcpd_run(root, "sub-1_task-nback", planted(1))  # a task of one run is no joined one
    xcpd_atlas(root)
    people(root, "1")
    runs, excluded = indexed(tmp_path, dataset(tmp_path))
    assert sorted(runs) == ["sub-1_task-nback", "sub-1_task-rest_dir-AP_run-1", "sub-1_task-rest_dir-AP_run-2"]
    assert list(excluded.values()) == ["joined runs"]
    runs, excluded = indexed(tmp_path, dataset(tmp_path, select={"task": "rest", "run": None}))
    assert sorted(runs) == ["sub-1_task-rest"] and not excluded


def test_one_atlas_of_many_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "xcp_d"
    xcpd_run(root, "sub-1_task-rest", planted(1))
    xcpd_run(root, "sub-1_task-rest", planted(2), atlas="seg-Tian")
    xcpd_atlas(root)
    people(root, "1")
    assert "_seg-Toy_" in indexed(tmp_path, dataset(tmp_path))[0]["sub-1_task-rest"]["image"]
    (root / "atlases/atlas-Tian_dseg.tsv").write_text((root / "atlases/atlas-Toy/atlas-Toy_dseg.tsv").read_text())
    for select in ({"seg": "Tian"}, {"atlas": "Tian"}, {"bold": {"segmentation": "Tian"}}):
        row = indexed(tmp_path, dataset(tmp_path, atlas="mine", select=select))[0]["sub-1_task-rest"]
        assert "_seg-Tian_" in row["image"]
    with pytest.raises(
        InputError, match=r"no series of the atlas 'Glasser' that select wants; found the atlases Tian, Toy"
    ):
        indexed(tmp_path, dataset(tmp_path, atlas="Glasser"))


def test_regions_bear_the_catalogues_id_where_the_user_says_so(tmp_path: Path) -> None:
    root = tmp_path / "xcp_d"
    xcpd_atlas(root)
    config = parse({"study": "s", "datasets": {"d": dataset(tmp_path, atlas="buckner7", select={"seg": "Toy"})}})
    regions = doors.regions(config.datasets["d"])
    assert regions.atlases == ["buckner7"] and regions.table["label"].tolist() == [1, 2, 3, 4]


def test_names_are_never_taken_for_places(tmp_path: Path) -> None:
    """As many columns as regions, but one has another name: of another atlas, or another version of it."""
    root = tmp_path / "xcp_d"
    xcpd_run(root, "sub-1_task-rest", planted(1), [*NAMES[:3], "RH_Cont_2"])
    xcpd_atlas(root)
    people(root, "1")
    [row] = cleaned(tmp_path, dataset(tmp_path))["excluded"]
    assert row["reason"] == "wrong regions" and "no region is called RH_Cont_2" in row["detail"]


def test_what_does_not_fit_is_left_out_with_its_reason(tmp_path: Path) -> None:
    root = tmp_path / "xcp_d"
    folders = {n: xcpd_run(root, f"sub-{n}_task-rest", planted(n)) for n in range(1, 8)}
    grid = "space-MNI152NLin6Asym"
    table(folders[1] / "sub-1_task-rest_outliers.tsv", np.zeros((N_VOLUMES + 3, 1)), ["framewise_displacement"])
    (folders[2] / f"sub-2_task-rest_{grid}_res-2_desc-denoised_bold.json").write_text("{}")
    (folders[3] / f"sub-3_task-rest_{grid}_res-2_desc-denoised_bold.json").write_text("{")
    series = folders[4] / f"sub-4_task-rest_{grid}_seg-Toy_stat-mean_timeseries.tsv"
    series.unlink()
    series.symlink_to("nowhere")
    xcpd_run(root, "sub-8_task-rest", planted(8))
    other = folders[5] / "sub-5_task-rest_space-MNI152NLin2009cAsym_seg-Toy_stat-mean_timeseries.tsv"
    table(other, planted(5), NAMES)
    xcpd_atlas(root)
    people(root, *(str(n) for n in range(1, 8)))
    runs, excluded = indexed(tmp_path, dataset(tmp_path))
    assert sorted(runs) == ["sub-6_task-rest", "sub-7_task-rest"]
    reasons = {path.partition("/")[0]: reason for path, reason in excluded.items()}
    assert reasons == {
        "sub-1": "length mismatch",
        "sub-2": "no repetition time",
        "sub-3": "damaged sidecar",
        "sub-4": "not fetched",
        "sub-5": "ambiguous",
        "sub-8": "no participants row",
    }
    table(folders[6] / "sub-6_task-rest_motion.tsv", np.zeros((3, 1)), ["framewise_displacement"])
    for content in (b"a\tb\n1\t2\n", b"", b"\xff\xfe"):
        (folders[7] / f"sub-7_task-rest_{grid}_seg-Toy_stat-coverage_bold.tsv").write_bytes(content)
        receipt = cleaned(tmp_path, dataset(tmp_path))
        assert [row["reason"] for row in receipt["excluded"]] == ["length mismatch", "damaged table"]


def test_a_changed_outliers_table_makes_the_run_again(tmp_path: Path) -> None:
    root = tmp_path / "xcp_d"
    folder = xcpd_run(root, "sub-1_task-rest", planted(1), interpolated=True)
    xcpd_atlas(root)
    people(root, "1")
    before = cleaned(tmp_path, dataset(tmp_path))["products"]
    flags = np.zeros((N_VOLUMES, 1))
    flags[5] = 1
    table(folder / "sub-1_task-rest_outliers.tsv", flags, ["framewise_displacement"])
    after = cleaned(tmp_path, dataset(tmp_path))
    assert after["products"] != before
    assert sidecar(tmp_path, after, "sub-1_task-rest")["CensoredVolumes"] == [5]


def test_without_the_atlas_table_the_index_says_so(tmp_path: Path) -> None:
    """And one of the user's own may stand in for it."""
    xcpd_run(tmp_path / "xcp_d", "sub-1_task-rest", planted(1))
    people(tmp_path / "xcp_d", "1")
    with pytest.raises(InputError, match=r"has no atlas-Toy_dseg\.tsv"):
        indexed(tmp_path, dataset(tmp_path))
    (tmp_path / "own.tsv").write_text("index\tname\n" + "".join(f"{i}\t{name}\n" for i, name in enumerate(NAMES, 1)))
    runs, _ = indexed(tmp_path, dataset(tmp_path, regions=str(tmp_path / "own.tsv")))
    assert len(runs) == 1
    xcpd_atlas(tmp_path / "xcp_d", word="title")
    with pytest.raises(InputError, match="expected a column name"):
        indexed(tmp_path, dataset(tmp_path))


def test_what_the_configuration_must_say(tmp_path: Path) -> None:
    for changes, words in [
        ({"atlas": None}, "kind xcpd needs atlas"),
        ({"atlas": ["a", "b"]}, "kind xcpd needs atlas"),
        ({"kind": "fmriprep"}, "atlas is for ready-made series"),
    ]:
        with pytest.raises(ConfigError, match=words):
            parse({"study": "s", "atlases": ["tian-s3"], "datasets": {"d": dataset(tmp_path, **changes)}})
    people(tmp_path / "xcp_d", "1")
    with pytest.raises(InputError, match="must name one atlas"):
        indexed(tmp_path, dataset(tmp_path, select={"seg": ["a", "b"]}))

"""giga_connectome's outputs, old and new: HDF5 files and tables whose headers count from zero."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from doors_study import (
    NAMES,
    cleaned,
    giga_h5,
    indexed,
    people,
    planted,
    recording,
    sharded,
    sidecar,
    table,
    zscored,
)

from neuropipe.cli import main
from neuropipe.errors import ConfigError, InputError

ATLAS = "Schaefer2018100Parcels7Networks"


def dataset(root: Path, **changes: object) -> dict:
    (root / "regions.tsv").write_text("index\tname\n" + "".join(f"{i + 1}\t{name}\n" for i, name in enumerate(NAMES)))
    own = {"atlas": "toy", "regions": str(root / "regions.tsv")}
    return {"kind": "giga_connectome", "path": str(root / "giga")} | own | changes


def run_of_06(root: Path, stem: str, series: np.ndarray, strategy: str = "Simple", **facts: object) -> Path:
    """Write one run as 0.6 does: one sidecar for all atlases, which lacks ``seg-``."""
    folder = root / "giga" / stem.partition("_")[0] / "func"
    path = folder / f"{stem}_seg-{ATLAS}_desc-denoise{strategy}_timeseries.tsv"
    table(path, series, range(series.shape[1]), na="")
    about = {"ConfoundRegressors": ["rot_x"], "SamplingFrequency": 0.5} | facts
    (folder / f"{stem}_desc-denoise{strategy}_timeseries.json").write_text(json.dumps(about))
    table(folder / f"{stem}_seg-{ATLAS}_meas-PearsonCorrelation_desc-denoise{strategy}_relmat.tsv", np.eye(4), range(4))
    return path


def test_tables_of_06(tmp_path: Path) -> None:
    values = {f"sub-{n}_task-rest_run-01": planted(n) for n in (1, 2)}
    for stem, series in values.items():
        run_of_06(tmp_path, stem, series, MeanFramewiseDisplacement=0.12)
    people(tmp_path / "giga", "1", "2")
    shards = sharded(tmp_path, dataset(tmp_path, select={"task": "rest", "seg": ATLAS}))
    for stem, series in values.items():
        np.testing.assert_allclose(recording(shards, stem), zscored(series), atol=1e-5)
    assert shards.manifest["mean_fd"].tolist() == [0.12, 0.12] and set(shards.manifest["t_r"]) == {2.0}
    assert set(shards.manifest["n_timepoints"]) == {160}  # the header, 0 1 2 3, is no volume


def test_tables_of_05(tmp_path: Path) -> None:
    """Atlas and part are two entities, the strategy hangs on the part, the sidecar on the atlas."""
    folder = tmp_path / "giga/sub-1/ses-a/func"
    stem = "sub-1_ses-a_task-rest_space-MNI152NLin2009cAsym_res-2_atlas-Schaefer20187Networks"
    table(folder / f"{stem}_desc-100Parcels7NetworksSimple_timeseries.tsv", planted(1), range(4))
    (folder / f"{stem}_timeseries.json").write_text('{"SamplingFrequency": 0.5}')
    people(tmp_path / "giga", "1")
    shards = sharded(tmp_path, dataset(tmp_path))
    np.testing.assert_allclose(recording(shards, "sub-1_ses-a_task-rest"), zscored(planted(1)), atol=1e-5)


def test_scrubbed_and_moving_runs_count_as_such(tmp_path: Path) -> None:
    run_of_06(tmp_path, "sub-1_task-rest", planted(1), MeanFramewiseDisplacement=0.9)
    run_of_06(tmp_path, "sub-2_task-rest", planted(2), NumberOfVolumesDiscardedByMotionScrubbing=200)
    run_of_06(tmp_path, "sub-3_task-rest", planted(3), NumberOfVolumesDiscardedByMotionScrubbing=40)
    people(tmp_path / "giga", "1", "2", "3")
    rules = {"max_mean_fd_mm": 0.5, "max_censored_share": 0.5}
    receipt = cleaned(tmp_path, dataset(tmp_path), exclude=rules)
    assert {row["run_id"]: row["reason"] for row in receipt["excluded"]} == {
        "sub-1_task-rest": "motion",
        "sub-2_task-rest": "censored volumes",
    }
    about = sidecar(tmp_path, receipt, "sub-3_task-rest")
    assert about["Quality"]["high_motion_share"] == 0.2 and about["Source"]["VolumesRemovedAtUnknownTimes"] == 40
    assert about["Source"]["ConfoundRegressors"] == ["rot_x"] and about["Regressors"] == []


@pytest.mark.parametrize("typo", [False, True])
def test_files_of_a_study(tmp_path: Path, typo: bool) -> None:
    """Up to 0.3 the task was misspelt inside, and no repetition time was there."""
    task = "tast" if typo else "task"
    inside = {
        f"sub-{n}/ses-a/sub-{n}_ses-a_{task}-rest_run-1_atlas-Toy_desc-{part}": planted(10 * n + i)
        for n in (1, 2)
        for i, part in enumerate(("4parcels", "9parcels"))
    }
    (tmp_path / "giga").mkdir()
    giga_h5(tmp_path / "giga/atlas-Toy_desc-simple.h5", inside, None if typo else 2.0)
    people(tmp_path / "giga", "1", "2")
    wanted = dataset(tmp_path, select={"seg": "Toy4parcels"}, **({"t_r": 2.0} if typo else {}))
    shards = sharded(tmp_path, wanted)
    assert shards.manifest["run_id"].tolist() == [f"sub-{n}_ses-a_task-rest_run-1" for n in (1, 2)]
    for n in (1, 2):
        found = recording(shards, f"sub-{n}_ses-a_task-rest_run-1")
        np.testing.assert_allclose(found, zscored(planted(10 * n)), atol=1e-4)
    one_file = wanted | {"path": str(tmp_path / "giga/atlas-Toy_desc-simple.h5")}
    assert indexed(tmp_path, one_file)[0].keys() == set(shards.manifest["run_id"])


def test_files_of_a_subject_and_strategies(tmp_path: Path) -> None:
    (tmp_path / "giga").mkdir()
    for n, strategy in [(1, "simple"), (1, "scrubbing.2+gsr"), (2, "simple")]:
        inside = {f"sub-{n}/sub-{n}_task-rest_atlas-Toy_desc-4": planted(n)}
        giga_h5(tmp_path / f"giga/sub-{n}_atlas-Toy_desc-{strategy}.h5", inside)
    people(tmp_path / "giga", "1", "2")
    runs, excluded = indexed(tmp_path, dataset(tmp_path))
    assert list(runs) == ["sub-2_task-rest"] and list(excluded.values()) == ["ambiguous"] * 2
    runs, excluded = indexed(tmp_path, dataset(tmp_path, select={"strategy": "scrubbing.2+gsr"}))
    assert runs["sub-1_task-rest"]["image"] == "sub-1_atlas-Toy_desc-scrubbing.2+gsr.h5"
    assert runs["sub-1_task-rest"]["offset"] == "sub-1/sub-1_task-rest_atlas-Toy_desc-4_timeseries"


def test_a_region_that_was_lost_is_noticed(tmp_path: Path) -> None:
    """giga_connectome's columns have no names: with one fewer, nobody knows which it is."""
    run_of_06(tmp_path, "sub-1_task-rest", planted(1)[:, :3])
    people(tmp_path / "giga", "1")
    [row] = cleaned(tmp_path, dataset(tmp_path))["excluded"]
    assert row["reason"] == "wrong regions" and "expected 4 columns" in row["detail"] and "found 3" in row["detail"]


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "giga").mkdir()
    (tmp_path / "giga/atlas-Toy_desc-damaged.h5").write_bytes(b"no HDF5")
    giga_h5(tmp_path / "giga/atlas-Toy_desc-simple.h5", {"sub-3/sub-3_task-rest_atlas-Toy_desc-4": planted(3)}, None)
    giga_h5(tmp_path / "giga/atlas-Toy_desc-flat.h5", {"sub-4/sub-4_task-rest_atlas-Toy_desc-4": planted(4)})
    run_of_06(tmp_path, "sub-1_task-rest", planted(1))
    run_of_06(tmp_path, "sub-2_task-rest", planted(2), SamplingFrequency="TR")
    run_of_06(tmp_path, "sub-5_task-rest", planted(5))
    people(tmp_path / "giga", "1", "2", "3", "4")
    runs, excluded = indexed(tmp_path, dataset(tmp_path))
    assert sorted(runs) == ["sub-1_task-rest", "sub-4_task-rest"]
    assert sorted(excluded.values()) == ["damaged file", "no participants row", *["no repetition time"] * 2]
    giga_h5(tmp_path / "giga/atlas-Toy_desc-flat.h5", {"sub-4/sub-4_task-rest_atlas-Toy_desc-4": planted(5)})
    config = str(tmp_path / "config.yaml")
    receipt = tmp_path / "s/receipts/d/parcellate-00.json"
    manifest = str(tmp_path / "s/index/d/chunk-00.tsv")
    words = ["parcellate", "--config", config, "--dataset", "d", "--manifest", manifest, "--output", str(receipt)]
    assert main(words) == 0
    assert [row["reason"] for row in json.loads(receipt.read_text())["excluded"]] == ["changed since index"]


def test_mistakes_are_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_of_06(tmp_path, "sub-1_task-rest", planted(1))
    people(tmp_path / "giga", "1")
    with pytest.raises(InputError, match=f"found the atlases {ATLAS}"):
        indexed(tmp_path, dataset(tmp_path, select={"seg": "MIST"}))
    with pytest.raises(ConfigError, match="kind giga_connectome needs atlas"):
        indexed(tmp_path, dataset(tmp_path, atlas=None))
    with pytest.raises(InputError, match="expected what giga_connectome wrote"):
        indexed(
            tmp_path,
            dataset(tmp_path, path=str(tmp_path / "nowhere"), participants=str(tmp_path / "giga/participants.tsv")),
        )
    assert main(["index", "--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0

"""Ready-made series from a folder of tables, or a bank, to clean products."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from neuropipe.bids.index import read_tsv
from neuropipe.signals.regions import Regions
from neuropipe.stages import index, parcellate

OFF = dict.fromkeys(
    ["max_mean_fd_mm", "max_censored_share", "min_duration_s", "min_degrees_of_freedom", "max_missing_regions"]
)


def line(root: Path, dataset: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Index and clean a dataset of ready-made series; return the receipt."""
    content = {"study": "s", "datasets": {"d": {"kind": "series", "n_chunks": 1} | dataset}}
    content |= {"clean": {"strategy": "none"}, "exclude": OFF} | sections
    config = root / "config.yaml"
    config.write_text(yaml.safe_dump(content))
    index.run(config=str(config), dataset="d", output=str(root / "s/index/d"))
    receipt = root / "s/receipts/d/parcellate-00.json"
    manifest = str(root / "s/index/d/chunk-00.tsv")
    parcellate.run(config=str(config), dataset="d", manifest=manifest, output=str(receipt), derivatives=None, workers=1)
    return json.loads(receipt.read_text())


def series_of(root: Path, receipt: dict[str, Any]) -> dict[str, np.ndarray]:
    return {entry["run_id"]: np.load(root / "s" / entry["path"]) for entry in receipt["products"]}


def test_tables_are_filtered_resampled_and_standardised(tmp_path: Path) -> None:
    """A sine of the pass-band comes out at the new times, whatever drift and noise it came in with."""
    data = tmp_path / "tables"
    data.mkdir()
    times, frequency = np.arange(240) * 1.5, 0.05
    clean = np.cos(2 * np.pi * frequency * (times + 0.75))
    fast, drift = 3 * np.cos(2 * np.pi * 0.2 * times), 0.1 * times
    table = np.stack([clean + fast + drift, -clean + fast, np.full(240, 5.0)], axis=1)
    (data / "A_001_rois.1D").write_text("#1\t#2\t#3\n" + "\n".join("\t".join(map(str, row)) for row in table))
    (data / "participants.tsv").write_text("participant_id\tt_r\n001\t1.5\n")
    (tmp_path / "regions.tsv").write_text("index\tname\tnetwork\n1\ta\tX\n2\tb\tX\n3\tc\tY\n")
    receipt = line(tmp_path, {"path": str(data), "atlas": "mine", "regions": str(tmp_path / "regions.tsv")})
    found = series_of(tmp_path, receipt)["sub-001"]
    assert receipt["products"][0]["path"] == "derivatives/d/sub-001/func/sub-001_seg-mine_desc-clean_timeseries.npy"
    new_times = np.arange(len(found)) * 2.0
    expected = np.cos(2 * np.pi * frequency * (new_times + 0.75))
    assert len(found) == 180 and np.isnan(found[:, 2]).all()
    assert np.corrcoef(found[:, 0], expected)[0, 1] > 0.97 and np.corrcoef(found[:, 1], expected)[0, 1] < -0.97
    assert Regions.read(tmp_path / "s/derivatives/d/regions.tsv").networks == ["X", "Y"]
    about = json.loads((tmp_path / "s" / receipt["products"][0]["path"]).with_suffix(".json").read_text())
    assert about["Quality"]["mean_fd_mm"] is None and about["Quality"]["n_missing_regions"] == 1
    assert about["Inputs"].keys() == {"A_001_rois.1D"}
    coverage = read_tsv(tmp_path / "s" / receipt["products"][0]["path"].replace("timeseries.npy", "coverage.tsv"))
    assert set(coverage["coverage"]) == set(coverage["n_voxels"]) == {"n/a"}


def test_volumes_without_any_value_are_censored(tmp_path: Path) -> None:
    """XCP-D writes n/a where it censored."""
    data = tmp_path / "tables"
    data.mkdir()
    table = np.random.default_rng(0).normal(size=(200, 2)).astype(str)
    table[[50, 51]] = "n/a"
    (data / "1.tsv").write_text("a\tb\n" + "\n".join("\t".join(row) for row in table))
    (data / "participants.tsv").write_text("participant_id\n1\n")
    (tmp_path / "regions.tsv").write_text("index\tname\n1\ta\n2\tb\n")
    receipt = line(tmp_path, {"path": str(data), "regions": str(tmp_path / "regions.tsv"), "atlas": "m", "t_r": 2.0})
    about = json.loads((tmp_path / "s" / receipt["products"][0]["path"]).with_suffix(".json").read_text())
    assert about["CensoredVolumes"] == [50, 51] and about["Quality"]["censored_share"] == 0.01
    assert np.isfinite(series_of(tmp_path, receipt)["sub-1"]).all()


def test_tables_of_another_atlas_are_left_out(tmp_path: Path) -> None:
    data = tmp_path / "tables"
    data.mkdir()
    np.save(data / "1.npy", np.random.default_rng(0).normal(size=(200, 190)))
    (data / "participants.tsv").write_text("participant_id\n1\n")
    row = line(tmp_path, {"path": str(data), "atlas": "cc200", "t_r": 2.0})["excluded"][0]
    assert row["reason"] == "wrong regions" and "expected 200 columns" in row["detail"] and "found 190" in row["detail"]


@pytest.mark.realdata
def test_abide_bank_and_raw_tables_agree(published_data: Path, tmp_path: Path) -> None:
    """20 people lie there twice: as published, and z-scored in half precision in the bank.

    Of the bank they are taken together with everybody who has constant regions, which are missing.
    """
    source = published_data / "abide_cc200"
    people = read_tsv(source / "participants.tsv").set_index("participant_id")
    twice = {f"sub-{path.name.split('_rois')[0].split('_')[-1]}" for path in (source / "raw").glob("*.1D")}
    incomplete = people["n_constant_rois"] != "0"
    wanted = people[incomplete | people.index.isin(twice)]
    wanted.to_csv(tmp_path / "participants.tsv", sep="\t")
    found = {}
    for name, folder in {"bank": source, "raw": source / "raw"}.items():
        dataset = {"path": str(folder), "atlas": "cc200", "participants": str(tmp_path / "participants.tsv")}
        (tmp_path / name).mkdir()
        receipt = line(tmp_path / name, dataset)
        assert not receipt["excluded"]
        found[name] = series_of(tmp_path / name, receipt)
    assert found["bank"].keys() == set(wanted.index) and found["raw"].keys() == twice
    for person, series in found["bank"].items():
        last = (int(people.loc[person, "n_volumes"]) - 1) * float(people.loc[person, "t_r"])
        assert series.shape == (int(last / 2 + 1e-6) + 1, 200)
        assert np.isnan(series).any(axis=0).sum() == int(people.loc[person, "n_constant_rois"])
    for person, series in found["raw"].items():
        np.testing.assert_allclose(series, found["bank"][person], atol=0.02)
    assert incomplete.sum() == 34

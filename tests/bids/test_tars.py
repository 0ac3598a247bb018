"""Tars of learning-from-brains and shards of our own, read back as datasets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from doors_study import cleaned, configured, indexed, people, planted, recording, sharded, sidecar, tar

from neuropipe import config, doctor
from neuropipe.bids import tars
from neuropipe.cli import main
from neuropipe.errors import InputError, RunExcluded
from neuropipe.shards.read import Shards
from neuropipe.shards.sample import npy

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity" / "learning-from-brains"


def dataset(root: Path, **changes: object) -> dict:
    (root / "regions.tsv").write_text("index\tname\n" + "".join(f"{i}\tr{i}\n" for i in range(1, 5)))
    return {"kind": "tars", "path": str(root / "tars"), "regions": str(root / "regions.tsv")} | changes


def run(key: str, series: np.ndarray, t_r: float | None = 0.72, **labels: Any) -> dict[str, Any]:
    """Return the members of a sample."""
    members = {f"{key}.bold.pyd": series.astype(np.float32)}
    members |= {} if t_r is None else {f"{key}.t_r.pyd": np.float32(t_r)}
    return members | {f"{key}.{name}": value for name, value in labels.items()}


def test_the_planted_series_arrive_untouched(tmp_path: Path) -> None:
    """As they are, by default: these series are finished. Nobody has to write a participants.tsv."""
    series = {n: planted(n, n_volumes=200 + n) for n in (1, 2)}
    for n, values in series.items():
        key = f"ds-ds000009_sub-{n:02d}_task-rest_run-1"
        tar(tmp_path / f"tars/{key}.tar", run(key, values))
    shards = sharded(tmp_path, dataset(tmp_path))
    for n, values in series.items():
        np.testing.assert_array_equal(recording(shards, f"sub-{n:02d}_task-rest_run-1"), values.astype(np.float32))
    assert shards.manifest["t_r"].tolist() == [0.72, 0.72]  # not 0.7200000286102295, as float32 has it
    assert shards.participants.index.tolist() == ["sub-01", "sub-02"]
    assert shards.participants["dataset"].tolist() == ["ds000009"] * 2
    receipt = cleaned(tmp_path, dataset(tmp_path, as_is=False), clean={"strategy": "none", "t_r": None})
    about = sidecar(tmp_path, receipt, "sub-01_task-rest_run-1")
    assert about["PassBand"][1] <= 0.1 and about["Source"]["HighPass"] == 0.008


def test_trials_are_runs_with_labels(tmp_path: Path) -> None:
    members = {}
    for n, state in enumerate(("body", "faces"), start=1):
        labels = {"task_label.pyd": 6, "label_across_tasks.pyd": np.int32(14 + n), "mental_state": state.encode()}
        members |= run(f"ds-HCP_sub-100307_task-WM_run-1_sample_{n:03d}", planted(n, n_volumes=20), **labels)
    tar(tmp_path / "tars/ds-HCP_sub-100307_task-WM_run-1.tar", members)
    receipt = cleaned(tmp_path, dataset(tmp_path))
    stem = "sub-100307_task-WM_run-1_sample-00"
    labels = [sidecar(tmp_path, receipt, f"{stem}{n}")["Source"]["Labels"] for n in (1, 2)]
    assert labels[0] == {"task_label": 6, "label_across_tasks": 15, "mental_state": "body"}
    assert labels[1]["mental_state"] == "faces"
    runs, _ = indexed(tmp_path, dataset(tmp_path, select={"sample": "002"}))
    assert list(runs) == [f"{stem}2"] and runs[f"{stem}2"]["task"] == "WM"


def test_the_same_label_in_two_datasets_is_two_people(tmp_path: Path) -> None:
    for name in ("A", "B"):
        key = f"ds-{name}_sub-01_task-rest"
        tar(tmp_path / f"tars/{key}.tar", run(key, planted(1, n_volumes=40)))
    runs, _ = indexed(tmp_path, dataset(tmp_path))
    assert {row["participant_id"] for row in runs.values()} == {"sub-Ax01", "sub-Bx01"}
    runs, _ = indexed(tmp_path, dataset(tmp_path, select={"dataset": "B"}))
    assert list(runs) == ["sub-01_task-rest"]
    people(tmp_path / "tars", "Ax01")
    runs, excluded = indexed(tmp_path, dataset(tmp_path))
    assert list(runs) == ["sub-Ax01_task-rest"] and list(excluded.values()) == ["no participants row"]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path) -> None:
    good, folder = planted(1, n_volumes=40), tmp_path / "tars"
    samples = {
        "ds-A_sub-01_task-a": run("ds-A_sub-01_task-a", good),
        "ds-A_sub-02_task-a": {
            "ds-A_sub-02_task-a.bold.pyd": Evil(tmp_path / "ran"),
            "ds-A_sub-02_task-a.t_r.pyd": 2.0,
        },
        "ds-A_sub-03_task-a": run("ds-A_sub-03_task-a", good) | {"ds-A_sub-03_task-a.t_r.pyd": Evil(tmp_path / "ran")},
        "ds-A_sub-04_task-a": run("ds-A_sub-04_task-a", good, None),
        "ds-A_sub-05_task-a": {"ds-A_sub-05_task-a.jpg": b"\xff\xd8"},
        "ds-A_sub-06_task-a": run("ds-A_sub-06_task-a", good[0]),
        "ds-A_sub-07_task-a": {"ds-A_sub-07_task-a.bold.pyd": b"no pickle", "ds-A_sub-07_task-a.t_r.pyd": 2.0},
        "ds-A_task-a": run("ds-A_task-a", good),
        "ds-A_sub-08_task-a": run("ds-A_sub-08_task-a", good, -1),
    }
    for key, members in samples.items():
        tar(folder / f"{key}.tar", members)
    tar(folder / "again.tar", run("ds-A_sub-09_task-a", good))
    tar(folder / "and again.tar", run("ds-A_sub-09_task-a", good))
    whole = (folder / "ds-A_sub-01_task-a.tar").read_bytes()
    for n_bytes in (700, 2000, 2100):  # in an array, in a header, in a number
        (folder / f"cut-{n_bytes}.tar").write_bytes(whole[:n_bytes])
    (folder / "ds-A_sub-01_task-a.tar").write_bytes(whole[:2560])  # no end mark: its writer was never closed
    (folder / "text.tar").write_text("no tar" * 200)
    (folder / "link.tar").symlink_to("nowhere")
    runs, excluded = indexed(tmp_path, dataset(tmp_path))
    assert list(runs) == ["sub-01_task-a"] and not (tmp_path / "ran").exists()
    by_key = {path.rpartition(":")[2]: reason for path, reason in excluded.items()}
    assert by_key == {
        "ds-A_sub-02_task-a": "unsafe or damaged pickle",
        "ds-A_sub-03_task-a": "unsafe or damaged pickle",
        "ds-A_sub-04_task-a": "no repetition time",
        "ds-A_sub-05_task-a": "no series",
        "ds-A_sub-06_task-a": "damaged table",
        "ds-A_sub-07_task-a": "unsafe or damaged pickle",
        "ds-A_task-a": "no subject",
        "ds-A_sub-08_task-a": "no repetition time",
        "again.tar": "ambiguous",
        "and again.tar": "ambiguous",
        "cut-700.tar": "damaged tar",
        "cut-2000.tar": "damaged tar",
        "cut-2100.tar": "damaged tar",
        "text.tar": "damaged tar",
        "link.tar": "not fetched",
    }
    runs, _ = indexed(tmp_path, dataset(tmp_path, t_r=2.0))
    assert {row["run_id"]: row["t_r"] for row in runs.values()} == {"sub-01_task-a": "0.72", "sub-04_task-a": "2.0"}


def test_a_tar_that_changed_is_noticed(tmp_path: Path) -> None:
    key = "ds-A_sub-01_task-a"
    tar(tmp_path / "tars/x.tar", run(key, planted(1, n_volumes=40)))
    runs, _ = indexed(tmp_path, dataset(tmp_path))
    tar(tmp_path / "tars/x.tar", run(key, planted(2, n_volumes=40)))
    with pytest.raises(RunExcluded, match="changed since index"):
        tars.read(tmp_path / "tars", runs["sub-01_task-a"])


def test_the_doctor_looks_through_the_doors(tmp_path: Path) -> None:
    tar(tmp_path / "tars/x.tar", run("ds-A_sub-01_task-a", planted(1, n_volumes=40)))
    study = config.load(configured(tmp_path, dataset(tmp_path)))
    found = {check.name: check for check in doctor.check_dataset(study, "d")[0]}
    assert all(check.ok for check in found.values())
    assert found["people d"].found.startswith("1 in ") and found["data d"].found.startswith("1 runs of 1 people")


def test_mistakes_are_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(InputError, match=r"expected a folder of \.tar files"):
        indexed(tmp_path, dataset(tmp_path))
    assert main(["index", "--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    tar(tmp_path / "tars/x.tar", run("ds-A_sub-01_task-a", planted(1, n_volumes=40)[:, :3]))
    [row] = cleaned(tmp_path, dataset(tmp_path))["excluded"]
    assert row["reason"] == "wrong regions"


def test_shards_of_our_own_come_back(tmp_path: Path, toy_shards: Shards) -> None:
    """Values, missing regions, censored samples, people, runs and regions."""
    index = toy_shards.folder.parents[1] / "index/toy/participants.tsv"
    own = {"kind": "tars", "path": str(toy_shards.folder), "participants": str(index)}
    again = sharded(tmp_path, own, shards={"dtype": "float16"})
    assert again.regions.order_hash == toy_shards.regions.order_hash
    columns = ["run_id", "participant_id", "t_r", "n_timepoints", "n_valid_regions", "sha256", "mean_fd"]
    ours, theirs = (s.manifest.sort_values("run_id", ignore_index=True)[columns] for s in (again, toy_shards))
    pd.testing.assert_frame_equal(ours, theirs)
    assert (ours["n_valid_regions"] < 9).sum() == 1


def test_damaged_shards_of_our_own_are_left_out(tmp_path: Path) -> None:
    series = npy(planted(1, n_volumes=40))
    facts = {"participant_id": "sub-1", "run_id": "sub-1_task-a", "t_r": 2.0}
    damages = {
        "mask": {"valid.npy": npy(np.ones(3, dtype=bool)), "json": json.dumps(facts).encode()},
        "censored": {"json": json.dumps(facts | {"censored": [99], "run_id": "sub-1_task-b"}).encode()},
        "json": {"json": b"["},
        "npy": {"series.npy": series[:-1], "json": json.dumps(facts).encode()},
    }
    for name, members in damages.items():
        whole = {"series.npy": series, **members}
        tar(tmp_path / f"tars/{name}.tar", {f"d_sub-1_task-{name}.{part}": content for part, content in whole.items()})
    _, excluded = indexed(tmp_path, dataset(tmp_path))
    assert sorted(excluded.values()) == ["damaged table", "damaged tar"]
    receipt = cleaned(tmp_path, dataset(tmp_path))
    assert not receipt["products"] and [row["reason"] for row in receipt["excluded"]] == ["damaged tar"] * 2


def test_the_scanners_repetition_time_is_not_that_of_resampled_shards(tmp_path: Path, toy_shards: Shards) -> None:
    people(tmp_path, *(f"{n:02d}" for n in range(12)), t_r=["0.8"] * 12)
    own = {"kind": "tars", "path": str(toy_shards.folder), "participants": str(tmp_path / "participants.tsv")}
    runs, excluded = indexed(tmp_path, own)
    assert {row["t_r"] for row in runs.values()} == {"2.0"} and not excluded


def test_shards_of_other_regions_are_left_out(tmp_path: Path, toy_shards: Shards) -> None:
    own = {"kind": "tars", "participants": str(toy_shards.folder.parents[1] / "index/toy/participants.tsv")}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    again = sharded(tmp_path / "a", own | {"path": str(toy_shards.folder)})  # these say which order they have
    table = again.folder / "regions.tsv"
    table.write_text(table.read_text().replace("toy\t1\t", "other\t1\t"))
    receipt = cleaned(tmp_path / "b", own | {"path": str(again.folder)})
    assert not receipt["products"] and {row["reason"] for row in receipt["excluded"]} == {"wrong regions"}


@pytest.mark.skipif(not PARITY.is_dir(), reason=f"the parity tars are not at {PARITY}")
def test_the_published_tars(tmp_path: Path) -> None:
    """Members, keys, labels and values as their own reader gives them."""
    cases = [case for case in json.loads((PARITY / "cases.json").read_text())["cases"] if case["kind"] == "tar"]
    assert len(cases) == 2
    for case in cases:
        path = PARITY / case["inputs"]["tar"]["file"]
        found = list(tars.samples(path))
        assert [sample.key for sample in found] == case["expected"]["sample_keys"]["value"]
        names = [f"{sample.key}.{part}" for sample in found for part in sample.members]
        assert names == case["expected"]["members"]["value"]
        one_tar = {"kind": "tars", "path": str(path), "regions": str(tmp_path / "16.tsv")}
        (tmp_path / "16.tsv").write_text("index\tname\n" + "".join(f"{i}\tr{i}\n" for i in range(1, 17)))
        receipt = cleaned(tmp_path, one_tar)
        assert len(receipt["products"]) == len(found)
        for product, expected in zip(receipt["products"], case["expected"]["samples"]["value"], strict=True):
            series, bold = np.load(tmp_path / "s" / product["path"]), expected["bold.pyd"]
            assert list(series.shape) == bold["shape"] and str(series.dtype) == bold["dtype"]
            np.testing.assert_allclose(series.ravel()[:4], bold["first"], atol=1e-6)
            assert series.sum() == pytest.approx(bold["sum"], abs=1e-3)
            about = sidecar(tmp_path, receipt, product["run_id"])
            assert about["RepetitionTime"] == expected["t_r.pyd"]
            labels = {
                name.removesuffix(".pyd"): v for name, v in expected.items() if name not in ("bold.pyd", "t_r.pyd")
            }
            assert about["Source"].get("Labels", {}) == labels

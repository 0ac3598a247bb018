"""The layouts of y-Aware (data.npy, metadata.csv) and of OpenBHB (an array per person)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doors_study import indexed, people, scans

from neuropipe import config
from neuropipe.bids import doors, maps, yaware_layout
from neuropipe.errors import InputError, RunExcluded

SHAPE = (5, 6, 4)


def volumes(n: int = 4, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(0).random((n, 1, *SHAPE)).astype(dtype)


# --- y-Aware ------------------------------------------------------------------------------------


def bank(root: Path, array: np.ndarray, *lines: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / "data.npy", array)
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")


def yaware(root: Path, **changes: Any) -> tuple[dict, dict, dict]:
    return scans(root / "study", {"kind": "yaware", "path": str(root)} | changes)


@pytest.mark.parametrize("channel", [True, False])
def test_row_i_is_volume_i(tmp_path: Path, channel: bool) -> None:
    array = volumes()
    bank(tmp_path, array if channel else array[:, 0], "age,participant_id", "30,B", "40,A", ",C", "50,D")
    runs, excluded, read = yaware(tmp_path)
    assert {run_id: row["offset"] for run_id, row in runs.items()} == {
        "sub-B": "0",
        "sub-A": "1",
        "sub-C": "2",
        "sub-D": "3",
    }
    assert not excluded and all(row["image"] == "data.npy" for row in runs.values())
    np.testing.assert_array_equal(read["sub-A"].array, array[1, 0].astype(np.float32))
    assert read["sub-A"].modulated and read["sub-A"].affine is None
    table, where = doors.people(config.Dataset(kind="yaware", path=str(tmp_path)))
    assert where is None and table["age"].tolist() == ["30", "40", "n/a", "50"]
    assert set(yaware(tmp_path, path=str(tmp_path / "data.npy"))[0]) == set(runs)


def test_without_ids_rows_are_numbered_people(tmp_path: Path) -> None:
    bank(tmp_path, volumes(3), "age", "30", "40", "50")
    runs, _, _ = yaware(tmp_path)
    assert [runs[f"sub-{i}"]["offset"] for i in (1, 2, 3)] == ["0", "1", "2"]


def test_rows_of_one_person_are_sessions_or_counted_runs(tmp_path: Path) -> None:
    bank(tmp_path, volumes(), "participant_id,session,age", "A,1,30", "A,m 12,31", "B,1,40", "B,1,40")
    runs, excluded, _ = yaware(tmp_path)
    assert set(runs) == {"sub-A_ses-1", "sub-A_ses-m12"} and excluded == {"2": "ambiguous", "3": "ambiguous"}
    table, _ = doors.people(config.Dataset(kind="yaware", path=str(tmp_path)))
    assert table["participant_id"].tolist() == ["sub-A", "sub-B"] and table["age"].tolist() == ["n/a", "40"]
    bank(tmp_path, volumes(), "participant_id", "A", "B", "A", "C")
    assert set(yaware(tmp_path)[0]) == {"sub-A_run-1", "sub-A_run-2", "sub-B", "sub-C"}


def test_volumes_that_hold_nothing_are_left_out(tmp_path: Path) -> None:
    array = volumes()
    array[0] = np.nan
    array[1] = 0
    bank(tmp_path, array, "participant_id,age", "A,1", "B,2", "C,3", ",4")
    _, excluded, read = yaware(tmp_path)
    assert set(read) == {"sub-C"} and excluded["data.npy[3]"] == "no person"
    runs = indexed(tmp_path / "study", {"kind": "yaware", "path": str(tmp_path)})[0]
    section = config.Dataset(kind="yaware", path=str(tmp_path))
    for one, reason in (("sub-A", "not finite"), ("sub-B", "constant")):
        with pytest.raises(RunExcluded) as error:
            yaware_layout.read(tmp_path, runs[one], section)
        assert error.value.reason == reason


def test_a_bank_is_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank(tmp_path, volumes(), "participant_id", *"ABCD")
    modes = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda *args, **named: modes.append(named.get("mmap_mode")) or load(*args, **named))
    yaware(tmp_path)
    assert set(modes) == {"r"}


def test_a_changed_row_is_noticed(tmp_path: Path) -> None:
    array = volumes()
    bank(tmp_path, array, "participant_id", *"ABCD")
    runs, _, _ = yaware(tmp_path)
    array[1] += 1
    np.save(tmp_path / "data.npy", array)
    section = config.Dataset(kind="yaware", path=str(tmp_path))
    yaware_layout.read(tmp_path, runs["sub-A"], section)
    with pytest.raises(RunExcluded, match="not what was indexed"):
        yaware_layout.read(tmp_path, runs["sub-B"], section)
    np.save(tmp_path / "data.npy", array[:1])
    with pytest.raises(RunExcluded, match="index again"):
        yaware_layout.read(tmp_path, runs["sub-B"], section)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 2, *SHAPE)), r"expected numbers of shape \(N, 1, x, y, z\)"),
        (np.zeros((3, 7)), "expected numbers of shape"),
        (np.zeros((2, 1, *SHAPE)), "holds 2 volumes, but .* has 3 rows"),
        (np.array([{}, {}, {}]), "is not an array of numbers"),  # a pickle, which is not opened
    ],
)
def test_banks_of_another_form_are_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    bank(tmp_path, array, "participant_id", "A", "B", "C")
    with pytest.raises(InputError, match=words):
        yaware(tmp_path)


def test_the_grid_of_cat12_has_an_affine() -> None:
    """The first voxel lies at -90, -126, -72 mm and the last at 90, 90, 108: CAT12's bounding box."""
    affine = maps.affine_of((121, 145, 121))
    np.testing.assert_array_equal(affine @ [0, 0, 0, 1], [-90, -126, -72, 1])
    np.testing.assert_array_equal(affine @ [120, 144, 120, 1], [90, 90, 108, 1])
    assert maps.affine_of((113, 137, 113)) is None


# --- OpenBHB ------------------------------------------------------------------------------------


def openbhb(root: Path, **changes: Any) -> tuple[dict, dict, dict]:
    return scans(root / "study", {"kind": "openbhb", "path": str(root)} | changes)


def person(root: Path, label: str, array: np.ndarray, split: str = "train", flat: bool = False) -> Path:
    folder = root / split / ("" if flat else f"derivatives/sub-{label}/ses-1")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sub-{label}_preproc-cat12vbm_desc-gm_T1w.npy"
    np.save(path, array)
    np.save(folder / f"sub-{label}_preproc-quasiraw_T1w.npy", array)
    return path


def test_openbhb_with_a_table_per_split(tmp_path: Path) -> None:
    array = volumes(2, np.float32)
    person(tmp_path, "100", array[:1])
    person(tmp_path, "200", array[1:], "val")
    people(tmp_path / "train", "100", age=["30.5"], siteXacq=["7"])
    people(tmp_path / "val", "200", age=["40"], siteXacq=["8"])
    runs, excluded, read = openbhb(tmp_path)
    assert set(runs) == {"sub-100_ses-1", "sub-200_ses-1"} and not excluded
    np.testing.assert_array_equal(read["sub-200_ses-1"].array, array[1, 0])
    assert read["sub-200_ses-1"].modulated
    table, _ = doors.people(config.Dataset(kind="openbhb", path=str(tmp_path)))
    assert table[["split", "site"]].to_numpy().tolist() == [["train", "7"], ["val", "8"]]
    assert set(openbhb(tmp_path, select={"split": "val"})[0]) == {"sub-200_ses-1"}


def test_flat_openbhb_and_what_is_left_out(tmp_path: Path) -> None:
    person(tmp_path, "1", volumes(1)[0, 0], ".", flat=True)
    person(tmp_path, "2", np.full((1, 1, *SHAPE), np.nan), ".", flat=True)
    person(tmp_path, "3", volumes(2), ".", flat=True)
    cut = person(tmp_path, "4", volumes(1), ".", flat=True)
    cut.write_bytes(cut.read_bytes()[:-8])
    person(tmp_path, "5", volumes(1), ".", flat=True)
    person(tmp_path, "5", volumes(1), "again", flat=True)
    people(tmp_path, *"12345", split=["train"] * 5)
    _, excluded, read = openbhb(tmp_path)
    assert set(read) == {"sub-1_ses-1"} and read["sub-1_ses-1"].array.shape == SHAPE
    assert {place.partition("_")[0]: reason for place, reason in excluded.items()} == {
        "sub-2": "not finite",
        "sub-3": "not a map",
        "sub-4": "damaged image",
        "sub-5": "ambiguous",
        "again/sub-5": "ambiguous",
    }


def test_openbhb_tables_that_disagree(tmp_path: Path) -> None:
    person(tmp_path, "1", volumes(1))
    people(tmp_path / "train", "1", split=["train"])
    people(tmp_path / "val", "1", split=["internal_test"])
    with pytest.raises(InputError, match="say different things of sub-1"):
        openbhb(tmp_path)
    people(tmp_path / "val", "1", split=["train"])
    assert set(openbhb(tmp_path)[0]) == {"sub-1_ses-1"}


def test_nothing_of_openbhb(tmp_path: Path) -> None:
    people(tmp_path, "1")
    with pytest.raises(InputError, match="holds no sub-"):
        openbhb(tmp_path)

"""Ready-made series: tables and banks, whose they are, and which column is which region."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from neuropipe.bids import series, series_tables
from neuropipe.bids.index import Found
from neuropipe.bids.ready import Search
from neuropipe.errors import InputError, RunExcluded

VALUES = np.round(np.random.default_rng(0).normal(size=(12, 3)), 6)


def lines(values: np.ndarray, separator: str) -> str:
    return "\n".join(separator.join(f"{v:.6f}" for v in row) for row in values) + "\n"


def people(*ids: str, **columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"participant_id": [f"sub-{label}" for label in ids], **columns})


def found(path: Path, table: pd.DataFrame, select: dict[str, Any] | None = None, t_r: float | None = 2.0) -> Found:
    return series.find(path, Search.of(series.data_root(path), "toy", select or {}, table, t_r, 2))


def reasons(result: Found) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in result.excluded}


# --- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("x.1D", "#1\t#2\t#3\n" + lines(VALUES, "\t"), ["1", "2", "3"]),
        ("x.1D", "# 3dROIstats\n# by someone\n" + lines(VALUES, " "), []),
        ("x.1D", "# a b c\n" + lines(VALUES, "  "), ["a", "b", "c"]),
        ("x.tsv", "LH_Vis\tRH_Vis\tLH_Mot\n" + lines(VALUES, "\t"), ["LH_Vis", "RH_Vis", "LH_Mot"]),
        ("x.csv", lines(VALUES, ","), []),
        ("x.tsv", "0\t1\t2\n" + lines(VALUES, "\t"), []),  # pandas counts columns that have no names
        ("x.csv", "0,1,2\n" + lines(VALUES, ","), []),
        ("x.csv", '"a","b","c"\n' + lines(VALUES, ", "), ["a", "b", "c"]),
        ("x.tsv", "\ufeffa\tb\tc\r\n" + lines(VALUES, "\t").replace("\n", "\r\n"), ["a", "b", "c"]),
    ],
)
def test_forms_of_tables(tmp_path: Path, name: str, text: str, names: list[str]) -> None:
    (tmp_path / name).write_bytes(text.encode())
    values, header = series_tables.read_table(tmp_path / name)
    np.testing.assert_array_equal(values, VALUES)
    assert header == names


def test_arrays_and_missing_values(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES.astype(np.float16))
    values, header = series_tables.read_table(tmp_path / "x.npy")
    assert values.dtype == np.float64 and header == []
    np.testing.assert_array_equal(values, VALUES.astype(np.float16))
    (tmp_path / "x.tsv").write_text("a\tb\n1\tn/a\n\t4\n")
    np.testing.assert_array_equal(series_tables.read_table(tmp_path / "x.tsv")[0], [[1, np.nan], [np.nan, 4]])


@pytest.mark.parametrize("content", [b"", b"a\tb\n", b"a\tb\n1\t2\n3\n", b"a\tb\n1\tx\n", b"\xff\xfe\x00\x01", b"a\n"])
def test_files_that_are_no_tables(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tsv").write_bytes(content)
    with pytest.raises(RunExcluded, match=r"damaged table: x\.tsv"):
        series_tables.read_table(tmp_path / "x.tsv")
    np.save(tmp_path / "x.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(RunExcluded, match=r"damaged table: x\.npy"):
        series_tables.read_table(tmp_path / "x.npy")


def test_columns_go_to_the_regions_of_their_names() -> None:
    labels, names = [10, 20, 30, 40], ["a", "b", "c", "d"]
    by_name = series_tables.align(VALUES, ["c", "a", "d"], labels, names)
    np.testing.assert_array_equal(by_name[:, [2, 0, 3]], VALUES)
    assert np.isnan(by_name[:, 1]).all()
    # Craddock's atlas with gaps: the header numbers the labels that are there.
    by_label = series_tables.align(VALUES, ["10", "30", "40"], labels, names)
    np.testing.assert_array_equal(by_label[:, [0, 2, 3]], VALUES)
    assert np.isnan(by_label[:, 1]).all()


def test_columns_without_known_names_must_be_as_many_as_regions() -> None:
    np.testing.assert_array_equal(series_tables.align(VALUES, [], [1, 2, 3], ["a", "b", "c"]), VALUES)
    np.testing.assert_array_equal(series_tables.align(VALUES, ["x", "y", "z"], [1, 2, 3], ["a", "b", "c"]), VALUES)
    with pytest.raises(RunExcluded, match=r"wrong regions: expected 4 columns \(a \.\.\. d\), found 3"):
        series_tables.align(VALUES, [], [1, 2, 3, 4], ["a", "b", "c", "d"])
    with pytest.raises(RunExcluded, match="no region is called 9"):  # labels of another atlas, though as many
        series_tables.align(VALUES, ["1", "2", "9"], [1, 2, 3], ["a", "b", "c"])


# --- whose table --------------------------------------------------------------------------------


def test_people_are_matched_by_whole_ids_only(tmp_path: Path) -> None:
    for name in ("NYU_0051_rois_cc200.1D", "NYU_00517_rois_cc200.1D", "UM_1_0052_rois_cc200.1D", "7.csv", "77.csv"):
        (tmp_path / name).write_text(lines(VALUES, "\t"))
    result = found(tmp_path, people("0051", "0052", "7", file_id=["n/a", "UM_1_0052", "n/a"]))
    owners = {row["image"]: row["participant_id"] for row in result.runs}
    assert owners == {
        "NYU_0051_rois_cc200.1D": "sub-0051",
        "UM_1_0052_rois_cc200.1D": "sub-0052",
        "7.csv": "sub-7",
    }
    assert reasons(result) == dict.fromkeys(["NYU_00517_rois_cc200.1D", "77.csv"], "no participants row")


def test_a_name_that_fits_two_people_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "1_2.csv").write_text(lines(VALUES, ","))
    assert reasons(found(tmp_path, people("1", "2"))) == {"1_2.csv": "ambiguous"}
    result = found(tmp_path, people("1", "2", file_id=["1_2", "2_1"]))
    assert [row["participant_id"] for row in result.runs] == ["sub-1"]


def test_two_tables_of_one_run_are_both_left_out(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "01.csv").write_text(lines(VALUES, ","))
    assert reasons(found(tmp_path, people("01"))) == {"a/01.csv": "ambiguous", "b/01.csv": "ambiguous"}


def test_an_xcpd_folder(tmp_path: Path) -> None:
    """Several atlases per run, confounds beside them: a selection says which tables are meant."""
    func = tmp_path / "sub-01" / "ses-a" / "func"
    func.mkdir(parents=True)
    stem = "sub-01_ses-a_task-rest_run-02_space-MNI152NLin6Asym_seg-"
    for atlas in ("Glasser", "Tian"):
        (func / f"{stem}{atlas}_stat-mean_timeseries.tsv").write_text("a\tb\tc\n" + lines(VALUES, "\t"))
        (func / f"{stem}{atlas}_stat-mean_timeseries.json").write_text(json.dumps({"RepetitionTime": 0.8}))
        (func / f"{stem}{atlas}_stat-coverage_bold.tsv").write_text("a\tb\tc\n1\t1\t1\n")
    (func / "sub-01_ses-a_task-rest_run-02_desc-confounds_timeseries.tsv").write_text("trans_x\n1\n")
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n")
    assert set(reasons(found(tmp_path, people("01"))).values()) == {"ambiguous"}
    result = found(tmp_path, people("01"), {"segmentation": "Tian"}, t_r=None)
    assert not result.excluded and len(result.runs) == 1
    row = result.runs[0]
    assert (row["run_id"], row["session"], row["task"], row["run"]) == (
        "sub-01_ses-a_task-rest_run-02",
        "a",
        "rest",
        "02",
    )
    assert (row["t_r"], row["n_volumes"], row["space"]) == ("0.8", "12", "MNI152NLin6Asym")


def test_where_the_repetition_time_comes_from(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text(lines(VALUES, ","))
    sidecar = tmp_path / "1.json"
    assert found(tmp_path, people("1"), t_r=1.5).runs[0]["t_r"] == "1.5"
    assert found(tmp_path, people("1", t_r=["2.5"]), t_r=1.5).runs[0]["t_r"] == "2.5"
    sidecar.write_text('{"RepetitionTime": 3}')
    assert found(tmp_path, people("1", t_r=["n/a"]), t_r=1.5).runs[0]["t_r"] == "3.0"
    assert reasons(found(tmp_path, people("1", t_r=["2.5"]))) == {"1.csv": "repetition time mismatch"}
    sidecar.write_text("[")
    assert reasons(found(tmp_path, people("1"))) == {"1.csv": "damaged sidecar"}
    sidecar.unlink()
    assert reasons(found(tmp_path, people("1"), t_r=None)) == {"1.csv": "no repetition time"}


def test_tables_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("not, numbers\nat, all\n")
    (tmp_path / "2.csv").symlink_to("nowhere")
    assert reasons(found(tmp_path, people("1", "2"))) == {"1.csv": "damaged table", "2.csv": "not fetched"}


def test_tables_of_another_suffix_are_named_and_can_be_selected(tmp_path: Path) -> None:
    for name in ("sub-1_ts.tsv", "sub-2_task-rest_ts.tsv", "sub-2_task-rest_events.tsv"):
        (tmp_path / name).write_text("a\tb\tc\n" + lines(VALUES, "\t"))
    with pytest.raises(
        InputError, match=r"expected tables sub-\*_timeseries, found \*_ts \(2\), \*_events .*suffix: ts"
    ):
        found(tmp_path, people("1", "2"))
    result = found(tmp_path, people("1", "2"), {"suffix": "ts"})
    assert [row["run_id"] for row in result.runs] == ["sub-1", "sub-2_task-rest"] and not result.excluded
    (tmp_path / "sub-2_task-rest_timeseries.tsv").write_text("a\tb\tc\n" + lines(VALUES, "\t"))
    assert [row["run_id"] for row in found(tmp_path, people("1", "2")).runs] == ["sub-2_task-rest"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a folder of tables or a bank series\.npz"):
        found(tmp_path / "nowhere", people("1"))


# --- banks --------------------------------------------------------------------------------------


def write_bank(folder: Path, lengths: list[int], ids: list[str]) -> np.ndarray:
    bold = np.random.default_rng(1).normal(size=(sum(lengths), 3)).astype(np.float16)
    np.savez_compressed(folder / "series.npz", bold=bold, offsets=np.cumsum([0, *lengths]))
    (folder / "participants.tsv").write_text("participant_id\n" + "".join(f"{label}\n" for label in ids))
    return bold


def test_a_banks_series_are_in_the_order_of_its_participants(tmp_path: Path) -> None:
    bold = write_bank(tmp_path, [5, 7, 4], ["c", "a", "b"])
    result = found(tmp_path, people("a", "c"))  # the configured table: another order, one person fewer
    rows = {row["participant_id"]: row for row in result.runs}
    assert {k: (row["offset"], row["n_volumes"]) for k, row in rows.items()} == {
        "sub-a": ("5", "7"),
        "sub-c": ("0", "5"),
    }
    assert [(row["participant_id"], row["reason"]) for row in result.excluded] == [("sub-b", "no participants row")]
    values, names = series_tables.read_run(tmp_path, rows["sub-a"])
    np.testing.assert_array_equal(values, bold[5:12])
    assert names == []
    assert found(tmp_path / "series.npz", people("a")).runs[0] == rows["sub-a"]


def test_a_persons_fingerprint_is_that_of_the_own_rows(tmp_path: Path) -> None:
    write_bank(tmp_path, [5, 7], ["a", "b"])
    before = {row["participant_id"]: row["fingerprint"] for row in found(tmp_path, people("a", "b")).runs}
    with np.load(tmp_path / "series.npz") as bank:
        bold, offsets = bank["bold"], bank["offsets"]
    bold[0] += 1
    np.savez_compressed(tmp_path / "series.npz", bold=bold, offsets=offsets)
    after = {row["participant_id"]: row["fingerprint"] for row in found(tmp_path, people("a", "b")).runs}
    assert before["sub-a"] != after["sub-a"] and before["sub-b"] == after["sub-b"]


def test_banks_that_do_not_fit(tmp_path: Path) -> None:
    write_bank(tmp_path, [5, 7], ["a", "b", "c"])
    with pytest.raises(InputError, match=r"holds 2 series, but .*participants\.tsv has 3 rows"):
        found(tmp_path, people("a", "b", "c"))
    np.savez(tmp_path / "series.npz", bold=np.zeros((12, 3)), offsets=[0, 5, 11])
    with pytest.raises(InputError, match="expected offsets that rise from 0 to the 12 rows"):
        found(tmp_path, people("a", "b"))
    np.savez(tmp_path / "series.npz", bold=np.zeros((12, 3)))
    with pytest.raises(InputError, match="is not a bank of series"):
        found(tmp_path, people("a", "b"))


def test_lengths_that_disagree(tmp_path: Path) -> None:
    write_bank(tmp_path, [5, 7], ["a", "b"])
    result = found(tmp_path, people("a", "b", n_volumes=["5", "8"]))
    assert [row["reason"] for row in result.excluded] == ["length mismatch"]

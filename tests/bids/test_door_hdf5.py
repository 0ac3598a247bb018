"""The HDF5 layout of Brain-Semantoks as a dataset: our own file comes back as it was, and others' are read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from doors_study import cleaned, indexed, people, planted, recording, sharded, sidecar, zscored

from neuropipe.bids import hdf5 as door
from neuropipe.cli import main
from neuropipe.errors import InputError, RunExcluded
from neuropipe.shards.read import Shards
from neuropipe.stages import hdf5

ATLASES = ["tian-s1", "buckner7"]


def other(path: Path, series: dict[str, np.ndarray], **tables: object) -> None:
    """Write a file as others do: alphabetical groups, NaN at the end, labels where they like."""
    longest = max(len(values) for values in series.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for atlas, start, size in (("tian-s1", 0, 16), ("buckner7", 16, 7)):
            stored = np.full((len(series), size, longest), np.nan, dtype=np.float32)
            for i, values in enumerate(series.values()):
                stored[i, :, : len(values)] = values[:, start : start + size].T
            file[f"timeseries/{atlas}"] = stored
        file["long_subject_id"] = np.array([name.partition("/")[0].encode() for name in series])
        for name, values in tables.items():
            file[name] = values


def dataset(root: Path, **changes: object) -> dict:
    tian = "".join(f"{i}\ttian-s1\tt{i}\n" for i in range(1, 17))
    buckner = "".join(f"{16 + i}\tbuckner7\tb{i}\n" for i in range(1, 8))
    (root / "regions.tsv").write_text("index\tatlas\tname\n" + tian + buckner)
    return {"kind": "hdf5", "path": str(root / "h/x.h5"), "regions": str(root / "regions.tsv"), "t_r": 2.0} | changes


def test_our_own_file_comes_back_as_it_was(tmp_path: Path, toy_shards: Shards) -> None:
    """dataset.h5 with the region table beside it: same series, missing regions, lengths, people, repetition time."""
    hdf5.run(shards=toy_shards.folder, participants=None, output=toy_shards.folder / "dataset.h5")
    again = sharded(
        tmp_path, {"kind": "hdf5", "path": str(toy_shards.folder / "dataset.h5")}, shards={"dtype": "float16"}
    )
    assert again.regions.order_hash == toy_shards.regions.order_hash
    columns = ["participant_id", "t_r", "n_timepoints", "n_valid_regions", "sha256"]
    order = ["participant_id", "run_id"]  # a file of this layout knows no runs: they are counted per person
    ours, theirs = (s.manifest.sort_values(order, ignore_index=True)[columns] for s in (again, toy_shards))
    pd.testing.assert_frame_equal(ours, theirs)
    assert set(again.manifest["run_id"].head(4)) == {f"sub-0{n}_run-{run}" for n in (0, 1) for run in (1, 2)}
    people = toy_shards.participants.loc[again.participants.index]
    assert again.participants["age"].tolist() == people["age"].tolist()
    assert again.participants["site"].tolist() == people["site"].tolist()


def test_the_planted_series_of_others_arrive(tmp_path: Path) -> None:
    """In the order of the configured atlases, not of the file's groups; one person has two recordings."""
    series = {"A1": planted(1, 23, 160), "B-2": planted(2, 23, 140), "A1/b": planted(3, 23, 160)}
    other(tmp_path / "h/x.h5", series, sex_bi=np.array([0, 1, 0]), **{"labels/age": np.array([20.5, np.nan, 21.5])})
    shards = sharded(tmp_path, dataset(tmp_path))
    expected = {"sub-A1_run-1": "A1", "sub-B2": "B-2", "sub-A1_run-2": "A1/b"}
    for run_id, name in expected.items():
        np.testing.assert_array_equal(recording(shards, run_id), series[name].astype(np.float32))
    assert shards.regions.atlases == ATLASES
    assert shards.participants["sex_bi"].to_dict() == {"sub-A1": 0, "sub-B2": 1}
    assert shards.participants["age"].isna().all()  # unknown, and two that disagree
    cleaned_too = sharded(tmp_path, dataset(tmp_path, as_is=False))
    np.testing.assert_allclose(recording(cleaned_too, "sub-B2"), zscored(series["B-2"]), atol=1e-5)


def test_zero_tails_and_missing_regions(tmp_path: Path) -> None:
    series = {"1": planted(1, 23, 60), "2": planted(2, 23, 60)}
    series["1"][40:] = 0
    series["2"][:, [0, 20]] = np.nan  # the very first region too
    series["2"][:, 5] = 3.0
    other(tmp_path / "h/x.h5", series, ts_len=np.array([40, 60]))
    shards = sharded(tmp_path, dataset(tmp_path))
    assert shards.manifest["n_timepoints"].tolist() == [40, 60]
    assert np.flatnonzero(np.isnan(recording(shards, "sub-2")).any(axis=0)).tolist() == [0, 5, 20]


def test_people_may_have_a_table(tmp_path: Path) -> None:
    other(tmp_path / "h/x.h5", {"1": planted(1, 23, 60), "2": planted(2, 23, 60)})
    people(tmp_path / "h", "1", age=["30"])
    runs, excluded = indexed(tmp_path, dataset(tmp_path))
    assert list(runs) == ["sub-1"] and list(excluded.values()) == ["no participants row"]
    runs, _ = indexed(tmp_path, dataset(tmp_path, path=str(tmp_path / "h"), select={"subject": "1"}))
    assert list(runs) == ["sub-1"]


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path) -> None:
    other(tmp_path / "h/x.h5", {"1": planted(1, 23, 60), "2": np.full((60, 23), np.nan), "3": planted(3, 23, 60)})
    runs, excluded = indexed(tmp_path, dataset(tmp_path))
    assert list(runs) == ["sub-1", "sub-3"] and excluded == {"x.h5:1": "no series"}
    with pytest.raises(InputError, match=r"no repetition time: sub-1 \(x\.h5\): neither its metadata"):
        indexed(tmp_path, dataset(tmp_path, t_r=None))
    with h5py.File(tmp_path / "h/x.h5", "a") as file:
        file["timeseries/tian-s1"][2, 0, 0] += 1
    with pytest.raises(RunExcluded, match="changed since index"):
        door.read(tmp_path / "h", runs["sub-3"], ATLASES)
    receipt = cleaned(tmp_path, dataset(tmp_path))
    assert not receipt["excluded"]  # indexed again, with what is there now
    about = sidecar(tmp_path, receipt, "sub-1")
    assert about["Source"]["Denoised"] and about["Regressors"] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regions": None, "atlas": ["cc200", "buckner7"]}, r"missing \['timeseries/cc200'\]"),
        ({"regions": None}, "needs atlas"),
        ({"path": "nowhere.h5"}, "expected one HDF5 file, found none"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    tmp_path: Path, changes: dict, words: str, capsys: pytest.CaptureFixture
) -> None:
    other(tmp_path / "h/x.h5", {"1": planted(1, 23, 60)})
    with pytest.raises(InputError, match=words):
        indexed(tmp_path, dataset(tmp_path, **changes))
    assert main(["index", "--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0


def test_tables_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    other(tmp_path / "h/x.h5", {"1": planted(1, 23, 60), "2": planted(2, 23, 60)}, scalar=1, matrix=np.zeros((2, 2)))
    assert len(indexed(tmp_path, dataset(tmp_path))[0]) == 2  # tables that are no labels do no harm
    with h5py.File(tmp_path / "h/x.h5", "a") as file:
        del file["long_subject_id"]
        file["long_subject_id"] = np.array([7, 8, 9])
    with pytest.raises(InputError, match=r"of 3 recordings, found shape \(2, "):
        indexed(tmp_path, dataset(tmp_path))


def test_ids_that_would_become_one_person_are_refused(tmp_path: Path) -> None:
    other(tmp_path / "h/x.h5", {"A_1": planted(1, 23, 60), "A1": planted(2, 23, 60)})
    with pytest.raises(InputError, match="'A_1' and 'A1' would both become sub-A1"):
        indexed(tmp_path, dataset(tmp_path))

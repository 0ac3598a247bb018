"""The HDF5 layout of Brain-Semantoks, read with plain h5py as its published code reads it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from neuropipe.errors import InputError
from neuropipe.shards import hdf5
from neuropipe.signals.regions import Regions

LENGTHS = [12, 9, 12]
IDS = ["sub-01", "sub-ümlaut", "sub-01"]
SLOTS = {"schaefer400-7n": "schaefer400", "extra": "extra"}


def regions() -> Regions:
    parts = [Regions.plain("schaefer400-7n", 4).table, Regions.plain("extra", 2).table]
    return Regions(pd.concat(parts, ignore_index=True).assign(index=range(6)))


def recordings() -> list[tuple[np.ndarray, np.ndarray]]:
    """Three recordings; the second is short, the third lacks its very first region and one of the other atlas."""
    rng = np.random.default_rng(0)
    found = [(rng.standard_normal((n, 6)).astype(np.float16), np.ones(6, dtype=bool)) for n in LENGTHS]
    series, valid = found[2]
    valid[[0, 5]] = False
    series[:, 0], series[:, 5] = np.nan, 3
    return found


def write(path: Path, **changes) -> Path:
    labels = {"age": np.array([20.5, np.nan, 20.5]), "site": np.array(["A", "Zürich", "A"], dtype=object)}
    settings = {"series": iter(recordings()), "lengths": LENGTHS, "regions": regions(), "subject_ids": IDS}
    hdf5.write(path, **{**settings, "labels": labels, "slots": SLOTS, **changes})
    return path


def test_layout_is_the_published_one(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5")) as file:
        assert file["timeseries/schaefer400"].shape == (3, 4, 12) and file["timeseries/extra"].shape == (3, 2, 12)
        assert file["timeseries/schaefer400"].dtype == np.float16
        assert [name.decode() for name in file["long_subject_id"]] == IDS
        assert file["labels/age"][0] == 20.5 and np.isnan(file["labels/age"][1])
        assert file["labels/site"][1].decode() == "Zürich"
        np.testing.assert_array_equal(file["timeseries/schaefer400"][0], recordings()[0][0][:, :4].T)
        np.testing.assert_array_equal(file["timeseries/extra"][1, :, :9], recordings()[1][0][:, 4:].T)


def test_nan_is_padding_at_the_end_and_nothing_else(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5")) as file:
        for slot in ("schaefer400", "extra"):
            missing = np.isnan(file[f"timeseries/{slot}"][:])
            for i, length in enumerate(LENGTHS):
                assert not missing[i, :, :length].any() and missing[i, :, length:].all()
        assert (file["timeseries/schaefer400"][2, 0] == 0).all() and (file["timeseries/extra"][2, 1] == 0).all()
        assert file["valid/schaefer400"][:].tolist() == [[True] * 4, [True] * 4, [False, True, True, True]]
        assert file["valid/extra"][2].tolist() == [True, False]


def test_published_reader_keeps_every_sample(tmp_path: Path) -> None:
    """It cuts a recording at the first NaN of its first region, also where that region is missing."""
    with h5py.File(write(tmp_path / "a.h5")) as file:
        first = file["timeseries/schaefer400"][:, 0]
    kept = [int(np.isnan(row).argmax()) if np.isnan(row).any() else len(row) for row in first]
    assert kept == LENGTHS


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    sums = [hashlib.sha256(write(tmp_path / name).read_bytes()).hexdigest() for name in ("a.h5", "b.h5")]
    assert sums[0] == sums[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_read_gives_back_what_was_written(tmp_path: Path) -> None:
    found = hdf5.read(write(tmp_path / "a.h5"), ["schaefer400", "extra"])
    assert found.lengths.tolist() == LENGTHS and found.subject_ids == IDS
    for (series, valid), back, back_valid in zip(recordings(), found.series, found.valid, strict=True):
        np.testing.assert_array_equal(back[: len(series)], np.where(valid, series, 0))
        np.testing.assert_array_equal(back_valid, valid)
    assert found.labels["site"].tolist() == ["A", "Zürich", "A"]
    np.testing.assert_array_equal(found.labels["age"], [20.5, np.nan, 20.5])


def test_files_of_others_are_read(tmp_path: Path) -> None:
    """Zero tail with ``ts_len``, no valid table, labels at the root, another float type."""
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["timeseries/tian3"] = np.ones((2, 3, 8), dtype=np.float64)
        file["long_subject_id"] = np.array([b"x", b"y"])
        file["ts_len"] = np.array([8, 5])
        file["sex_bi"] = np.array([0, 1])
    found = hdf5.read(path)
    assert found.slots == ("tian3",) and found.lengths.tolist() == [8, 5]
    assert found.series[0].shape == (8, 3) and found.series[0].dtype == np.float32
    assert found.valid.all() and found.labels["sex_bi"].tolist() == [0, 1]


def test_empty_dataset_is_a_file_too(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", series=[], lengths=[], subject_ids=[], labels={})
    assert hdf5.read(tmp_path / "a.h5").series == []


def test_what_does_not_fit_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="3 recordings, but 2 values of lengths"):
        write(path, lengths=[12, 9])
    with pytest.raises(InputError, match=r"recording 1 \(sub-ümlaut\) should have shape \(11, 6\)"):
        write(path, lengths=[12, 11, 12])
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        hdf5.read(path)
    assert not list(tmp_path.iterdir())
    with h5py.File(path, "w") as file:
        file["timeseries/x"] = np.zeros((1, 1, 1))
    with pytest.raises(InputError, match=r"missing.*long_subject_id"):
        hdf5.read(path)

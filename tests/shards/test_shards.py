"""Shards: what is written is what three independent readers find."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest

from neuropipe.errors import InputError
from neuropipe.shards.read import Shards
from neuropipe.shards.sample import Sample, pack
from neuropipe.shards.write import write_tar


def test_memory_map_equals_what_numpy_reads_from_the_tar(toy_shards):
    for i, row in toy_shards.manifest.iterrows():
        with tarfile.open(toy_shards.folder / row["shard"]) as tar:
            values = np.load(io.BytesIO(tar.extractfile(row["member"]).read()))
            names = tar.getnames()
        assert values.dtype == np.float16
        np.testing.assert_array_equal(toy_shards.series(i), values)
        assert hashlib.sha256(values.tobytes()).hexdigest() == row["sha256"]
        assert (f"{row['key']}.valid.npy" in names) == (row["n_valid_regions"] < row["n_regions"])


def test_webdataset_streams_the_same_file(toy_shards):
    wds = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(toy_shards.folder.glob("*.tar"))]
    stream = list(wds.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in stream] == list(toy_shards.manifest["key"])
    for i, sample in enumerate(stream):
        np.testing.assert_array_equal(sample["series.npy"], toy_shards.series(i))
        assert sample["json"]["participant_id"] == toy_shards.manifest["participant_id"][i]


def test_missing_region_is_zero_and_marked(toy_shards):
    i = toy_shards.manifest.index[toy_shards.manifest["participant_id"] == "sub-03"][0]
    assert not toy_shards.valid_regions(i)[4] and toy_shards.valid_regions(i).sum() == 8
    assert (toy_shards.series(i)[:, 4] == 0).all()


def test_equal_content_gives_equal_bytes_whenever_it_is_written(tmp_path):
    values, valid = pack(np.random.default_rng(1).normal(size=(7, 3)), "float16")
    sample = Sample("d_sub-1", values, valid, {"dataset": "d", "quality": {}})
    write_tar(tmp_path / "a.tar", [sample])
    write_tar(tmp_path / "b.tar", [sample])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in tar} == {(0, 0, 0, "")}


def test_long_and_foreign_names_survive(tmp_path):
    values, valid = pack(np.ones((3, 2)), "float32")
    key = "d_sub-" + "x" * 150
    rows = write_tar(tmp_path / "long.tar", [Sample(key, values, valid, {"name": "Zoë", "quality": {}})])
    with tarfile.open(tmp_path / "long.tar") as tar:
        assert tar.getnames() == [f"{key}.series.npy", f"{key}.json"]
        assert json.load(tar.extractfile(f"{key}.json"))["name"] == "Zoë"
    content = (tmp_path / "long.tar").read_bytes()[rows[0]["offset"] :][: rows[0]["nbytes"]]
    np.testing.assert_array_equal(np.frombuffer(content, np.float32).reshape(3, 2), values)


def test_damage_is_found(toy_shards):
    toy_shards.verify()
    row = toy_shards.manifest.iloc[0]
    path = toy_shards.folder / row["shard"]
    content = bytearray(path.read_bytes())
    content[row["offset"] + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"sub-00.*damaged"):
        Shards(toy_shards.folder).verify()


def test_missing_manifest_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="neuropipe collect"):
        len(Shards(tmp_path / "shards" / "nothing"))

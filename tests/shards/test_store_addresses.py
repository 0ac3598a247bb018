"""Addresses of stores: what must not be written down, and what a wrong one must not cost; damaged tars."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest

from neuropipe.data.stream import stream
from neuropipe.errors import InputError
from neuropipe.shards.read import Shards
from neuropipe.shards.remote import Cache
from neuropipe.shards.stores import Store
from neuropipe.stages import fetch, publish

pytest.importorskip("fsspec")


@pytest.mark.parametrize("address", ["https://me:s3cret@host/shards", "https://host/shards?X-Amz-Signature=s3cret"])
def test_an_address_with_a_secret_is_refused_without_repeating_it(address):
    with pytest.raises(InputError, match="https://host: the address holds") as raised:
        Store(address)
    assert "s3cret" not in str(raised.value)


def test_a_wrong_address_leaves_what_was_fetched_before(toy_shards, tmp_path):
    publish.run(shards=toy_shards.folder, url=str(tmp_path / "there"), participants=True, manifest=None)
    output = tmp_path / "other" / "shards" / "toy"
    fetch.run(url=str(tmp_path / "there"), output=output, participants=None, check=False)
    with pytest.raises(InputError, match="is not there, or may not be read"):
        fetch.run(url=str(tmp_path / "their"), output=output, participants=None, check=False)
    np.testing.assert_array_equal(Shards(output).series(0), toy_shards.series(0))


def test_people_who_stayed_at_home_are_asked_for(toy_shards, tmp_path):
    publish.run(shards=toy_shards.folder, url=str(tmp_path / "there"), participants=False, manifest=None)
    with pytest.raises(InputError, match="without people's labels"):
        fetch.run(url=str(tmp_path / "there"), output=tmp_path / "a" / "shards" / "toy", participants=None, check=False)


def test_a_damaged_header_and_a_doubled_member_are_one_line(toy_shards):
    pytest.importorskip("webdataset")
    row = toy_shards.manifest.iloc[5]
    path = toy_shards.folder / row["shard"]
    damaged = bytearray(path.read_bytes())
    damaged[row["offset"] - 100] ^= 1  # in the header of its array
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=f"{row['key']}.*damaged"):
        list(stream(toy_shards))
    with tarfile.open(path, "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("twice.series.npy"))
    with pytest.raises(InputError, match=r"chunk-00-001\.tar is no whole tar: twice\.series\.npy"):
        list(stream(toy_shards))


def test_files_of_others_in_the_cache_are_left_alone(tmp_path):
    old, mine = tmp_path / f"{64 * 'a'}.part", tmp_path / f"{64 * 'b'}.900.part"
    others = [tmp_path / name for name in ("holiday.part", "sub-01.tar", f"{64 * 'c'}.x.part", f"{64 * 'd'}.5.tar")]
    for path in (old, *others):
        path.write_bytes(bytes(1000))
    with Cache(tmp_path, limit_gb=1e-6)._room(mine, 900):  # 1000 bytes: no room beside the old part
        assert not old.exists() and mine.exists()
    assert all(path.stat().st_size == 1000 for path in others)

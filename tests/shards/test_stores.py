"""Shards at a store: what is read is what was published, however often the store fails."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto")

from store_servers import serving

from neuropipe.data.stream import stream
from neuropipe.errors import InputError
from neuropipe.shards import remote, stores
from neuropipe.shards.read import Shards
from neuropipe.stages import fetch, publish

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="session")
def moto_address():
    """Host and port of an S3 server of this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """A cache of this test, small blocks, short waits."""
    monkeypatch.setenv("NEUROPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stores.Store, "first_wait_s", 0.001)
    monkeypatch.setattr(stores.Store.__init__, "__defaults__", (0.001,))
    monkeypatch.setattr(remote, "BLOCK_BYTES", 2048)


@pytest.fixture
def bucket(moto_address, quick, monkeypatch, tmp_path):
    """(server that can be told to fail, address of an empty bucket in it)."""
    import boto3
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # it remembers the last test's address
    with serving(backend=moto_address) as server:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": server.url,
        }.items():
            monkeypatch.setenv(name, value)
        name = tmp_path.name.replace("_", "-").lower()
        boto3.client("s3").create_bucket(Bucket=name)
        yield server, f"s3://{name}/study"


def published(shards, url):
    publish.run(shards=shards.folder, url=url, participants=True, manifest=None)


def fetched(shards, url, tmp_path, **options):
    folder = tmp_path / "other" / "shards" / "toy"
    fetch.run(url=url, output=folder, participants=None, check=False, **options)
    return Shards(folder)


def assert_equal(found, shards):
    assert list(found.manifest["key"]) == list(shards.manifest["key"])
    for i in range(len(shards)):
        np.testing.assert_array_equal(found.series(i), shards.series(i))
        np.testing.assert_array_equal(found.valid_regions(i), shards.valid_regions(i))
    found.verify()


def test_s3_gives_what_was_published_through_503s_and_dropped_connections(toy_shards, bucket, tmp_path):
    server, url = bucket
    published(toy_shards, url)
    found = fetched(toy_shards, url, tmp_path)
    assert found.participants.equals(toy_shards.participants)
    server.faults = ["503", "drop", None, "503", "503", "short", "drop"]
    assert_equal(found, toy_shards)
    assert server.faults == []
    n = len(server.tar_requests)
    assert_equal(Shards(found.folder), toy_shards)  # out of the cache
    assert len(server.tar_requests) == n


def test_the_manifest_is_published_last_and_known_tars_are_left(toy_shards, bucket):
    server, url = bucket
    published(toy_shards, url)
    names = [path.rpartition("/")[2] for path in server.puts if "." in path]
    assert names[-1] == "manifest.parquet" and names[-2] == "shards.tsv"
    tars = [name for name in names if name.endswith(".tar")]
    assert tars == sorted(path.name for path in toy_shards.folder.glob("*.tar"))
    server.puts.clear()
    published(toy_shards, url)
    assert not [path for path in server.puts if path.endswith(".tar")]


def test_a_publication_that_was_stopped_goes_on_behind_what_arrived(toy_shards, quick, tmp_path, monkeypatch):
    written, write = [], stores.Store.write

    def stopped(store, name, source):
        if name.endswith(".tar"):
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(name)
        write(store, name, source)

    url = str(tmp_path / "published")
    monkeypatch.setattr(stores.Store, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        published(toy_shards, url)
    with pytest.raises(InputError, match="publish"):
        fetched(toy_shards, url, tmp_path)
    first = list(written)
    written.clear()
    published(toy_shards, url)
    assert sorted(first + written) == sorted(path.name for path in toy_shards.folder.glob("*.tar"))
    assert_equal(fetched(toy_shards, url, tmp_path), toy_shards)


def test_what_is_not_there_or_forbidden_is_one_clear_line(toy_shards, bucket, tmp_path):
    import boto3

    _, url = bucket
    name = url.split("/")[2]
    with pytest.raises(InputError, match="cannot be written"):
        published(toy_shards, "s3://no-such-bucket/study")
    published(toy_shards, url)
    found = fetched(toy_shards, url, tmp_path)
    boto3.client("s3").delete_object(Bucket=name, Key="study/chunk-00-000.tar")
    with pytest.raises(InputError, match=r"chunk-00-000\.tar is not there"):
        found.series(0)
    with pytest.raises(InputError, match=r"chunk-00-000\.tar is not there"):
        next(stream(found))


@pytest.fixture
def web(toy_shards, quick):
    """(server of the published folder that can be told to fail, its address)."""
    folder = toy_shards.folder.parents[2] / "published"
    published(toy_shards, str(folder))
    with serving(folder=folder) as server:
        yield server, server.url


def test_https_gives_what_was_published_through_503s_and_dropped_connections(toy_shards, web, tmp_path):
    server, url = web
    found = fetched(toy_shards, url, tmp_path)
    server.faults = [None, "drop", "503", "short", "503", "drop"]
    assert_equal(found, toy_shards)
    assert server.faults == []


def test_a_server_without_ranges_sends_every_tar_once(toy_shards, web, tmp_path):
    server, url = web
    server.knows_ranges = False
    found = fetched(toy_shards, url, tmp_path)
    assert_equal(found, toy_shards)
    n_tars = found.manifest["shard"].nunique()
    assert len(server.tar_requests) == n_tars
    assert [row for row, _, _ in stream(found)] == list(range(len(found)))
    assert len(server.tar_requests) == 2 * n_tars


def test_a_forked_worker_fetches_too(toy_shards, web, tmp_path):
    _, url = web
    found = fetched(toy_shards, url, tmp_path)
    found.series(0)  # the parent has used its connection
    worker = multiprocessing.get_context("fork").Process(target=found.verify)
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert_equal(found, toy_shards)


def test_a_path_is_mapped_where_it_lies(toy_shards, quick, tmp_path):
    published(toy_shards, str(tmp_path / "published"))
    assert_equal(fetched(toy_shards, str(tmp_path / "published"), tmp_path), toy_shards)
    assert not (tmp_path / "cache" / "shards").exists()


def test_a_byte_damaged_on_its_way_is_fetched_again(toy_shards, web, tmp_path, caplog):
    server, url = web
    found = fetched(toy_shards, url, tmp_path)
    server.faults = [None, "damage"]
    assert_equal(found, toy_shards)
    assert "expected sha256" in caplog.text


def test_a_tar_damaged_at_the_store_never_gets_its_name(toy_shards, web, tmp_path):
    server, url = web
    found = fetched(toy_shards, url, tmp_path)
    path = server.folder / "chunk-00-000.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"chunk-00-000\.tar.*damaged"):
        found.series(0)
    assert not list((tmp_path / "cache" / "shards").glob("*.tar"))


def test_a_store_that_stays_away_is_said_and_what_arrived_is_kept(toy_shards, web, tmp_path):
    server, url = web
    found = fetched(toy_shards, url, tmp_path)
    server.faults = [None, None, *["503"] * stores.N_TRIES]
    with pytest.raises(InputError, match="failed 8 times"):
        found.series(0)
    n = len(server.tar_requests)
    found.series(0)
    assert server.tar_requests[n].startswith("bytes=4096-")


def _first_blocks_then_killed(folder: Path, n_blocks: int) -> None:
    ask, count = stores.Store.block, iter(range(n_blocks))

    def block(*arguments):
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return ask(*arguments)

    stores.Store.block, remote.BLOCK_BYTES = block, 2048
    Shards(folder).series(0)


def test_a_killed_download_is_continued(toy_shards, web, tmp_path):
    server, url = web
    found = fetched(toy_shards, url, tmp_path)
    killed = SPAWN.Process(target=_first_blocks_then_killed, args=(found.folder, 2))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    n = len(server.tar_requests)
    np.testing.assert_array_equal(found.series(0), toy_shards.series(0))
    assert server.tar_requests[n].startswith("bytes=4096-")


def test_what_a_killed_download_left_makes_room(toy_shards, web, tmp_path, monkeypatch):
    _, url = web
    found = fetched(toy_shards, url, tmp_path)
    cache = tmp_path / "cache" / "shards"
    killed = SPAWN.Process(target=_first_blocks_then_killed, args=(found.folder, 2))
    killed.start()
    killed.join()
    assert len(list(cache.glob("*.part"))) == 1
    largest = int(found.remote.tars["bytes"].max())
    monkeypatch.setenv("NEUROPIPE_CACHE_GB", str(1.2 * largest / 1e9))
    last = len(found) - 1
    np.testing.assert_array_equal(found.series(last), toy_shards.series(last))
    assert not list(cache.glob("*.part"))


def test_a_part_counts_as_what_it_will_be(toy_shards, web, tmp_path, monkeypatch):
    _, url = web
    found = fetched(toy_shards, url, tmp_path)
    size = int(found.remote.tars["bytes"].max())
    cache = remote.Cache(limit_gb=1.5 * size / 1e9)
    cache.folder.mkdir(parents=True)
    with cache._room(cache.folder / f"{64 * 'a'}.{size}.part", size), pytest.raises(remote.CacheFull):
        found.remote.__dict__["cache"] = cache
        found.remote.open(found.manifest["shard"][0], patience_s=0.0)


def _reads_everything(folder: Path) -> None:
    remote.BLOCK_BYTES = 2048
    Shards(folder).verify()


@pytest.mark.slow
def test_two_processes_fetch_once(toy_shards, web, tmp_path):
    server, url = web
    found = fetched(toy_shards, url, tmp_path)
    both = [SPAWN.Process(target=_reads_everything, args=(found.folder,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    sizes = remote.read_tars(found.folder / remote.TARS)["bytes"]
    assert len(server.tar_requests) == sum(-(-size // 2048) for size in sizes)


def test_the_cache_keeps_its_bound_and_what_is_in_use(toy_shards, web, tmp_path, monkeypatch):
    _, url = web
    found = fetched(toy_shards, url, tmp_path)
    largest = int(found.remote.tars["bytes"].max())
    monkeypatch.setenv("NEUROPIPE_CACHE_GB", str(2.5 * largest / 1e9))
    cache = tmp_path / "cache" / "shards"
    first = found.series(0)
    for _ in range(2):
        for i in range(len(found)):
            np.testing.assert_array_equal(found.series(i), toy_shards.series(i))
            assert sum(path.stat().st_size for path in cache.glob("*.tar")) <= 2.5 * largest
    held = found.remote.tars.at[found.manifest["shard"][0], "sha256"]
    assert (cache / f"{held}.tar").is_file()  # `first` is still in use
    np.testing.assert_array_equal(first, toy_shards.series(0))
    monkeypatch.setattr(remote.Remote.open, "__defaults__", (0.0,))
    arrays = []
    with pytest.raises(InputError, match="NEUROPIPE_CACHE_GB"):
        arrays.extend(found.series(i) for i in range(len(found)))
        raise AssertionError(len(arrays))


def _reads_at_random(folder: Path, seed: int, limit_gb: str, truth: list[np.ndarray]) -> None:
    os.environ["NEUROPIPE_CACHE_GB"], remote.BLOCK_BYTES = limit_gb, 2048
    stores.Store.__init__.__defaults__ = (0.001,)
    shards = Shards(folder)
    for i in np.random.default_rng(seed).integers(len(truth), size=30):
        assert np.array_equal(shards.series(i), truth[i])


@pytest.mark.slow
def test_processes_share_a_cache_that_is_too_small_for_all(toy_shards, web, tmp_path):
    server, url = web
    found = fetched(toy_shards, url, tmp_path)
    sizes = found.remote.tars["bytes"]
    limit = 2.5 * sizes.max()
    assert sizes.sum() > limit
    server.faults = list(
        np.random.default_rng(0).choice(np.array(["503", "drop", None], dtype=object), 60, p=[0.1, 0.1, 0.8])
    )
    truth = [np.array(toy_shards.series(i)) for i in range(len(found))]
    both = [SPAWN.Process(target=_reads_at_random, args=(found.folder, n, str(limit / 1e9), truth)) for n in range(2)]
    for process in both:
        process.start()
    largest, cache = 0, tmp_path / "cache" / "shards"
    while any(process.is_alive() for process in both):
        largest = max(largest, sum(n_bytes for _, _, n_bytes in remote._listing(cache)))
        time.sleep(0.002)
    assert [process.exitcode for process in both] == [0, 0]
    assert 2 * sizes.min() <= largest <= limit


def test_a_missing_backend_says_what_to_install(tmp_path):
    with pytest.raises(InputError, match="pip install gcsfs"):
        stores.Store("gs://bucket/shards").read("manifest.parquet")


def test_nothing_published_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.parquet is not there.*run `neuropipe publish`"):
        fetch.run(url=str(tmp_path), output=tmp_path / "a" / "shards" / "toy", participants=None, check=False)


def test_streaming_loses_and_doubles_no_sample(toy_shards, web, tmp_path, monkeypatch):
    monkeypatch.setattr("neuropipe.data.stream.BLOCK_BYTES", 3000)
    server, url = web
    found = fetched(toy_shards, url, tmp_path)
    server.faults = ["503", None, "drop", "short", None, "503", "drop"]
    seen = list(stream(found))
    assert [row for row, _, _ in seen] == list(range(len(toy_shards))) and server.faults == []
    for row, array, facts in seen:
        np.testing.assert_array_equal(array, toy_shards.series(row))
        assert facts["participant_id"] == toy_shards.manifest["participant_id"][row]
    assert not (tmp_path / "cache" / "shards").exists()


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_s3_loses_and_doubles_no_sample_whatever_fails_when(toy_shards, bucket, tmp_path, monkeypatch, seed):
    monkeypatch.setattr("neuropipe.data.stream.BLOCK_BYTES", 3000)
    server, url = bucket
    published(toy_shards, url)
    found = fetched(toy_shards, url, tmp_path)
    rng = np.random.default_rng(seed)
    server.faults = list(
        rng.choice(np.array(["503", "drop", "short", None], dtype=object), 40, p=[0.25, 0.2, 0.15, 0.4])
    )
    keys, seen = list(toy_shards.manifest["key"]), []
    while len(seen) < len(keys):  # who is stopped after any number of samples goes on behind them
        rest = stream(found, after=keys[seen[-1]] if seen else None)
        for _ in range(int(rng.integers(1, 6))):
            if (sample := next(rest, None)) is not None:
                np.testing.assert_array_equal(sample[1], toy_shards.series(sample[0]))
                seen.append(sample[0])
    assert seen == list(range(len(keys)))
    assert_equal(found, toy_shards)


@pytest.mark.parametrize("n_done", [1, 4, 6, 14])
def test_a_stream_goes_on_behind_the_last_sample(toy_shards, n_done):
    keys = list(toy_shards.manifest["key"])
    rest = [row for row, _, _ in stream(toy_shards, after=keys[n_done - 1])]
    assert rest == list(range(n_done, len(keys)))


def test_a_stream_says_which_sample_is_damaged_or_missing(toy_shards):
    row = toy_shards.manifest.iloc[5]
    path = toy_shards.folder / row["shard"]
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[row["offset"]] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=f"{row['key']}.*damaged"):
        list(stream(toy_shards))
    path.write_bytes(whole[: row["offset"] + 10])
    with pytest.raises(InputError, match=r"chunk-00-001\.tar"):
        list(stream(toy_shards))

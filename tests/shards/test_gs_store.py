"""Shards at Google's store: published, brought and read through an emulator.

gcsfs and the emulator are in no lock file (gcsfs asks for an fsspec of its own release). To run this:
pip install gcsfs gcp-storage-emulator
"""

from __future__ import annotations

import socket

import numpy as np
import pytest

pytest.importorskip("gcsfs")
pytest.importorskip("gcp_storage_emulator")

from neuropipe.data.stream import stream
from neuropipe.shards import remote
from neuropipe.shards.read import Shards
from neuropipe.stages import fetch, publish


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """Address of an empty bucket at a store of this machine."""
    from gcp_storage_emulator.server import create_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="shared")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("NEUROPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "BLOCK_BYTES", 2048)
    yield "gs://shared/study/toy"
    server.stop()


def test_what_is_read_is_what_was_published(toy_shards, bucket, tmp_path):
    publish.run(shards=toy_shards.folder, url=bucket, participants=True, manifest=None)
    folder = tmp_path / "other" / "shards" / "toy"
    fetch.run(url=bucket, output=folder, participants=None, check=True)
    found = Shards(folder)
    assert found.manifest.equals(toy_shards.manifest) and found.participants.equals(toy_shards.participants)
    for i in reversed(range(len(toy_shards))):
        np.testing.assert_array_equal(found.series(i), toy_shards.series(i))
    found.verify()
    assert [row for row, _, _ in stream(found)] == list(range(len(toy_shards)))
    assert {path.suffix for path in (tmp_path / "cache" / "shards").iterdir() if path.is_file()} >= {".tar"}

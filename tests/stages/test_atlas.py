"""The command `neuropipe atlas`, with a server of our own in the place of the published ones."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import nilearn.datasets
import numpy as np
import pytest

from neuropipe.cli import main
from neuropipe.errors import AtlasError, ConfigError
from neuropipe.provenance import sha256
from neuropipe.signals import atlases
from neuropipe.signals.catalogue import CATALOGUE, Entry, Remote
from neuropipe.stages import atlas


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and its address."""
    folder = tmp_path / "published"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEUROPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))
    return tmp_path / "cache" / "atlases"


@pytest.fixture
def toy(served: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A catalogue entry of two regions whose files the server has."""
    folder, address = served
    nib.save(nib.Nifti1Image(np.array([0, 1, 2, 2], dtype=np.int16).reshape(4, 1, 1), np.eye(4)), folder / "toy.nii.gz")
    (folder / "toy.tsv").write_text("index\tname\n1\tLH-a\n2\tRH-b\n")
    image, table = (Remote(f"toy/toy{suffix}", f"{address}/toy{suffix}") for suffix in (".nii.gz", ".tsv"))
    entry = Entry("toy", "Two regions", "MNI152NLin6Asym", 2, image, "MIT", "Nobody 2020", table=table)
    monkeypatch.setitem(CATALOGUE, "toy", entry)
    return entry


def test_fetched_checked_and_shown(toy: Entry, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["atlas", "show", "toy"]) == 0
    assert "fetch it   neuropipe atlas fetch toy" in capsys.readouterr().out
    assert main(["atlas", "fetch", "toy"]) == 0
    assert sha256(cache / "toy/toy.nii.gz") in capsys.readouterr().out
    assert not list(cache.rglob(".tmp-*"))
    assert atlases.load("toy").table["name"].tolist() == ["LH-a", "RH-b"]
    assert main(["atlas", "show", "toy"]) == 0
    shown = capsys.readouterr().out
    assert "grid       4 x 1 x 1, 1 x 1 x 1 mm" in shown and "LH-a" in shown


def test_what_comes_first_is_recorded_and_held_to(toy: Entry, cache: Path, served: tuple[Path, str]) -> None:
    atlas.run(action="fetch", names=["toy"])
    table = cache / "toy" / "toy.tsv"
    recorded = atlases.record_of(table).read_text()
    table.write_text("index\tname\n1\tother\n2\tnames\n")
    with pytest.raises(AtlasError, match="was altered"):
        atlas.run(action="fetch", names=["toy"])
    assert atlases.record_of(table).read_text() == recorded


def test_a_download_that_is_not_what_was_published(toy: Entry, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "toy", replace(toy, image=replace(toy.image, sha256="0" * 64)))
    with pytest.raises(AtlasError, match="is not the published file of toy"):
        atlas.run(action="fetch", names=["toy"])
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_without_a_network(toy: Entry, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = replace(toy.image, url="http://127.0.0.1:9/toy.nii.gz")
    monkeypatch.setitem(CATALOGUE, "toy", replace(toy, image=gone))
    with pytest.raises(
        AtlasError, match=r"could not be fetched from .*copy the file from another machine to .*toy\.nii"
    ):
        atlas.run(action="fetch", names=["toy"])
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_templateflows_own_folder_is_looked_in_first(
    toy: Entry, cache: Path, tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = replace(toy.image, source="templateflow", url="http://127.0.0.1:9/never-asked")
    monkeypatch.setitem(CATALOGUE, "toy", replace(toy, image=image))
    there = tmp_path / "templateflow" / image.file
    there.parent.mkdir(parents=True)
    there.write_bytes((served[0] / "toy.nii.gz").read_bytes())
    assert str(there) in atlas.run(action="fetch", names=["toy"]).lines[0]


def test_an_atlas_of_nilearns(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fetcher is asked for the named version; its background is no region."""
    asked = {}

    def fetcher(atlas_name: str, data_dir: str, verbose: int) -> SimpleNamespace:
        asked.update(atlas_name=atlas_name, data_dir=data_dir)
        image = nib.Nifti1Image(np.arange(49, dtype=np.uint8).reshape(7, 7, 1), np.eye(4))
        return SimpleNamespace(maps=image, labels=["Background", *(f"Area {n}" for n in range(1, 49))])

    monkeypatch.setattr(nilearn.datasets, "fetch_atlas_harvard_oxford", fetcher)
    atlas.run(action="fetch", names=["harvard-oxford-cort"])
    assert asked == {"atlas_name": "cort-maxprob-thr25-2mm", "data_dir": str(cache / "nilearn")}
    table = atlases.load("harvard-oxford-cort").table
    assert table["name"].tolist() == [f"Area {n}" for n in range(1, 49)] and table["label"].tolist() == list(
        range(1, 49)
    )


def test_list_names_every_atlas_with_its_space(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["atlas", "list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + len(CATALOGUE)
    for row, entry in zip(rows[1:], CATALOGUE.values(), strict=True):
        assert row.split()[:4] == [entry.id, str(entry.n_regions), entry.space, "no"]


def test_commands_that_cannot_be_done(cache: Path) -> None:
    with pytest.raises(ConfigError, match="fetch needs the id of an atlas; known: schaefer400-7n"):
        atlas.run(action="fetch", names=[])
    with pytest.raises(AtlasError, match="No atlas 'aal' in the catalogue"):
        atlas.run(action="show", names=["aal"])

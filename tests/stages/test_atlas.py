"""The command `neuropipe atlas`, with a server of our own in the place of the published ones."""

from __future__ import annotations

import http.server
import struct
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import nilearn.datasets
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from neuropipe.cli import main
from neuropipe.errors import AtlasError, ConfigError
from neuropipe.provenance import sha256
from neuropipe.signals import atlases, catalogue, pictures
from neuropipe.signals import cache as cache_files
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
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NEUROPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))
    return tmp_path / "cache" / "atlases"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes a second, and one test looks at it."""
    monkeypatch.setattr(atlas, "_draw", lambda *_: "  picture    none")


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


def test_fetched_checked_and_shown(toy: Entry, cache: Path, undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
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
    record = cache_files.record_of(toy.table)
    recorded = record.read_text()
    table.write_text("index\tname\n1\tother\n2\tnames\n")
    with pytest.raises(AtlasError, match="was altered"):
        atlas.run(action="fetch", names=["toy"])
    assert record.read_text() == recorded


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


def test_the_list_names_every_atlas_once_and_marks_those_here(
    toy: Entry, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atlas.run(action="fetch", names=["toy"])
    assert main(["atlas", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [word for line in lines if line.startswith("  ") for word in line.split()]
    named = [word for word in words if word.rstrip("*") in CATALOGUE]
    assert sorted(word.rstrip("*") for word in named) == sorted(CATALOGUE)
    assert [word for word in named if word.endswith("*")] == ["toy*"]
    assert len(lines) < 40 and max(map(len, lines)) <= 120
    assert "MNI152NLin6Asym-to-MNI152NLin2009cAsym" in words


def test_a_filtered_list_has_one_line_each(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["atlas", "list", "tian", "buckner"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "regions", "kind", "space", "here", "source", "licence"]
    assert [row.split()[0] for row in rows] == [
        *(f"tian-s{scale}{space}" for space in ("", "-2009c") for scale in (1, 2, 3, 4)),
        *("buckner7", "buckner17"),
    ]
    assert rows[2].split()[:5] == ["tian-s3", "50", "labels", "MNI152NLin6Asym", "no"]
    with pytest.raises(AtlasError, match="No id of an atlas contains aal"):
        atlas.run(action="list", names=["aal"])


# --- TemplateFlow -------------------------------------------------------------------------------


@pytest.fixture
def small_templateflow(
    served: tuple[Path, str], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """TemplateFlow's folder with the empty files of what it offers, and the served folder; its client asks there."""
    monkeypatch.setattr(catalogue, "TEMPLATEFLOW", served[1])
    home = tmp_path / "templateflow"
    item = CATALOGUE["schaefer100-7n"]
    for remote in (item.image, item.table, catalogue.transform(catalogue.FSL, catalogue.ICBM)):
        (home / remote.file).parent.mkdir(parents=True, exist_ok=True)
        (home / remote.file).touch()
    return home, served[0]


def test_templateflows_client_fetches_into_its_own_folder(small_templateflow: tuple[Path, Path]) -> None:
    """What it brings is used by everybody, so that only the record of the checksum is ours."""
    home, published = small_templateflow
    item = CATALOGUE["schaefer100-7n"]
    transform = catalogue.transform(catalogue.FSL, catalogue.ICBM)
    for remote, content in ((item.image, b"an image"), (transform, b"a transform")):
        (published / remote.file).parent.mkdir(exist_ok=True)
        (published / remote.file).write_bytes(content)
    (home / item.table.file).write_bytes(table_of_schaefer_100())
    image, table = atlas.fetch("schaefer100-7n")
    assert str(home / item.image.file) in image and sha256(home / item.image.file) in image
    assert item.table.sha256 in table
    assert atlas.fetch(catalogue.transform_name(catalogue.FSL, catalogue.ICBM))[0].startswith("MNI152NLin6Asym-to-")
    assert (home / transform.file).read_bytes() == b"a transform"
    (home / item.image.file).write_bytes(b"another image")
    with pytest.raises(AtlasError, match="was altered"):
        atlas.fetch("schaefer100-7n")


def table_of_schaefer_100() -> bytes:
    """The published table, which TemplateFlow's client brings along."""
    skeleton = Path(find_spec("templateflow").submodule_search_locations[0]) / "conf" / "templateflow-skel.zip"
    with zipfile.ZipFile(skeleton) as archive:
        return archive.read(CATALOGUE["schaefer100-7n"].table.file)


def test_templateflow_without_a_network(small_templateflow: tuple[Path, Path]) -> None:
    home, _ = small_templateflow
    with pytest.raises(AtlasError, match=r"could not be fetched .* 404.*copy the file from another machine to .*tpl"):
        atlas.fetch("schaefer100-7n")
    assert (home / CATALOGUE["schaefer100-7n"].image.file).stat().st_size == 0
    with pytest.raises(AtlasError, match=r"TemplateFlow does not list .*from-T1w_mode-image_xfm"):
        atlas.fetch("T1w-to-MNI152NLin6Asym")


# --- pictures -----------------------------------------------------------------------------------


def png_size(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:24])


def test_an_atlas_is_drawn(toy: Entry, cache: Path, tmp_path: Path) -> None:
    atlas.run(action="fetch", names=["toy"])
    lines = atlas.run(action="show", names=["toy"], output=str(tmp_path / "toy.png")).lines
    assert lines[-1].split() == ["picture", str(tmp_path / "toy.png")]
    width, height = png_size(tmp_path / "toy.png")
    assert width > height > 300
    with pytest.raises(ConfigError, match="--output names one picture; found 2 atlases"):
        atlas.run(action="show", names=["toy", "cc200"], output="one.png")


def test_the_picture_of_maps_shows_the_heaviest() -> None:
    maps = np.zeros((2, 2, 1, 3), dtype=np.float32)
    maps[0, 0, 0], maps[0, 1, 0], maps[1, 0, 0] = [0.1, 0.5, 0], [0.2, 0, 0], [0, 0.3, 0.4]
    columns = sparse.csc_array(maps.reshape(-1, 3, order="F"))
    table = pd.DataFrame({"value": [1, 2, 3]})
    soft = atlases.Atlas("soft", "MNI", table, None, np.eye(4), "", columns, (2, 2, 1))
    assert pictures._positions(soft).tolist() == [[[2], [1]], [[3], [0]]]


def test_an_atlas_of_ones_own_is_shown_by_the_configuration(toy: Entry, undrawn: None, tmp_path: Path) -> None:
    image, table = (tmp_path / "published" / f"toy{suffix}" for suffix in (".nii.gz", ".tsv"))
    spec = {"id": "mine", "image": str(image), "table": str(table), "space": "MNI152NLin6Asym"}
    config = {"study": "s", "datasets": {"d": {"kind": "fmriprep", "path": "x"}}, "atlases": [spec]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = atlas.run(action="show", names=["mine"], config=str(tmp_path / "config.yaml")).lines
    assert lines[0] == f"mine: {image}" and "grid       4 x 1 x 1, 1 x 1 x 1 mm" in "\n".join(lines)


def test_commands_that_cannot_be_done(cache: Path) -> None:
    with pytest.raises(ConfigError, match="fetch needs the id of an atlas; see neuropipe atlas list"):
        atlas.run(action="fetch", names=[])
    with pytest.raises(AtlasError, match="No atlas 'aal' in the catalogue"):
        atlas.run(action="show", names=["aal"])

"""The catalogue: what it names, where its files are looked for, and the checksums they are held to."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from neuropipe.errors import AtlasError
from neuropipe.provenance import sha256
from neuropipe.signals import atlases, cache, orders, tables
from neuropipe.signals.catalogue import CATALOGUE, FSL, ICBM, in_space


def test_entries_are_complete_and_distinct() -> None:
    for name, entry in CATALOGUE.items():
        assert name == entry.id and entry.licence and entry.citation and entry.space.startswith("MNI152")
        assert not entry.names or len(entry.names) == entry.n_regions


def test_what_the_catalogue_promises() -> None:
    """Sizes, orders and spaces that users ask for by name."""
    for space in ("", "-2009c"):
        promised = [f"schaefer{n}-{k}n{space}" for n in (100, 200, 300, 400, 500, 600, 800, 1000) for k in (7, 17)]
        promised += [f"tian-s{scale}{space}" for scale in (1, 2, 3, 4)]
        promised += [f"difumo{n}{space}" for n in (64, 128, 256, 512, 1024)]
        promised += [f"harvard-oxford-{part}{space}" for part in ("cort", "cortl", "sub")]
        assert set(promised) <= set(CATALOGUE)
        assert {CATALOGUE[name].space for name in promised} == {ICBM if space else FSL}
    assert {"schaefer700-7n", "schaefer900-17n", "buckner7", "buckner17", "cc200", "cc400"} <= set(CATALOGUE)
    assert {entry.kind for name, entry in CATALOGUE.items() if name.startswith("difumo")} == {"maps"}
    assert CATALOGUE["tian-s4"].n_regions == 54 and CATALOGUE["difumo1024"].n_regions == 1024


def test_builds_of_one_atlas_are_found_by_space() -> None:
    assert in_space("schaefer400-7n", ICBM).id == "schaefer400-7n-2009c"
    assert in_space("schaefer400-7n-2009c", FSL).id == "schaefer400-7n"
    assert in_space("schaefer400-7n", FSL).id == "schaefer400-7n"
    assert in_space("buckner7", ICBM) is None and in_space("mine", FSL) is None


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(AtlasError, match=r"No atlas 'shaefer400-7n' .*did you mean schaefer400-7n"):
        atlases.common_space(["shaefer400-7n"])


@pytest.fixture(scope="module")
def published_tables() -> dict[str, bytes]:
    """TemplateFlow's region tables, which its client brings along."""
    skeleton = Path(find_spec("templateflow").submodule_search_locations[0]) / "conf" / "templateflow-skel.zip"
    with zipfile.ZipFile(skeleton) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.endswith(".tsv")}


FROM_TEMPLATEFLOW = [name for name, entry in CATALOGUE.items() if entry.image.source == "templateflow"]


@pytest.mark.parametrize("name", FROM_TEMPLATEFLOW)
def test_templateflows_tables_are_read(name: str, published_tables: dict[str, bytes], empty_cache: Path) -> None:
    """Each published table has the regions, the order and the networks that the catalogue says, and its checksum."""
    entry = CATALOGUE[name]
    path = cache.templateflow_folder() / entry.table.file
    path.parent.mkdir(parents=True)
    path.write_bytes(published_tables[entry.table.file])
    table = tables.of_entry(entry, cache.verified(entry.table, name)[0])
    assert len(table) == entry.n_regions and table["name"].all() and table["value"].min() == 1
    assert sorted(table["value"]) == list(range(1, entry.n_regions + 1))
    networks = set(table["network"]) - {""}
    if name.startswith("schaefer"):
        n_networks = 17 if "-17n" in name else 7
        assert orders.of_names(table["name"]) == orders.of_id(name) == f"{n_networks}-network order"
        assert len(networks) == n_networks and set(table["hemisphere"]) == {"L", "R"}
    elif name.startswith("difumo"):
        assert "SomMotA" in networks and "No network found" not in networks
    elif name.startswith("harvard-oxford-cortl"):
        assert (table["hemisphere"] == ["L", "R"] * 48).all()


def test_the_sides_of_harvard_oxford_are_those_published(published_tables: dict[str, bytes], tmp_path: Path) -> None:
    """TemplateFlow's own table of them names 52 of 96 regions, and counts from 0 where the voxels count from 1."""
    both = tmp_path / "both.tsv"
    both.write_bytes(published_tables[CATALOGUE["harvard-oxford-cortl"].table.file])
    names = tables.of_entry(CATALOGUE["harvard-oxford-cortl"], both).set_index("label")["name"]
    text = published_tables[f"tpl-{FSL}/tpl-{FSL}_atlas-HOCPAL_dseg.tsv"].decode()
    published = pd.read_csv(StringIO(text), sep="\t").set_index("index")["name"]
    assert len(published) == 52
    assert names.loc[published.index + 1].tolist() == published.str.strip().tolist()


def test_craddocks_numbers_may_have_gaps(tmp_path: Path) -> None:
    """The first column of the published csv has the numbers; what follows has quotes and commas of its own."""
    path = tmp_path / "CC400_ROI_labels.csv"
    numbers = [n for n in range(1, 400) if n % 57][:392]
    rest = '162, (-39.6;-85.4;1.4),["None": 0.91],["A": 0.8]["B": 0.2],["C": 0.7],["D": 1],["E": 1]'
    rows = [f"{n}, {rest}" for n in numbers]
    path.write_text("\n".join(["ROI number, volume, center of mass,A,B,C,D,E", *rows]))
    table = tables.of_entry(CATALOGUE["cc400"], path)
    assert table["label"].tolist() == numbers and table["name"].iloc[56] == f"cc400-{numbers[56]:03d}"


@pytest.mark.realdata
def test_craddocks_published_table(published_data: Path) -> None:
    entry = CATALOGUE["cc200"]
    table = tables.of_entry(entry, published_data / "atlases" / "CC200_ROI_labels.csv")
    assert table["label"].tolist() == list(range(1, 201))


def test_unfetched_says_how_to_fetch(empty_cache: Path) -> None:
    with pytest.raises(AtlasError, match=r"not on this machine .*neuropipe atlas fetch tian-s3"):
        atlases.load("tian-s3")


def test_an_empty_file_of_templateflows_skeleton_is_not_fetched(tmp_path: Path, empty_cache: Path) -> None:
    path = tmp_path / "templateflow" / CATALOGUE["schaefer400-7n"].image.file
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(AtlasError, match="neuropipe atlas fetch schaefer400-7n"):
        atlases.load("schaefer400-7n")


def test_what_was_fetched_first_is_held_to(empty_cache: Path) -> None:
    remote = CATALOGUE["tian-s3"].image
    path = empty_cache / remote.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    cache.record_of(remote).write_text(f"{sha256(path)}  {path.name}\n")
    assert cache.verified(remote, "tian-s3") == (path, sha256(path))
    path.write_bytes(b"other")
    with pytest.raises(AtlasError, match=r"was altered: .*neuropipe atlas fetch tian-s3"):
        cache.verified(remote, "tian-s3")


def test_a_published_checksum_is_held_to(empty_cache: Path) -> None:
    path = empty_cache / CATALOGUE["cc200"].image.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not the published file")
    with pytest.raises(AtlasError, match="expected SHA-256 9467afce"):
        atlases.load("cc200")

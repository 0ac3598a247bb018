"""Writing: complete under the final name, or not there at all."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest

from neuropipe import cli
from neuropipe.errors import InputError
from neuropipe.paths import MODELS, Study, atomic, write_if_changed, write_text
from neuropipe.provenance import fingerprint, hash_json, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_unchanged_content_keeps_the_file(tmp_path):
    path = tmp_path / "a.txt"
    assert write_if_changed(path, "x")
    before = path.stat().st_mtime_ns
    assert not write_if_changed(path, "x")
    assert path.stat().st_mtime_ns == before
    assert write_if_changed(path, "y")


def test_fingerprint_of_gzip_is_the_crc_of_its_content(tmp_path):
    content = b"series" * 10000
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(content))
    assert fingerprint(path) == f"{path.stat().st_size}-{zlib.crc32(content):08x}"


def test_fingerprint_of_a_plain_file_sees_every_byte(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"a" * 100_000)
    before = fingerprint(path)
    path.write_bytes(b"a" * 50_000 + b"b" + b"a" * 49_999)
    assert fingerprint(path) != before


def test_hash_does_not_depend_on_the_order_of_keys():
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1}) != hash_json({"a": 1, "b": [3]})


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("folder", "given"),
    [
        (".", "results/a/models/r/seed-0/receipt.json"),
        ("results/a", "models/r/seed-0/receipt.json"),
        ("results/a/models/r/seed-0", "receipt.json"),
        ("results/a/models/r", "../../../../results/b/../a/models/r/seed-0/receipt.json"),
    ],
)
def test_the_study_of_a_product_from_wherever_it_is_named(tmp_path, monkeypatch, folder, given):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / folder)
    study = Study.of(given, MODELS)
    assert study.root.absolute().resolve() == tmp_path / "results" / "a"
    for named in (given, Path(given).absolute()):
        assert study.relative(named) == "models/r/seed-0/receipt.json"


def test_paths_of_snakemake_stay_as_they_are():
    assert str(Study.of("results/a/models/r/seed-0/receipt.json", MODELS).root) == "results/a"


@pytest.mark.parametrize("given", ["receipt.json", "/receipt.json", "out/r/seed-0/receipt.json"])
def test_a_product_outside_a_study_is_one_line(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"expected a path in a study, results/<study>/models/<recipe>/seed-<seed>/"):
        Study.of(given, MODELS)


def test_a_command_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["collect", "--dataset", "d", "--receipts", "r.json", "--output", "manifest.parquet"]) == 2
    assert "neuropipe collect: manifest.parquet: expected a path in a study" in capsys.readouterr().err

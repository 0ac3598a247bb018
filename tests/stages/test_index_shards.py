"""Shards made elsewhere as the start of a study: what comes along, and what is said where it does not fit."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from neuropipe import doctor
from neuropipe.bids.index import read_tsv
from neuropipe.config import parse
from neuropipe.errors import ConfigError, InputError
from neuropipe.paths import Study
from neuropipe.shards.read import Shards
from neuropipe.stages import index, publish


@pytest.fixture
def published(toy_shards: Shards, tmp_path: Path) -> Path:
    """A folder with the toy shards, their people and a table of quality, as `publish` leaves it."""
    quality = Study(toy_shards.folder.parents[1]).qc("toy") / "runs.parquet"
    quality.parent.mkdir(parents=True, exist_ok=True)
    toy_shards.manifest[["run_id", "participant_id"]].assign(mean_fd=0.1).to_parquet(quality)
    publish.run(shards=toy_shards.folder, url=str(tmp_path / "published"), participants=True, manifest=None)
    return tmp_path / "published"


def indexed(tmp_path: Path, name: str = "toy", **section: object) -> Study:
    content = {"study": "s", "datasets": {name: {"kind": "shards", **section}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    study = Study(tmp_path / "results" / "s")
    index.run(config=str(tmp_path / "config.yaml"), dataset=name, output=str(study.participants(name).parent))
    return study


def test_tables_come_and_who_has_no_sample_is_listed(published, toy_shards, tmp_path):
    people = toy_shards.participants.reset_index()
    people["participant_id"] = people["participant_id"].str.removeprefix("sub-")
    people.loc[len(people)] = ["99", "A", 40]
    people.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    study = indexed(tmp_path, path=str(published), participants=str(tmp_path / "people.tsv"))
    found = Shards(study.shards("toy"))
    found.verify()
    assert list(found.participants.index) == [*toy_shards.participants.index, "sub-99"]
    assert len(pd.read_parquet(study.qc("toy") / "runs.parquet")) == len(toy_shards)
    absent = read_tsv(study.index_excluded("toy"))
    assert absent[["participant_id", "reason"]].values.tolist() == [["sub-99", "no data"]]


def test_what_did_not_change_keeps_its_time(published, tmp_path):
    study = indexed(tmp_path, path=str(published))
    files = [path for path in study.root.rglob("*") if path.is_file() and path.name not in ("fetch.json",)]
    times = {path: path.stat().st_mtime_ns for path in files if not path.name.startswith(".")}
    assert len(times) >= 6
    indexed(tmp_path, path=str(published))
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"holds": "volume"}, "expected shards of volume, found series; write holds: series"),
        ({"clips": True}, "was published without labelled clips"),
        ({"name": "other"}, "holds the dataset toy; call it so here too, found other"),
    ],
)
def test_shards_of_another_kind_are_named(published, tmp_path, section, said):
    with pytest.raises(InputError, match=said):
        indexed(tmp_path, path=str(published), **section)


def test_doctor_reads_what_was_published(published, toy_shards, tmp_path):
    content = {"study": "s", "datasets": {"toy": {"kind": "shards", "path": str(published)}}}
    (check,), _ = doctor.check_dataset(parse(content), "toy")
    assert check.ok and f"{len(toy_shards)} samples of 12 people" in check.found
    content["datasets"]["toy"]["path"] = str(tmp_path / "nowhere")
    (check,), _ = doctor.check_dataset(parse(content), "toy")
    assert not check.ok and "manifest.parquet is not there" in check.remedy


def test_shards_without_quality_say_to_publish_again(published, tmp_path):
    (published / publish.QUALITY).unlink()
    with pytest.raises(InputError, match="was published without tables of quality"):
        indexed(tmp_path, path=str(published))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"kind": "series", "holds": "series"}, "holds is for kind shards, not for series"),
        ({"kind": "shards", "n_chunks": 3, "atlas": "cc200"}, "leave out n_chunks, atlas"),
        ({"kind": "shards", "holds": "volume", "clips": True}, "clips are windows of series"),
        ({"kind": "shards", "holds": "series", "map": "gm"}, "map is for anatomy"),
    ],
)
def test_keys_that_do_not_fit_are_refused(section, said):
    with pytest.raises(ConfigError, match=said):
        parse({"study": "s", "datasets": {"toy": {"path": "x", **section}}})


def test_decoding_asks_for_published_clips():
    content = {
        "study": "s",
        "datasets": {"toy": {"kind": "shards", "path": "x"}},
        "splits": {"people": {"scheme": "kfold"}},
        "tasks": {"states": {"kind": "decoding", "target": "label", "datasets": ["toy"], "split": "people"}},
    }
    with pytest.raises(ConfigError, match="write clips: true"):
        parse(content)
    content["datasets"]["toy"]["clips"] = True
    parse(content)

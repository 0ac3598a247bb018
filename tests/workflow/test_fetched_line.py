"""A study that starts from shards which another study published: nothing is prepared again, and the numbers are its."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_graph import jobs


def started_from(workplace: Path, url: str, **section: object) -> Path:
    """Give a workplace another study's config, whose only dataset lies at `url`."""
    content = yaml.safe_load((workplace / "config.yaml").read_text())
    content["study"] = "elsewhere"
    content["datasets"] = {"demo": {"kind": "shards", "path": url, **section}}
    content["tasks"] = {name: task for name, task in content["tasks"].items() if task["datasets"] == ["demo"]}
    recipe = {"datasets": ["demo"], "recipe": "tiny.yaml"}
    content["pretrain"] = {"tiny": recipe} if (workplace / "tiny.yaml").is_file() else {}
    content["splits"] = {task["split"]: content["splits"][task["split"]] for task in content["tasks"].values()}
    path = workplace / "elsewhere.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_shards_made_elsewhere_are_not_made_again(workplace, command):
    started_from(workplace, "s3://bucket/study/demo")
    done = command(workplace, "snakemake", "-n", "--configfile", "elsewhere.yaml")
    planned = jobs(done.stdout + done.stderr)
    assert {"index_demo", "split", "baselines", "evaluate", "report"} <= set(planned)
    assert not {"parcellate", "shard", "collect", "clips", "qc", "hdf5"} & set(planned)


def test_what_is_published_are_the_datasets_made_here(workplace, command):
    path = started_from(workplace, "s3://bucket/study/demo")
    content = yaml.safe_load(path.read_text())
    content["datasets"]["own"] = {"kind": "cat12", "path": "cat12", "n_chunks": 1}
    content["shards"] = {"publish": "./published"}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    done = command(workplace, "snakemake", "publish", "-n", "--configfile", "elsewhere.yaml")
    planned = jobs(done.stdout + done.stderr)
    assert planned["publish_own"] == 1 and "publish_demo" not in planned and "index_demo" not in planned


def numbers(study: Path) -> pd.DataFrame:
    """Return the values of a study's metrics in one order."""
    table = pd.read_parquet(study / "metrics.parquet")
    keys = ["task", "system", "repeat", "fold", "metric"]
    return table.set_index(keys)[["value", "ci_low", "ci_high", "n_test"]].sort_index()


@pytest.mark.slow
def test_the_numbers_are_those_of_the_study_that_made_the_shards(small_study, command):
    content = yaml.safe_load((small_study / "config.yaml").read_text())
    content["shards"] = content.get("shards", {}) | {"publish": "./published"}
    (small_study / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    command(small_study, "snakemake", "--cores", "2")
    command(small_study, "snakemake", "publish", "--cores", "2")
    first, people = small_study / "results" / "demo", "results/demo/index/demo/participants.tsv"
    started_from(small_study, "./published/demo", participants=people)
    command(small_study, "snakemake", "--cores", "2", "--configfile", "elsewhere.yaml")
    second = small_study / "results" / "elsewhere"
    pd.testing.assert_frame_equal(numbers(second), numbers(first), rtol=0, atol=0)
    assert (second / "report" / "index.html").is_file() and not (second / "derivatives").exists()
    command(small_study, "snakemake", "index", "--cores", "2", "--configfile", "elsewhere.yaml")
    again = command(small_study, "snakemake", "-n", "--configfile", "elsewhere.yaml")
    assert "Nothing to be done" in again.stdout + again.stderr

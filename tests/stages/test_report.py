"""The report of tables that the stages before it wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from judged_study import write_embeddings, write_study

from neuropipe import cli
from neuropipe.stages import baselines, evaluate, probe, split

TASKS = ("diagnosis", "age")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was split, answered and evaluated; one person has no diagnosis."""
    root = tmp_path_factory.mktemp("reported")
    config = write_study(root)
    people = root / "index/toy/participants.tsv"
    table = pd.read_csv(people, sep="\t", dtype=str)
    table.loc[table["participant_id"] == "sub-0004", "diagnosis"] = "n/a"
    table.to_csv(people, sep="\t", index=False)
    shards, folder = [root / "shards/toy"], root / "splits/main"
    split.run(config=config, split="main", shards=shards, output=folder)
    embeddings = [write_embeddings(root, {"main": pd.read_parquet(folder / "splits.parquet")})]
    for task in TASKS:
        for stage in (probe, baselines):
            output = root / "tasks" / task / stage.__name__.rpartition(".")[2]
            stage.run(config=config, task=task, split_dir=folder, embeddings=embeddings, shards=shards, output=output)
    predictions = sorted(root.glob("tasks/*/*/predictions.parquet"))
    evaluate.run(predictions=predictions, config=config, splits=[folder], output=root / "metrics.parquet")
    return config


def call(config: Path, output: Path) -> int:
    """Run the command as a user does."""
    return cli.main(["report", "--config", str(config), "--study", str(config.parent), "--output", str(output)])


def test_the_command_writes_the_page_with_the_metrics_that_evaluate_wrote(judged: Path) -> None:
    output = judged.parent / "report/index.html"
    assert call(judged, output) == 0
    content = output.read_text()
    metrics = pd.read_parquet(judged.parent / "metrics.parquet")
    primary = metrics[(metrics["fold"] == "mean") & metrics["metric"].isin(["auroc", "mae"])]
    assert set(re.findall(r'<tr data-run="([^"]*)"', content)) == set(primary["run_id"])
    for value in primary["value"]:
        assert f'data-v="{value}"' in content
    assert "recipe, random weights" in content
    assert output.with_suffix(".json").is_file()


def test_who_was_left_out_is_merged_into_the_study(judged: Path) -> None:
    assert call(judged, judged.parent / "report/index.html") == 0
    path = judged.parent / "excluded.tsv"
    merged = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    assert merged[["stage", "participant_id", "reason"]].to_numpy().tolist() == [
        ["probe", "sub-0004", "no target"],
        ["baselines", "sub-0004", "no target"],
    ]
    before = path.read_bytes()
    assert call(judged, judged.parent / "report/index.html") == 0
    assert path.read_bytes() == before


def test_without_metrics_nothing_is_written_and_the_remedy_is_named(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes(judged.read_bytes())
    assert call(config, tmp_path / "report/index.html") == 2
    assert "neuropipe evaluate" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["config.yaml"]

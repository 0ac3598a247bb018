"""Model cards: every item of TRIPOD+AI once, told where tables tell, listed where they do not."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import yaml
from reported_study import write_study

from neuropipe import config as configuration
from neuropipe.config.study import TRIPOD
from neuropipe.errors import ConfigError
from neuropipe.evaluate import tables
from neuropipe.paths import Study
from neuropipe.report import page, read, tripod
from neuropipe.report.tripod_items import items

LINE = re.compile(r"^\| (\d+[a-g]?) \| ([^|]+) \| (told|in part|to write) \| (.*) \|$", re.M)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_study(tmp_path / "synthetic")


def card(config: Path, **changes: object) -> str:
    """Return the one card of a study whose configuration is changed."""
    content = yaml.safe_load(config.read_text()) | changes
    results = read.read(configuration.parse(content), config.parent)
    return page.render(results, datetime(2026, 1, 2, tzinfo=UTC), "c.yaml").cards["semantoks-demo"]


def lines(text: str) -> dict[str, tuple[str, str]]:
    """Return state and text of each item."""
    return {number: (state, said) for number, _, state, said in LINE.findall(text)}


def test_the_statement_has_27_items_of_52_parts_and_a_card_has_all_of_them_in_order(config: Path) -> None:
    assert [item.number for item in items()] == TRIPOD
    assert len(TRIPOD) == 52 and len({re.sub(r"\D", "", number) for number in TRIPOD}) == 27
    assert list(lines(card(config))) == TRIPOD


def test_what_tables_tell_is_told_and_the_rest_says_what_to_write(config: Path) -> None:
    text = card(config)
    found = lines(text)
    for state, said in found.values():
        assert ("**To write:**" in said) == (state != "told")
    assert found["17"] == ("to write", "**To write:** the committee that approved the study, and consent.")
    assert found["20a"][1].startswith("demo: found 61 (61 people)")
    metrics = pd.read_parquet(config.parent / "metrics.parquet")
    row = metrics[
        (metrics["system"] == "semantoks-demo") & (metrics["metric"] == "auroc") & (metrics["fold"] == "mean")
    ]
    assert f"AUROC {row['value'].iloc[0]:.3f} ({row['ci_low'].iloc[0]:.3f} to " in found["23a"][1]
    predictions = pd.read_parquet(config.parent / "predictions.parquet")
    own = predictions[(predictions["run_id"] == "diagnosis_semantoks-demo_logistic_seed-0")]
    assert f"24 for test ({own['y'].sum():.0f} of them patient)" in found["21"][1]
    counts = pd.Series([state for state, _ in found.values()]).value_counts()
    assert f"{counts['told']} items told, {counts['in part']} in part, {counts['to write']} to write" in text


def test_a_statement_of_the_config_answers_an_item(config: Path) -> None:
    found = lines(card(config, statements={17: "Approved by the committee of Lund.", "5a": "A sample of convenience."}))
    assert found["17"] == ("told", "Approved by the committee of Lund.")
    state, said = found["5a"]
    assert state == "told" and said.endswith("A sample of convenience.") and "regional time series" in said


def test_an_item_that_the_statement_does_not_have_is_a_mistake(config: Path) -> None:
    with pytest.raises(ConfigError, match="TRIPOD\\+AI has no item 28"):
        card(config, statements={28: "x"})


def test_every_answer_belongs_to_an_item() -> None:
    assert set(tripod.FILLS) <= set(TRIPOD)
    assert set(tripod.FILLS) >= tripod.IN_PART


def test_the_front_matter_is_what_the_hub_reads(config: Path) -> None:
    text = card(config)
    assert text.startswith("---\n")
    front = yaml.safe_load(text.split("\n---\n")[0])
    assert {"neuroimaging", "fmri", "semantoks"} <= set(front["tags"])
    metrics = pd.read_parquet(config.parent / "metrics.parquet")
    for result in front["model-index"][0]["results"]:
        told = result["metrics"][0]
        rows = metrics[(metrics["task"] == result["task"]["name"]) & (metrics["metric"] == told["type"])]
        value = rows.loc[(rows["system"] == "semantoks-demo") & (rows["fold"] == "mean"), "value"].iloc[0]
        assert told["value"] == pytest.approx(value)
    assert {result["task"]["name"] for result in front["model-index"][0]["results"]} == {"diagnosis", "age"}


def test_training_people_are_described(config: Path) -> None:
    people = pd.read_csv(Study(config.parent).participants("demo"), sep="\t")
    folder = Study(config.parent).model("semantoks-demo", 0) / "main" / "0"
    learned = people[people["participant_id"].isin(pd.read_parquet(folder / "people.parquet")["participant_id"])]
    counts = learned["sex"].value_counts()
    assert f"demo: 36 people; sex F {counts['F']} and M {counts['M']}; age" in card(config)


def test_performance_within_sites_and_sexes_stands_there_where_it_was_computed(config: Path) -> None:
    text = card(config)
    assert "Within sites and sexes" not in text
    assert "Performance within sites and sexes was not computed." in text
    run = {"run_id": "diagnosis_semantoks-demo_logistic_seed-0", "system": "semantoks-demo", "task": "diagnosis"}
    row = run | {"column": "sex", "group": "F", "n": 11, "metric": "auroc", "value": 0.81}
    row |= {"ci_low": 0.6, "ci_high": 0.95}
    rows = [row, row | {"metric": "brier", "value": 0.2}]  # one that the card does not show
    tables.write(config.parent / "breakdown.parquet", tables.frame(rows, tables.BREAKDOWN), tables.BREAKDOWN)
    text = card(config)
    assert "| diagnosis | logistic | sex | F | AUROC | 0.810 | 0.600 to 0.950 | 11 |" in text
    assert "Performance within sites" not in text and "0.200" not in text


def test_a_card_is_about_its_own_data_alone(config: Path) -> None:
    content = yaml.safe_load(config.read_text())
    other = {"other": {"kind": "cat12", "path": "nowhere", "space": "MNI152NLin6Asym"}}
    text = card(config, datasets=content["datasets"] | other)
    assert "CAT12" not in text and "The dataset other" not in text

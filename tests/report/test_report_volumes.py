"""The report of grey-matter maps: compared with voxels, without a word about connectivity or motion."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from parsed_page import Page
from reported_study import write_study

from neuropipe import config as configuration
from neuropipe.evaluate import tables
from neuropipe.evaluate.summary import summarise
from neuropipe.paths import Study
from neuropipe.provenance import read_json, write_json
from neuropipe.report import page, read

FOREIGN = ("connectivity", "FC", "displacement", "otion", "epetition time", "brain regions", "atlas")


def as_maps(config: Path, content: str = "volume") -> None:
    """Turn the made-up study of series into one of maps (or slices), as the stages would have written it."""
    study = Study(config.parent)
    settings = yaml.safe_load(config.read_text())
    settings["datasets"] = {"demo": {"kind": "cat12" if content == "volume" else "images", "path": "nowhere"}}
    settings["pretrain"] = {"yaware-demo": {"datasets": ["demo"], "recipe": "neuropipe/recipes/semantoks-demo.yaml"}}
    for task in settings["tasks"].values():
        task["confounds"] = ["sex", "site", "tiv_ml"]
    config.write_text(yaml.safe_dump(settings))
    found = [tables.read([study.root / f"{name}.parquet"], columns, name) for name, columns in
             (("predictions", tables.PREDICTIONS), ("nulls", tables.NULLS))]  # fmt: skip
    predictions, nulls = (renamed(table) for table in found)
    regions = predictions[predictions["system"] == "voxels"].assign(system="regions")
    regions["run_id"] = regions["run_id"].str.replace("voxels", "regions")
    predictions = pd.concat([predictions, regions]).assign(atlas_id="n/a")
    tables.write(study.root / "predictions.parquet", predictions, tables.PREDICTIONS)
    tables.write(study.root / "nulls.parquet", nulls, tables.NULLS)
    metrics = summarise(predictions, nulls, draws=200, seed=0)
    tables.write(study.root / "metrics.parquet", metrics, tables.METRICS)
    write_json(study.root / "leakage.json", {"checks": []})
    (study.root / "costs.parquet").unlink()
    runs = pd.read_parquet(study.qc("demo") / "runs.parquet")[["run_id", "participant_id"]]
    runs.assign(tiv_ml=np.linspace(1300, 1700, len(runs)), iqr_grade=2.1).to_parquet(study.qc("demo") / "runs.parquet")
    (study.qc("demo") / "regions.parquet").unlink()
    study.model("semantoks-demo", 0).parent.rename(study.model("yaware-demo", 0).parent)
    for path in study.root.glob("models/*/seed-0/main/*/config.json"):
        about = read_json(path)
        grid = {"space": "MNI152NLin2009cAsym", "shape": [121, 145, 121], "affine": np.eye(4).tolist()}
        kept = {key: about[key] for key in ("GeneratedBy", "training")} | {"family": "yaware", "content": content}
        write_json(
            path, kept | {"grid": grid if content == "volume" else None, "map": "gm", "volumes": {"scale": "tiv"}}
        )
    receipt = study.model("yaware-demo", 0) / "receipt.json"
    receipt.write_text(receipt.read_text().replace("semantoks-demo", "yaware-demo"))


def renamed(table: pd.DataFrame) -> pd.DataFrame:
    for old, new in (("semantoks-demo", "yaware-demo"), ("fc", "voxels")):
        table["run_id"] = table["run_id"].str.replace(f"_{old}", f"_{new}")
        if "system" in table:
            table["system"] = table["system"].str.replace(f"^{old}", new, regex=True)
    return table


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> page.Rendered:
    config = write_study(tmp_path_factory.mktemp("maps") / "synthetic")
    for path in Study(config.parent).root.glob("index/demo/excluded.tsv"):
        path.write_text(path.read_text().splitlines()[0] + "\n")
    Study(config.parent).receipt("parcellate", "demo", 0).unlink()
    as_maps(config)
    return page.render(read.read(configuration.load(config), config.parent), datetime(2026, 1, 2, tzinfo=UTC), "c.yaml")


def test_no_word_of_series_is_on_the_page_or_the_card(rendered):
    shown = Page(rendered.page).text
    shown = shown[: shown.index("snakemake --cores")]  # what follows is the configuration with its defaults
    card = rendered.cards["yaware-demo"]
    for word in FOREIGN:
        assert word not in shown, (word, shown[shown.index(word) - 80 : shown.index(word) + 40])
        assert word not in card, word


def test_models_are_compared_with_the_linear_model_of_voxels(rendered):
    shown = Page(rendered.page).text
    assert any(f"{says} the linear model of voxels on diagnosis" in shown for says in ("beats", "falls below")) or (
        "and the linear model of voxels cannot be told apart on diagnosis" in shown
    )
    assert "Difference to voxels" in shown
    assert "linear model of voxels 0." in shown  # the line in the forest plot
    assert "Linear model of regional volumes" in shown
    assert 'class="l-reference"' in rendered.page
    card = rendered.cards["yaware-demo"]
    assert "| Linear model of voxels | Difference |" in card
    assert "| Input | grey-matter maps of 121 × 145 × 121 voxels in MNI152NLin2009cAsym |" in card
    assert "It fits data with the same content in the same space" in card


def test_it_is_said_whether_an_age_is_told_better_than_by_the_mean(rendered):
    shown = Page(rendered.page).text
    assert "yaware-demo beats the mean of the training people:" in shown
    sentence = shown[shown.index("yaware-demo beats the mean of the training people:") :][:200]
    assert "where negative is better" in sentence


def test_the_section_on_quality_is_of_maps(rendered):
    shown = Page(rendered.page)
    assert "Quality of maps and slices" in shown.text
    assert "No recording has" not in shown.text
    assert "No region has a coverage" not in shown.text


def test_slices_are_compared_with_pixels(tmp_path):
    config = write_study(tmp_path / "synthetic")
    as_maps(config, "image")
    found = page.render(read.read(configuration.load(config), config.parent), datetime(2026, 1, 2, tzinfo=UTC), "c")
    shown = Page(found.page).text
    assert "the linear model of pixels" in shown
    assert "Difference to pixels" in shown
    assert "voxels" not in shown[: shown.index("snakemake --cores")].replace("voxels_", "")

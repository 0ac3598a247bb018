"""What drives a readout: numbers are those of the table, places those of the regions, colours those of the signs."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from parsed_page import Page
from reported_study import write_study

from neuropipe import config as configuration
from neuropipe.evaluate import tables
from neuropipe.paths import Study
from neuropipe.report import brain, drivers, page, read
from neuropipe.report import tables as boards

NETWORKS = ["Vis", "Default", "Limbic"]
RUNS = {"diagnosis_semantoks-demo_logistic_seed-0": "semantoks-demo", "diagnosis_fc_logistic": "fc"}


def pattern(n: int = 60) -> pd.DataFrame:
    """Return a pattern of the default network against the visual one."""
    network = np.resize(NETWORKS, n)
    weight = 0.001 * np.arange(n) + 1.0 * (network == "Default") - 2.0 * (network == "Vis")
    return pd.DataFrame({"region": range(n), "name": [f"r{i}" for i in range(n)], "network": network, "weight": weight})


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A study with patterns of a model and of connectivity, and centres of its regions."""
    config = write_study(tmp_path / "synthetic")
    rows = [
        pattern().assign(run_id=run, system=system, task="diagnosis", readout="logistic")
        for run, system in RUNS.items()
    ]
    tables.write(config.parent / "drivers.parquet", pd.concat(rows).assign(seed=None), tables.DRIVERS)
    regions = pattern()[["name", "network"]].assign(index=range(60), atlas="demo457", label=range(1, 61))
    rng = np.random.default_rng(0)
    centres = pd.DataFrame(rng.uniform(-50, 50, (60, 3)), columns=list("xyz"))
    regions.join(centres).to_csv(Study(config.parent).shards("demo") / "regions.tsv", sep="\t", index=False)
    return config


def view(config: Path) -> drivers.Drivers:
    results = read.read(configuration.load(config), config.parent)
    found = [board for name in results.config.tasks if (board := boards.board(results, name)) is not None]
    return drivers.view(results, found)


def test_networks_and_regions_are_those_of_the_table(config: Path) -> None:
    found = view(config).patterns
    assert [(one.task, one.system) for one in found] == [
        ("diagnosis", "semantoks-demo"),
        ("diagnosis", "Functional connectivity"),
    ]
    first, table = found[0], pattern()
    means = table.groupby("network")["weight"].mean().sort_values(ascending=False)
    assert [(one.name, one.mean) for one in first.networks] == [(n, pytest.approx(m)) for n, m in means.items()]
    assert sum(one.share for one in first.networks) == pytest.approx(1)
    assert sum(one.n_regions for one in first.networks) == first.n_regions == 60
    largest = table.reindex(table["weight"].abs().sort_values(ascending=False).index).head(10)
    assert [name for name, _, _ in first.regions] == list(largest["name"])
    assert (first.more, first.less) == ("patient", "not patient")


def test_bars_point_to_the_side_of_their_sign(config: Path) -> None:
    bars = {one.name: str(one.bar) for one in view(config).patterns[0].networks}
    assert '<rect x="100" ' in bars["Default"] and "w-plus" in bars["Default"]
    assert '<rect x="0" ' in bars["Vis"] and "w-minus" in bars["Vis"]


def test_dots_lie_at_the_centres_and_grow_with_the_weight() -> None:
    centres = np.array([[-40.0, -80.0, 10.0], [30.0, 50.0, 20.0], [np.nan] * 3])
    weights = np.array([-0.25, 1.0, 5.0])
    views = dict(brain.weighted(centres, weights, ["visual", "frontal", "nowhere"]))
    top = str(views["Top"])
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)" class="([^"]+)"><title>(\w+)', top)
    place = {title: (float(x), float(y), float(r), css) for x, y, r, css, title in circles}
    assert set(place) == {"visual", "frontal"}
    assert place["visual"][0] < place["frontal"][0]  # left is left
    assert place["visual"][1] > place["frontal"][1]  # the front is up
    assert place["frontal"][2] / place["visual"][2] == pytest.approx(2, rel=0.04)  # areas are as the weights
    assert "w-plus" in place["frontal"][3] and "w-minus" in place["visual"][3]
    left = str(views["Left"])
    xs = {t: float(x) for x, t in re.findall(r'cx="([\d.]+)"[^>]*><title>(\w+)', left)}
    assert xs["frontal"] < xs["visual"]  # seen from the left the nose points to the left


def test_without_centres_there_is_the_list_alone(config: Path) -> None:
    path = Study(config.parent).shards("demo") / "regions.tsv"
    pd.read_csv(path, sep="\t").drop(columns=["x", "y", "z"]).to_csv(path, sep="\t", index=False)
    found = view(config).patterns[0]
    assert found.brains == [] and len(found.networks) == 3


def test_centres_of_other_regions_are_not_taken(config: Path) -> None:
    path = Study(config.parent).shards("demo") / "regions.tsv"
    table = pd.read_csv(path, sep="\t")
    table.assign(name=table["name"] + "x").to_csv(path, sep="\t", index=False)
    assert view(config).patterns[0].brains == []


def test_the_page_draws_them_with_words_and_says_where_there_are_none(config: Path) -> None:
    def rendered() -> Page:
        results = read.read(configuration.load(config), config.parent)
        return Page(page.render(results, datetime(2026, 1, 2, tzinfo=UTC), "c.yaml").page)

    shown = rendered()
    assert shown.unlabelled == []
    assert "Haufe et al. 2014" in shown.text and "The 10 largest of 60 regions" in shown.text
    (config.parent / "drivers.parquet").unlink()
    assert "No pattern of a linear readout was recorded" in rendered().text


def test_names_from_files_are_shown_as_text(config: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    path = config.parent / "drivers.parquet"
    tables.write(path, pd.read_parquet(path).assign(name=hostile, network=hostile), tables.DRIVERS)
    results = read.read(configuration.load(config), config.parent)
    content = page.render(results, datetime(2026, 1, 2, tzinfo=UTC), "c.yaml").page
    assert "<img" not in content and hostile in Page(content).text

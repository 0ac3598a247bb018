"""The quality page of a made-up dataset: every run is there with its picture, and what was planted is found."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from quality_study import CUT, MOVING, NOISY, SCRUBBED, make_page, plain_regions, write

from neuropipe.errors import ConfigError
from neuropipe.provenance import read_json
from neuropipe.shards.read import Shards
from neuropipe.stages import qc

N_RUNS = 16
LIMITS = {"exclude": {"max_missing_regions": 3, "min_region_coverage": 0.5}}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of sixteen runs; one moves too much, one misses regions, one is noisy."""
    return make_page(write(tmp_path_factory.mktemp("made"), N_RUNS, plain_regions(), **LIMITS))


def rows(page: Path) -> dict[str, list[str]]:
    """Return the cells of the table of runs by run."""
    body = re.search(r'<table id="table".*?</table>', page.read_text(), re.DOTALL)
    found = {}
    for row in re.findall(r"<tr>(.*?)</tr>", body[0], re.DOTALL)[1:]:
        cells = [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        found[cells[0]] = cells[1:]
    return found


def name(number: int) -> str:
    return f"sub-{number:04d}_task-rest"


def test_every_run_is_listed_with_its_state_and_reason(page: Path) -> None:
    found = rows(page)
    assert set(found) == {name(n) for n in range(N_RUNS)} | {"sub-9999_task-rest"}
    assert found[name(0)][:2] == ["kept", "Basel"]
    assert found[name(MOVING)][0] == "left out" and "exclude.max_mean_fd_mm" in found[name(MOVING)][-1]
    assert found[name(CUT)][0] == "left out" and "found 4 (exclude.max_missing_regions)" in found[name(CUT)][-1]
    assert found["sub-9999_task-rest"][0] == "left out" and "no confounds" in found["sub-9999_task-rest"][-1]
    assert found[name(NOISY)][0] == "outlier" and "DVARS after" in found[name(NOISY)][-1]


def test_a_run_that_was_left_out_shows_what_is_known_of_it(page: Path) -> None:
    receipt = read_json(page.parents[2] / "receipts" / "made" / "parcellate-00.json")
    moving, cut = (row for row in receipt["excluded"])
    assert moving["quality"]["mean_fd_mm"] > 0.5 and "tsnr_median" not in moving["quality"]
    assert cut["quality"]["n_missing_regions"] == 4 and cut["quality"]["edge_motion_after"] > 0
    drawn = {n: (page.parent / "runs" / f"{name(n)}.svg").read_text() for n in (MOVING, CUT)}
    assert "FD" in drawn[MOVING] and "Before cleaning" not in drawn[MOVING]
    assert "After cleaning" in drawn[CUT] and "missing (below 50 %) (4)" in drawn[CUT]


def test_pictures_stand_alone_and_stale_ones_go(page: Path) -> None:
    folder = page.parent / "runs"
    assert {path.stem for path in folder.glob("*.svg")} == {name(n) for n in range(N_RUNS)}
    root = ET.fromstring((folder / f"{name(SCRUBBED)}.svg").read_text())
    links = [value for part in root.iter() for key, value in part.attrib.items() if key.endswith("href")]
    assert len(links) == 2 and all(link.startswith("data:image/png;base64,") for link in links)
    assert any(part.get("class") == "censored" for part in root.iter())
    before = (folder / f"{name(0)}.svg").read_bytes()
    (folder / "sub-gone.svg").write_text("<svg/>")
    make_page(page.parents[4] / "config.yaml")
    assert not (folder / "sub-gone.svg").exists()
    assert (folder / f"{name(0)}.svg").read_bytes() == before


def test_nothing_comes_from_the_network_and_the_page_is_small(page: Path) -> None:
    content = page.read_text()
    assert "default-src 'none'" in content
    links = re.findall(r'(?:src|href|data-src)="([^"]*)"', content)
    assert not [link for link in links if "://" in link or link.startswith("//")]
    for link in re.findall(r'data-src="([^"]*)"', content):
        assert (page.parent / link).is_file()
    assert "<img id" in content and len(re.findall("<img", content)) == 1, "pictures load when somebody looks"
    assert len(content) < 300_000


def test_tables_beside_the_page(page: Path) -> None:
    edges, regions = pd.read_parquet(page.with_name("edges.parquet")), plain_regions()
    assert len(edges) == 24 * 23 / 2
    first = edges.iloc[0]
    xyz = regions.table[["x", "y", "z"]].to_numpy()
    assert first["distance_mm"] == pytest.approx(np.linalg.norm(xyz[0] - xyz[1]), rel=1e-5)
    shards = Shards(page.parents[2] / "shards" / "made")
    z, fd = [], []
    for i, row in shards.manifest.iterrows():
        series = np.delete(np.asarray(shards.series(i), dtype=float), shards.censored(i), axis=0)
        z.append(np.arctanh(np.corrcoef(series[:, 0], series[:, 1])[0, 1]))
        fd.append(row["mean_fd"])
    assert first["qc_fc"] == pytest.approx(np.corrcoef(z, fd)[0, 1], abs=1e-3)
    assert read_json(page.with_name("group.json"))["n_people"] == N_RUNS - 2
    sites = pd.read_csv(page.with_name("sites.tsv"), sep="\t")
    assert sites["n_runs"].sum() == N_RUNS - 2 and set(sites["site"]) == {"Basel", "Lund", "Porto", "Gent"}
    outliers = pd.read_csv(page.with_name("outliers.tsv"), sep="\t")
    assert {name(NOISY)} <= set(outliers["run_id"])
    assert read_json(page.with_suffix(".json"))["GeneratedBy"]["Command"] == "neuropipe qc"


def test_few_runs_without_centres_sites_and_displacement(tmp_path: Path) -> None:
    """What ready-made series lack is said, not drawn."""
    regions = plain_regions(9)
    regions = type(regions)(regions.table.assign(x=np.nan, y=np.nan, z=np.nan, network=""))
    config = write(tmp_path, 2, regions, motion=False)
    people = tmp_path / "results" / "made" / "index" / "made" / "participants.tsv"
    people.write_text("participant_id\nsub-0000\nsub-0001\n")
    content = make_page(config).read_text()
    assert "this dataset has 0" in content and "no brain can be drawn" in content
    assert ">Site<" not in content and "Distributions" in content


def test_displacement_of_ready_made_series_comes_from_the_participants(tmp_path: Path) -> None:
    config = write(tmp_path, 12, plain_regions(9), motion=False)
    people = tmp_path / "results" / "made" / "index" / "made" / "participants.tsv"
    lines = [f"sub-{n:04d}\t{0.1 + n / 100:.2f}" for n in range(11)] + ["sub-0011\tn/a"]
    people.write_text("\n".join(["participant_id\tmean_fd", *lines]) + "\n")
    page = make_page(config)
    assert read_json(page.with_name("group.json"))["n_people"] == 11
    assert rows(page)[name(5)][1] == "0.150"


def test_an_unknown_dataset(page: Path) -> None:
    study = page.parents[2]
    with pytest.raises(ConfigError, match="no dataset 'other'; known: made"):
        qc.run(config=study.parents[1] / "config.yaml", dataset="other", output=page)

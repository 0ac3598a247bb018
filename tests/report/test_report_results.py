"""What the page shows of optional tables: curves, strips, confusion, maps, test datasets; and a study of many tasks."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import beside_tables
import large_study
import numpy as np
import pandas as pd
import pytest
import yaml
from parsed_page import Page
from reported_study import write_study
from sklearn.metrics import confusion_matrix

from neuropipe import config as configuration
from neuropipe.evaluate import tables
from neuropipe.report import learning, page, read
from neuropipe.stages import report

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MODEL = "diagnosis_semantoks-demo_logistic_seed-0"


def render(config: Path) -> str:
    """Return the page of the study beside `config`."""
    return page.render(read.read(configuration.load(config), config.parent), NOW, str(config)).page


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with every optional table, over three sites; only read by the tests that use it."""
    config = write_study(tmp_path_factory.mktemp("results") / "synthetic", "leave_one_site_out")
    beside_tables.write(config.parent)
    beside_tables.add_test_dataset(config.parent)
    return config


@pytest.fixture(scope="module")
def content(whole: Path) -> str:
    """Its page."""
    return render(whole)


@pytest.fixture
def own(tmp_path: Path, whole: Path) -> Path:
    """The same study, which a test may change."""
    shutil.copytree(whole.parent, tmp_path / "synthetic")
    return tmp_path / "synthetic" / "config.yaml"


def captions(content: str) -> list[str]:
    """Return the captions of all figures."""
    return re.findall(r"<figcaption>(.*?)</figcaption>", content)


def plots(content: str) -> dict[str, Any]:
    """Return what can be explored, by caption."""
    found = re.findall(
        r'<figcaption>([^<]*)</figcaption>\n<div class="static">(?:(?!</figure>).)*?'
        r'<script type="application/json">(.*?)</script>',
        content,
        re.S,
    )
    return {caption: json.loads(data) for caption, data in found}


def change(path: Path, columns: dict[str, Any], **values: Any) -> pd.DataFrame:
    """Write a table again with other values in some columns, and return it."""
    table = tables.read([path], columns, path.stem).assign(**values)
    tables.write(path, table, columns)
    return table


def test_every_optional_table_has_its_figure_and_a_description(content: str) -> None:
    shown = captions(content)
    for begins in (
        "Decision curves",
        "AUROC by site",
        "AUROC by how many people the readout learned from",
        "Mean absolute error by how many people the readout learned from",
        "Embedding of semantoks-demo by site",
        "Embedding of semantoks-demo by diagnosis",
        "Embedding of semantoks-demo by age",
    ):
        assert any(caption.startswith(begins) for caption in shown), begins
    assert Page(content).unlabelled == []


def test_what_is_explored_has_the_numbers_of_the_tables(whole: Path, content: str) -> None:
    found = plots(content)
    curve = next(data for caption, data in found.items() if caption.startswith("AUROC by how many"))
    table = pd.read_parquet(whole.parent / "efficiency.parquet")
    means = table[table["run_id"] == MODEL].groupby("n_people")["value"].mean()
    assert curve["log"]
    assert curve["traces"][0]["x"] == list(means.index)
    np.testing.assert_allclose(curve["traces"][0]["y"], means, rtol=5e-3)
    by_site = next(data for caption, data in found.items() if "by site" in caption)
    places = pd.read_parquet(whole.parent / "places.parquet")
    places = places[places["task"] == "age"]
    assert {trace["name"]: len(trace["x"]) for trace in by_site["traces"]} == places["site"].value_counts().to_dict()


def test_a_curve_of_treating_everybody_crosses_zero_at_the_prevalence(content: str) -> None:
    data = next(data for caption, data in plots(content).items() if caption.startswith("Decision"))
    everybody = data["traces"][-1]
    assert everybody["name"] == "Treating everybody"
    crossing = np.interp(0, -np.array(everybody["y"]), everybody["x"])
    assert crossing == pytest.approx(0.5, abs=0.02)  # half of the people are patients


def test_confusion_is_counted_at_the_recorded_threshold(own: Path) -> None:
    root = own.parent
    metrics = tables.read([root / "metrics.parquet"], tables.METRICS, "metrics")
    change(
        root / "metrics.parquet", tables.METRICS, threshold=metrics["threshold"].where(metrics["threshold"].isna(), 0.7)
    )
    rows = pd.read_parquet(root / "predictions.parquet")
    rows = rows[rows["run_id"] == MODEL]
    (tn, fp), (fn, tp) = confusion_matrix(rows["y"], rows["score"] >= 0.7)
    content = render(own)
    n = len(rows) // 2
    for said in (
        f"not patient called not patient: {tn} of {n} people",
        f"not patient called patient: {fp} of {n} people",
        f"patient called not patient: {fn} of {n} people",
        f"patient called patient: {tp} of {n} people",
    ):
        assert f"<title>{said} " in content, said
    assert any("threshold 0.7" in caption for caption in captions(content))


def test_probabilities_are_shown_as_their_metrics_judge_them(own: Path) -> None:
    path = own.parent / "metrics.parquet"
    table = tables.read([path], tables.METRICS, "metrics")
    known = table["threshold"].notna()
    change(path, tables.METRICS, temperature=known.map({True: 1.0, False: np.nan}), bias=30.0)
    shown = render(own)
    rows = pd.read_parquet(own.parent / "predictions.parquet")
    rows = rows[rows["run_id"] == MODEL]
    patients, others = int(rows["y"].sum()), int((1 - rows["y"]).sum())
    # A bias of 30 makes everybody certain, and everybody is called positive.
    assert f"<title>patient called patient: {patients} of {patients} people" in shown
    assert f"<title>not patient called patient: {others} of {others} people" in shown
    drawing = shown.split("<figcaption>Calibration:")[1].split("</figure>")[0]
    assert len(set(re.findall(r'<circle cx="([\d.]+)"', drawing))) == 1


def test_confusion_is_not_shown_where_the_calibration_is_not_known(own: Path) -> None:
    change(own.parent / "metrics.parquet", tables.METRICS, temperature=2.0)
    assert not any("true classes in rows" in caption for caption in captions(render(own)))


def test_a_test_dataset_has_its_own_leaderboard_and_is_no_fold(own: Path, content: str) -> None:
    assert "diagnosis on outside, which no training saw" in content
    metrics = pd.read_parquet(own.parent / "metrics.parquet")
    own_rows = metrics[(metrics["run_id"] == MODEL) & (metrics["metric"] == "auroc")]
    outside = own_rows.loc[own_rows["fold"] == "external", "value"].iloc[0]
    inside = own_rows.loc[own_rows["fold"] == "mean", "value"].iloc[0]
    shown = Page(content)
    assert shown.cells[MODEL][0] == (str(inside), f"{inside:.3f}")
    assert f"semantoks-demo {outside:.3f}" in content  # in the description of the second forest plot
    assert "<title>external, " not in content


def test_seeds_confounds_and_sites_have_tables(own: Path) -> None:
    path = own.parent / "metrics.parquet"
    metrics = tables.read([path], tables.METRICS, "metrics")
    row = metrics[(metrics["run_id"] == MODEL) & (metrics["metric"] == "auroc") & (metrics["fold"] == "mean")].head(1)
    seeds = {"run_id": "diagnosis_semantoks-demo_logistic_seeds", "seed": None}
    more = [
        row.assign(metric="site_balanced_accuracy", value=0.456, null_mean=0.333, reference="fc", delta=-0.111),
        row.assign(metric="identification_top1", value=0.789, reference=None),
        row.assign(metric="dependence_mean_fd", value=-0.234, p_perm=0.017, reference=None),
        row.assign(metric="auroc_seed_mean", value=0.701, **seeds),
        row.assign(metric="auroc_seed_sd", value=0.012, **seeds),
        row.assign(metric="seed_icc", value=0.912, **seeds),
    ]
    tables.write(path, pd.concat([metrics, *more]), tables.METRICS)
    text = Page(render(own)).text
    assert "Site told (balanced accuracy) 0.456" in text
    assert "0.333 −0.111" in text
    assert "Told again by a second session (top 1) 0.789" in text
    assert "mean_fd −0.234" in text
    assert "Mean of AUROC" in text
    assert re.search(r"0\.701 .{5,30} 0\.012 0\.912 –", text)
    assert "seed sd" not in text  # is no column of the other metrics


def test_what_went_through_combat_is_named_and_compared_with_the_plain_reference(own: Path) -> None:
    for name, columns in (("metrics", tables.METRICS), ("predictions", tables.PREDICTIONS)):
        path = own.parent / f"{name}.parquet"
        table = tables.read([path], columns, name)
        twin = table[table["system"].isin(["fc", "semantoks-demo"])]
        twin = twin.assign(system=twin["system"] + " (ComBat)", harmonisation="combat")
        twin["run_id"] = twin["run_id"].str.replace("_logistic", " (ComBat)_logistic", regex=False)
        tables.write(path, pd.concat([table, twin[twin["task"] == "diagnosis"]]), columns)
    content = render(own)
    assert "Functional connectivity, ComBat" in content
    assert "semantoks-demo, ComBat" in content
    assert "semantoks-demo and functional connectivity" in content  # the verdict stays that of the plain ones


def test_classes_of_more_than_two_have_a_confusion_matrix(own: Path) -> None:
    """Until probe and baselines answer such tasks, the rows are those of a binary one with three labels."""
    root = own.parent
    settings = yaml.safe_load(own.read_text())
    settings["tasks"]["diagnosis"] = settings["tasks"]["diagnosis"] | {"kind": "multiclass", "positive": None}
    own.write_text(yaml.safe_dump(settings))
    names = np.array(["control", "other", "patient"])
    rows = pd.read_parquet(root / "predictions.parquet")
    rng = np.random.default_rng(0)
    rows["y"] = np.where(rows["task"] == "diagnosis", rng.integers(0, 3, len(rows)), rows["y"])
    rows["yhat"] = np.where(rows["task"] == "diagnosis", rng.integers(0, 3, len(rows)), rows["yhat"])
    of_task = rows["task"] == "diagnosis"
    for column, place in (("label", "y"), ("predicted", "yhat")):
        rows[column] = None
        rows.loc[of_task, column] = names[rows.loc[of_task, place].astype(int)]
    rows.to_parquet(root / "predictions.parquet")
    mine = rows[rows["run_id"] == MODEL]
    counts = confusion_matrix(mine["label"], mine["predicted"], labels=names)
    content = render(own)
    for truth, row in zip(names, counts, strict=True):
        for answer, n in zip(names, row, strict=True):
            assert f"<title>{truth} called {answer}: {n} of {row.sum()} people" in content


def test_a_learning_curve_has_the_same_folds_at_every_point() -> None:
    sizes = {"A": (16, 32, 64, 100), "B": (16, 32, 60)}  # the last is everybody
    rows = [{"repeat": 0, "fold": fold, "n_people": n, "value": n} for fold, own in sizes.items() for n in own]
    found = learning.over_folds(pd.DataFrame(rows))
    assert found.groupby("n_people")["fold"].apply("".join).to_dict() == {16: "AB", 32: "AB", 80: "AB"}
    assert found.loc[found["n_people"] == 80, "value"].tolist() == [100, 60]
    single = pd.DataFrame(rows[:4])
    assert learning.over_folds(single) is single


def test_a_map_says_who_learned_who_chose_and_who_is_external(own: Path) -> None:
    path = own.parent / "places.parquet"
    places = tables.read([path], tables.PLACES, "places")
    mine = (places["task"] == "diagnosis") & (places["role"] == "train")
    places.loc[places.index[mine][:3], "role"] = "validation"
    places.loc[places.index[mine][3:8], "role"] = "external"
    tables.write(path, places, tables.PLACES)
    n = int(mine.sum()) - 8
    said = f"{n} training, 3 validation and 5 external people small"
    assert sum(said in caption for caption in captions(render(own))) == 2  # by site and by label


def test_people_beyond_the_limit_are_not_drawn_but_counted(own: Path) -> None:
    path = own.parent / "places.parquet"
    table = tables.read([path], tables.PLACES, "places")
    many = pd.concat([table.assign(participant_id=table["participant_id"] + f"-{n}") for n in range(10)])
    tables.write(path, many, tables.PLACES)
    content = render(own)
    n = len(table[table["task"] == "age"]) * 5
    assert f"{n} training people small, {n} tested people large; 400 are drawn" in content


def test_a_corrected_p_stands_in_the_forest_plot_and_its_description(own: Path, content: str) -> None:
    path = own.parent / "metrics.parquet"
    p = {"fc": 0.0123, "semantoks-demo (random weights)": 0.9}
    metrics = tables.read([path], tables.METRICS, "metrics")
    change(path, tables.METRICS, p_holm=metrics["reference"].map(p))
    shown = render(own)
    assert "p = 0.012</span>" in shown
    assert ", p = 0.012;" in shown
    assert "p = 0.9" not in shown  # of the comparison with random weights, which the summary tells
    assert "p = " not in re.sub(r"permutation p = ", "", Page(content).text)  # three folds have no corrected test


def test_every_link_to_a_file_resolves(own: Path) -> None:
    output = own.parent / "report" / "index.html"
    report.run(config=own, study=own.parent, output=output)
    linked = [link for link in Page(output.read_text()).links if not link.startswith("#")]
    assert linked
    assert [link for link in linked if not (output.parent / link).is_file()] == []


@pytest.mark.slow
def test_twenty_tasks_and_twelve_systems_stay_below_five_megabytes(tmp_path: Path) -> None:
    config = large_study.write(tmp_path / "large", n_tasks=20, n_people=900)
    content = render(config)
    shown = Page(content)
    assert len(shown.cells) == 20 * 12
    assert sum(caption.startswith("Embedding of") for caption in captions(content)) == 40
    assert len(content.encode()) < 5_000_000
    assert (
        content.count('<li class="good"><a href="#task-') + content.count('<li class="neutral"><a href="#task-') == 20
    )
    assert {link.removeprefix("#") for link in shown.links if link.startswith("#")} <= set(shown.ids)

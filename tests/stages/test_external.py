"""External validation: people of a dataset that no training saw are told by what every training fold learned."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
from judged_study import CONFIG, participants, write_embeddings, write_study
from sklearn.metrics import mean_absolute_error, roc_auc_score

from neuropipe.errors import NeuropipeError, SplitError
from neuropipe.evaluate import tables
from neuropipe.paths import Study
from neuropipe.provenance import read_json
from neuropipe.stages import baselines, evaluate, probe, split

TASKS = {"diagnosis": "main", "age": "main", "diagnosis-sites": "sites"}


def settings(**of_away) -> dict:
    content = copy.deepcopy(CONFIG)
    content["datasets"]["away"] = {"kind": "series", "path": "nowhere", "atlas": "toy", **of_away}
    for task in content["tasks"].values():
        task["test_datasets"] = ["away"]
    content["evaluate"] |= {"permutations": 10, "learning_curve_draws": 1}
    return content


def others() -> pd.DataFrame:
    """Forty people of other sites; `sub-0000` ... are other people than those of toy unless a config links them."""
    people = participants(np.random.default_rng(5)).iloc[:40].reset_index(drop=True)
    people["participant_id"] = [f"sub-{i + 50:04d}" for i in range(40)]  # the first ten ids are those of toy's last
    return people.assign(site=people["site"].map({"A": "X", "B": "Y", "C": "Y"}))


def prepared(root, content, people=None, **embeddings):
    config = write_study(root, config=content)
    write_study(root, config=content, people=others() if people is None else people, dataset="away", seed=9)
    study = Study(root)
    for name in ("main", "sites"):
        split.run(config=config, split=name, shards=[study.shards("toy")], output=study.split(name))
    frozen = {name: pd.read_parquet(study.split(name) / "splits.parquet") for name in ("main", "sites")}
    folder = write_embeddings(root, frozen, datasets=("toy", "away"), **embeddings)
    return study, {"config": config, "shards": [study.shards(n) for n in ("toy", "away")], "embeddings": [folder]}


def answered(study, common, task="diagnosis", part="probe"):
    stage = {"probe": probe, "baselines": baselines}[part]
    output = study.task(task, part)
    stage.run(task=task, split_dir=study.split(TASKS[task]), output=output, **common)
    return tables.read([output / "predictions.parquet"], tables.PREDICTIONS, "predictions")


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A study up to its metrics."""
    root = tmp_path_factory.mktemp("external")
    study, common = prepared(root, settings())
    for task in ("age", "diagnosis-sites"):
        for part in ("probe", "baselines"):
            answered(study, common, task, part)
    evaluate.run(
        config=common["config"],
        predictions=sorted(root.glob("tasks/*/*/predictions.parquet")),
        splits=[study.split("main"), study.split("sites")],
        output=root / "metrics.parquet",
    )
    return root


def test_external_people_are_told_by_every_fold_and_change_nothing_else(judged, tmp_path):
    predictions = pd.read_parquet(judged / "predictions.parquet")
    outside = predictions[predictions["role"] == "external"]
    assert set(outside["dataset"]) == {"away"} and set(outside["site"]) == {"X", "Y"}
    counts = outside.groupby(["run_id", "fold"])["participant_id"].nunique()
    assert set(counts) == {40}
    assert set(outside.loc[outside["task"] == "diagnosis-sites", "fold"]) == {"A", "B", "C"}
    assert not (predictions.loc[predictions["role"] != "external", "dataset"] == "away").any()
    assert not (pd.read_parquet(judged / "nulls.parquet")["dataset"] == "away").any()

    content = settings()
    for task in content["tasks"].values():
        del task["test_datasets"]
    study, common = prepared(tmp_path, content)
    alone = answered(study, common, "age", "baselines")
    columns = ["run_id", "role", "participant_id", "yhat"]
    both = predictions[predictions["run_id"].isin(alone["run_id"]) & (predictions["role"] != "external")]
    keys = ["run_id", "participant_id"]
    a, b = (t[columns].sort_values(keys, ignore_index=True) for t in (alone, both))
    pd.testing.assert_frame_equal(a, b, check_dtype=False, rtol=1e-5, atol=1e-6)


def test_the_value_is_the_mean_over_training_folds_and_its_interval_is_over_external_people(judged):
    metrics = pd.read_parquet(judged / "metrics.parquet")
    rows = metrics[metrics["fold"] == "external"]
    assert set(rows["dataset"]) == {"away"} and set(rows["n_test"]) == {40}
    assert rows["p_perm"].isna().all() and rows["p_nb"].isna().all() and rows["p_holm"].isna().all()
    predictions = pd.read_parquet(judged / "predictions.parquet")
    outside = predictions[predictions["role"] == "external"]
    for run_id, own in outside.groupby("run_id"):
        binary = own["target_type"].iloc[0] == "binary"
        folds = [
            roc_auc_score(part["y"], part["score"]) if binary else mean_absolute_error(part["y"], part["yhat"])
            for _, part in own.groupby("fold")
        ]
        row = rows[(rows["run_id"] == run_id) & (rows["metric"] == ("auroc" if binary else "mae"))].iloc[0]
        assert row["value"] == pytest.approx(np.mean(folds)), run_id
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert row["ci_method"] in ("bootstrap", "bootstrap_stratified", "exact_pairs")
    fc = rows[(rows["run_id"] == "diagnosis-sites_fc_logistic") & (rows["metric"] == "auroc")].iloc[0]
    assert fc["value"] > 0.9 and fc["n_train"] == 40  # the planted effect is the same elsewhere
    lost = rows[(rows["run_id"] == "diagnosis-sites_confounds_logistic") & (rows["metric"] == "auroc")].iloc[0]
    assert lost["reference"] == "fc" and lost["delta"] == pytest.approx(lost["value"] - fc["value"])
    assert lost["delta_ci_high"] < 0
    twin = rows[(rows["run_id"] == "age_recipe_ridge_seed-0") & (rows["metric"] == "mae")]
    assert set(twin["reference"]) == {"fc", "recipe (random weights)", "majority"}


def test_the_primary_rows_stay_those_of_the_split(judged):
    metrics = pd.read_parquet(judged / "metrics.parquet")
    primary = metrics[metrics["fold"] == "mean"]
    assert set(primary["dataset"]) == {"toy"}
    assert set(primary.loc[primary["metric"] == "mae", "n_test"]) == {24}
    assert set(primary.loc[primary["metric"] == "site_balanced_accuracy", "n_test"]) == {60}
    checks = read_json(judged / "leakage.json")["checks"]
    assert {"check": "predictions follow the split", "where": "main", "passed": True} in checks


def test_what_is_shown_of_features_says_who_is_external_and_counts_only_people_of_the_split(judged):
    for name in ("places", "familiarity"):
        table = pd.read_parquet(judged / "tasks" / "age" / "probe" / f"{name}.parquet")
        assert ((table["role"] == "external") == (table["dataset"] == "away")).all(), name
        assert (table["role"] == "external").sum() == 40, name
    assert set(pd.read_parquet(judged / "sites.parquet")["dataset"]) == {"toy"}


def test_predictions_alone_give_the_identical_metrics(judged, tmp_path):
    for name in ("confounds", "familiarity", "nulls", "predictions", "sites"):
        (tmp_path / f"{name}.parquet").write_bytes((judged / f"{name}.parquet").read_bytes())
    evaluate.run(predictions=[tmp_path / "predictions.parquet"])
    assert (tmp_path / "metrics.parquet").read_bytes() == (judged / "metrics.parquet").read_bytes()


def test_people_whom_training_may_know_are_left_out_and_listed(tmp_path):
    study, common = prepared(tmp_path, settings(people_of="toy"))  # equal ids are now one person
    predictions = answered(study, common)
    outside = predictions[predictions["role"] == "external"]
    assert set(outside["participant_id"]) == {f"sub-{i:04d}" for i in range(60, 90)}
    listed = pd.read_csv(study.task("diagnosis", "probe") / "excluded.tsv", sep="\t", dtype=str)
    assert listed["participant_id"].tolist() == [f"sub-{i:04d}" for i in range(50, 60)]
    assert set(listed["dataset"]) == {"away"} and set(listed["reason"]) == {"not external"}


def test_a_test_dataset_without_anybody_else_is_refused(tmp_path):
    study, common = prepared(tmp_path, settings(people_of="toy"), others().iloc[:10])
    with pytest.raises(SplitError, match=r"the test dataset away needs people of every class .* found 0 people"):
        answered(study, common)


def test_pretraining_on_external_people_is_refused(tmp_path):
    study, common = prepared(tmp_path, settings(), extra=["away/sub-0060", "away/sub-0061"])
    with pytest.raises(SplitError, match="recipe, fold 0: pretraining saw 2 people of the test datasets away"):
        answered(study, common)


def test_other_regions_are_refused(tmp_path):
    from neuropipe.signals.regions import Regions

    study, common = prepared(tmp_path, settings())
    Regions.plain("another", 12).write(study.shards("away") / "regions.tsv")
    with pytest.raises(NeuropipeError, match="Task 'diagnosis': the regions of away"):
        answered(study, common)

"""``neuropipe evaluate``: metrics from predictions and nulls alone, the same every time."""

from __future__ import annotations

import hashlib
import shutil

import pandas as pd
import pytest
from judged_study import write_embeddings, write_study

from neuropipe.errors import InputError, SplitError
from neuropipe.evaluate import tables
from neuropipe.paths import Study
from neuropipe.provenance import read_json
from neuropipe.stages import baselines, evaluate, probe, split

TWINS = [("age", "ridge"), ("diagnosis-sites", "logistic"), ("diagnosis", "logistic")]
TASKS = {"diagnosis": "main", "age": "main", "diagnosis-sites": "sites"}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A study up to its metrics."""
    root = tmp_path_factory.mktemp("judged")
    config, study = write_study(root), Study(root)
    shards = [study.shards("toy")]
    for name in ("main", "sites"):
        split.run(config=config, split=name, shards=shards, output=study.split(name))
    frozen = {name: pd.read_parquet(study.split(name) / "splits.parquet") for name in ("main", "sites")}
    common = {"config": config, "shards": shards, "embeddings": [write_embeddings(root, frozen)]}
    for task, name in TASKS.items():
        for part, stage in (("probe", probe), ("baselines", baselines)):
            stage.run(task=task, split_dir=study.split(name), output=study.task(task, part), **common)
    evaluate.run(
        config=config,
        predictions=sorted(root.glob("tasks/*/*/predictions.parquet")),
        splits=[study.split("main"), study.split("sites")],
        output=root / "metrics.parquet",
    )
    return root


def test_the_planted_truth_is_told(judged):
    metrics = pd.read_parquet(judged / "metrics.parquet")
    primary = metrics[(metrics["fold"] == "mean") & metrics["metric"].isin(["auroc", "mae"])].set_index("run_id")
    untrained = primary["reference"].eq("recipe (random weights)").fillna(False)
    means = primary[primary["reference"].eq("majority").fillna(False)]
    twins, primary = primary[untrained], primary[~untrained & ~primary.index.duplicated()]
    assert primary.loc["diagnosis_fc_ridge", "value"] == 1
    assert primary.loc["diagnosis_fc_ridge", "ci_low"] > 0.7
    assert primary.loc["diagnosis-sites_fc_ridge", "p_perm"] == pytest.approx(1 / 61)
    assert primary.loc["diagnosis_confounds_logistic", "delta_ci_high"] < 0
    assert primary.loc["age_recipe_ridge_seed-0", "p_perm"] == pytest.approx(1 / 61)
    assert primary.loc["age_fc_ridge", "p_perm"] > 0.05
    assert primary["reference"].dropna().unique().tolist() == ["fc"]
    assert sorted(twins.index) == [f"{task}_recipe_{readout}_seed-0" for task, readout in TWINS]
    assert twins.loc["diagnosis_recipe_logistic_seed-0", "delta_ci_low"] > 0
    assert means.index.tolist() == ["age_recipe_ridge_seed-0"]
    assert means["delta_ci_high"].item() < 0  # the model beats the mean of the training people
    assert (
        metrics.loc[metrics["task"] == "diagnosis-sites", "fold"].unique() == ["A", "B", "C", "mean", "pooled"]
    ).all()


def test_predictions_alone_give_the_identical_metrics(judged, tmp_path):
    given = [f"{name}.parquet" for name in ("confounds", "familiarity", "nulls", "predictions", "sites")]
    for name in given:
        shutil.copy(judged / name, tmp_path)
    evaluate.run(predictions=[tmp_path / "predictions.parquet"])
    made = ["breakdown.parquet", "metrics.csv", "metrics.parquet", "net_benefit.parquet"]
    for name in made:
        assert (tmp_path / name).read_bytes() == (judged / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*given, *made, "metrics.json"])


def test_without_confounds_everything_else_is_the_same(judged, tmp_path):
    for name in ("familiarity", "nulls", "predictions", "sites"):
        shutil.copy(judged / f"{name}.parquet", tmp_path)
    evaluate.run(predictions=[tmp_path / "predictions.parquet"])
    whole, found = (pd.read_parquet(folder / "metrics.parquet") for folder in (judged, tmp_path))
    rest = whole[~whole["metric"].str.startswith("dependence_")]
    pd.testing.assert_frame_equal(found, rest.reset_index(drop=True))
    assert len(rest) < len(whole)


def test_confounds_sites_and_decisions_are_broken_down(judged):
    metrics, groups = (pd.read_parquet(judged / f"{name}.parquet") for name in ("metrics", "breakdown"))
    names = metrics.loc[metrics["metric"].str.startswith("dependence_"), ["task", "metric"]].drop_duplicates()
    found = names.groupby("task")["metric"].agg(lambda part: sorted(name.removeprefix("dependence_") for name in part))
    assert found.to_dict() == {
        "age": ["duration_s", "mean_fd", "sex"],
        "diagnosis": ["age", "duration_s", "mean_fd", "sex", "site"],
        "diagnosis-sites": ["duration_s", "sex"],
    }
    assert set(groups.loc[groups["column"] == "site", "group"]) == {"A", "B", "C"}
    own = groups[(groups["run_id"] == "diagnosis-sites_fc_ridge") & (groups["column"] == "site")].set_index("group")
    folds = metrics[(metrics["run_id"] == "diagnosis-sites_fc_ridge") & (metrics["metric"] == "auroc")]
    folds = folds.set_index("fold")["value"]
    assert own["value"].to_dict() == pytest.approx(folds[["A", "B", "C"]].to_dict())
    assert own["n"].sum() == 60
    curves = pd.read_parquet(judged / "net_benefit.parquet")
    assert curves.groupby("run_id").size().unique().tolist() == [99]
    assert set(curves["readout"]) == {"logistic", "baseline"}  # ridge gives no probabilities


def test_the_joined_tables_hold_every_part(judged):
    predictions = tables.read([judged / "predictions.parquet"], tables.PREDICTIONS, "predictions")
    parts = [pd.read_parquet(path) for path in judged.glob("tasks/*/*/predictions.parquet")]
    assert len(predictions) == sum(map(len, parts))
    assert predictions.attrs == {"bootstrap": "200", "permutations": "60", "seed": "3"}
    curves = tables.read([judged / "efficiency.parquet"], tables.EFFICIENCY, "learning curves")
    assert set(curves["run_id"]) == set(predictions.loc[predictions["system"] != "majority", "run_id"])
    draws = curves[(curves["task"] == "age") & (curves["metric"] == "mae")].groupby(["run_id", "n_people"]).size()
    assert draws.unstack().to_dict("list") == {16: [3] * 4, 36: [1] * 4}
    runs = set(predictions["run_id"])
    assert set(pd.read_parquet(judged / "metrics.parquet")["run_id"]) == runs
    assert set(pd.read_parquet(judged / "costs.parquet")["run_id"]) <= runs
    assert set(pd.read_parquet(judged / "nulls.parquet")["run_id"]) <= runs


def test_the_leakage_audit_is_written(judged):
    checks = read_json(judged / "leakage.json")["checks"]
    assert {check["check"] for check in checks} == {
        "shuffled labels score at chance",
        "no test person in pretraining",
        "predictions follow the split",
        "no transform fitted outside the training side",
        "every transform was fitted on people of the training side",
        "how well the embedding tells the site is reported beside the reference",
    }
    assert all(check["passed"] for check in checks)


def test_the_sidecar_says_what_the_metrics_were_made_from(judged):
    about = read_json(judged / "metrics.json")
    assert about["GeneratedBy"]["Command"] == "neuropipe evaluate"
    assert about["Settings"] == {"bootstrap": 200, "permutations": 60, "seed": 3}
    part = judged / "tasks/age/probe/nulls.parquet"
    assert about["Inputs"]["tasks/age/probe/nulls.parquet"] == hashlib.sha256(part.read_bytes()).hexdigest()
    assert len(about["Inputs"]) == 5 * len(TASKS)


def test_predictions_of_another_split_are_refused(judged, tmp_path):
    study = Study(judged)
    folder = tmp_path / "main"
    folder.mkdir()
    table = pd.read_parquet(study.split("main") / "splits.parquet")
    table["role"] = table["role"].map({"train": "test", "test": "train"})
    table.to_parquet(folder / "splits.parquet")
    with pytest.raises(SplitError, match="do not follow the split 'main'"):
        evaluate.run(predictions=[judged / "predictions.parquet"], splits=[folder], output=tmp_path / "metrics.parquet")
    assert not (tmp_path / "metrics.parquet").exists()


def test_what_is_missing_is_named(judged, tmp_path):
    with pytest.raises(InputError, match=r"No predictions at .*nowhere"):
        evaluate.run(predictions=[tmp_path / "nowhere.parquet"])
    part = Study(judged).task("age", "probe") / "predictions.parquet"
    with pytest.raises(InputError, match="give --config as well"):
        evaluate.run(predictions=[part], output=tmp_path / "metrics.parquet")

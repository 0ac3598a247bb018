"""A task of several classes, every readout, joined features and drivers, from shards to metrics."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
from judged_study import CONFIG, N_REGIONS, participants, write_embeddings, write_study
from sklearn.metrics import balanced_accuracy_score, f1_score

from neuropipe import config as configuration
from neuropipe.errors import ConfigError
from neuropipe.evaluate import tables
from neuropipe.paths import Study
from neuropipe.stages import baselines, evaluate, probe, split

STAGES = ("control", "mild", "severe")
TASKS = {
    "stage": {"target": "stage", "kind": "multiclass", "datasets": ["toy"], "split": "main", "confounds": ["age"]},
    "diagnosis": CONFIG["tasks"]["diagnosis"],
}


def config() -> dict:
    asked = copy.deepcopy(CONFIG) | {"tasks": copy.deepcopy(TASKS)}
    asked["splits"]["main"]["stratify"] = ["stage"]
    asked["evaluate"] |= {
        "readouts": ["linear", "knn", "attentive"],
        "combine": ["fc"],
        "permutations": 20,
        "learning_curve_draws": 0,
    }
    return asked


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    root = tmp_path_factory.mktemp("classes")
    people = participants(np.random.default_rng(0))
    patient = people["diagnosis"] == "patient"
    people["stage"] = np.where(~patient, "control", np.where(people["age"] > 40, "severe", "mild"))
    written, study = write_study(root, config=config(), people=people), Study(root)
    shards = [study.shards("toy")]
    split.run(config=written, split="main", shards=shards, output=study.split("main"))
    embeddings = write_embeddings(root, {"main": pd.read_parquet(study.split("main") / "splits.parquet")})
    for task in TASKS:
        about = {"config": written, "task": task, "split_dir": study.split("main"), "shards": shards}
        baselines.run(**about, embeddings=[embeddings], output=study.task(task, "baselines"))
        probe.run(**about, embeddings=[embeddings], output=study.task(task, "probe"))
    return study


def read(study: Study, name: str, columns: dict) -> pd.DataFrame:
    folders = [study.task(task, stage) for task in TASKS for stage in ("baselines", "probe")]
    return tables.read([folder / name for folder in folders], columns, name)


def test_every_system_and_readout_answers_about_the_classes(study):
    table = read(study, "predictions.parquet", tables.PREDICTIONS)
    table = table[table["task"] == "stage"]
    runs = {(system, readout) for system, readout in zip(table["system"], table["readout"], strict=True)}
    frozen = {"recipe", "recipe (random weights)", "recipe + fc", "recipe + fc (random weights)", "confounds"}
    expected = {(system, readout) for system in frozen for readout in ("logistic", "knn")}
    assert runs == expected | {("fc", r) for r in ("logistic", "knn", "ridge")} | {("majority", "baseline")}
    assert set(table["label"]) == set(STAGES)
    given = table[table["readout"] != "ridge"]["probability"]
    np.testing.assert_allclose([sum(shares) for shares in given], 1, rtol=1e-5)
    scores = {run: balanced_accuracy_score(rows["y"], rows["yhat"]) for run, rows in table.groupby("run_id")}
    assert scores["stage_recipe_logistic_seed-0"] > scores["stage_majority_baseline"] == pytest.approx(1 / 3)


def test_choices_say_share_and_neighbours(study):
    choices = read(study, "choices.parquet", tables.CHOICES)
    for run, rows in choices.groupby("run_id"):
        assert rows["share"].notna().all() == ("_beside_" in run)
        assert rows["n_neighbours"].notna().all() == ("_knn" in run)
        assert rows["strength"].notna().all() == ("_knn" not in run)
        assert rows["chosen"].sum() == 1


def test_evaluation_of_classes_is_scikit_learns(study):
    predictions = [
        study.task(task, stage) / "predictions.parquet" for task in TASKS for stage in ("baselines", "probe")
    ]
    evaluate.run(predictions=predictions, config=study.root / "config.yaml", output=study.root / "metrics.parquet")
    metrics = tables.read([study.root / "metrics.parquet"], tables.METRICS, "metrics")
    table = read(study, "predictions.parquet", tables.PREDICTIONS)
    for run in ("stage_fc_ridge", "stage_recipe_knn_seed-0", "stage_recipe_beside_fc_logistic_seed-0"):
        rows, own = table[table["run_id"] == run], metrics[metrics["run_id"] == run].set_index("metric")
        for name, score in (("balanced_accuracy", balanced_accuracy_score), ("macro_f1", None)):
            expected = score(rows["y"], rows["yhat"]) if score else f1_score(rows["y"], rows["yhat"], average="macro")
            found = np.atleast_1d(own.loc[name, "value"])
            np.testing.assert_allclose(found, expected)
        assert own.loc["balanced_accuracy", "p_perm"] is not pd.NA
    drivers = tables.read([study.root / "drivers.parquet"], tables.DRIVERS, "drivers")
    assert set(drivers["run_id"]) >= {"diagnosis_fc_ridge", "diagnosis_recipe_logistic_seed-0"}
    assert set(drivers["task"]) == {"diagnosis"}  # one number per region does not tell several classes
    planted = drivers[drivers["run_id"] == "diagnosis_fc_ridge"].set_index("region")["weight"]
    assert len(planted) == N_REGIONS
    assert planted[:4].min() > planted[4:].max()  # the patients' regions share a source


def test_networks_are_not_trained_for_several_classes():
    asked = config()
    asked["pretrain"] = {"neuroclr": {"datasets": ["toy"], "finetune": ["stage"]}}
    with pytest.raises(ConfigError, match=r"pretrain.neuroclr.finetune: task stage has several classes.*leave it out"):
        configuration.parse(asked)

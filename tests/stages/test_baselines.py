"""``neuropipe baselines``: what every model must beat, on the same folds with the same nulls."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
from judged_study import CONFIG, write_embeddings, write_study
from sklearn.metrics import mean_absolute_error, roc_auc_score

from neuropipe.evaluate import tables
from neuropipe.evaluate.features import fisher_z
from neuropipe.paths import Study
from neuropipe.shards.read import Shards
from neuropipe.stages import baselines, split


def answered(root, task="diagnosis", config=None):
    written, study = write_study(root, config=config), Study(root)
    split.run(config=written, split="main", shards=[study.shards("toy")], output=study.split("main"))
    embeddings = write_embeddings(root, {"main": pd.read_parquet(study.split("main") / "splits.parquet")})
    baselines.run(
        config=written,
        task=task,
        split_dir=study.split("main"),
        shards=[study.shards("toy")],
        embeddings=[embeddings],
        output=study.task(task, "baselines"),
    )
    return study.task(task, "baselines")


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory):
    return answered(tmp_path_factory.mktemp("diagnosis"))


def predictions(folder) -> pd.DataFrame:
    return tables.read([folder / "predictions.parquet"], tables.PREDICTIONS, "predictions")


def auroc(folder) -> dict[str, float]:
    return {run: roc_auc_score(rows["y"], rows["score"]) for run, rows in predictions(folder).groupby("run_id")}


def test_all_systems_answer_about_the_same_people(diagnosis):
    table = predictions(diagnosis)
    assert sorted(table["run_id"].unique()) == [
        "diagnosis_confounds_logistic",
        "diagnosis_fc_logistic",
        "diagnosis_fc_ridge",
        "diagnosis_majority_baseline",
        "diagnosis_recipe-random-weights_logistic_seed-0",
    ]
    people = table.groupby("run_id")["participant_id"].apply(tuple)
    assert people.nunique() == 1
    assert set(table.loc[table["system"] == "confounds", "confound_set"]) == {"age+sex+site+mean_fd+duration_s"}


def test_connectivity_finds_the_planted_effect_and_the_others_do_not(diagnosis):
    found = auroc(diagnosis)
    assert found["diagnosis_fc_ridge"] > 0.95
    assert found["diagnosis_fc_logistic"] > 0.95
    assert found["diagnosis_majority_baseline"] == 0.5
    assert found["diagnosis_confounds_logistic"] < 0.75
    assert found["diagnosis_recipe-random-weights_logistic_seed-0"] < 0.75


def test_all_nulls_permute_the_labels_in_the_same_way(diagnosis):
    nulls = tables.read([diagnosis / "nulls.parquet"], tables.NULLS, "nulls")
    labels = {run: np.stack(rows["y"].to_list()) for run, rows in nulls.groupby("run_id")}
    assert len(labels) == 4  # the majority has none
    first = labels.pop("diagnosis_fc_ridge")
    assert all((other == first).all() for other in labels.values())
    table = predictions(diagnosis)
    y = table.loc[table["system"] == "majority", ["participant_id", "y"]].set_index("participant_id")["y"]
    np.testing.assert_array_equal(first.sum(axis=0), y.sum())


def test_numbers_have_their_mean_and_their_target_is_no_confound(tmp_path):
    folder = answered(tmp_path, "age")
    table = predictions(folder)
    majority = table[table["system"] == "majority"]
    assert majority["yhat"].nunique() == 1
    participants = pd.read_csv(Study(tmp_path).participants("toy"), sep="\t").set_index("participant_id")["age"]
    train = participants.drop(majority["participant_id"])
    assert mean_absolute_error(majority["y"], majority["yhat"]) == pytest.approx(
        (participants[majority["participant_id"]] - train.mean()).abs().mean()
    )
    assert set(table.loc[table["system"] == "confounds", "confound_set"]) == {"sex+mean_fd+duration_s"}
    assert set(table["readout"]) == {"ridge", "baseline"}


def test_only_the_baselines_asked_for(tmp_path):
    config = copy.deepcopy(CONFIG)
    config["evaluate"]["baselines"] = ["confounds"]
    config["evaluate"]["readouts"] = ["ridge"]
    assert set(predictions(answered(tmp_path, config=config))["run_id"]) == {"diagnosis_confounds_ridge"}


def test_variants_of_connectivity_and_the_untrained_network_joined_with_them(tmp_path):
    config = copy.deepcopy(CONFIG)
    asked = {"baselines": ["fc_partial", "fc_tangent", "random_weights"], "combine": ["fc_tangent"]}
    config["evaluate"] |= asked | {"readouts": ["ridge"], "permutations": 0}
    found = auroc(answered(tmp_path, config=config))
    assert set(found) == {
        "diagnosis_fc_partial_ridge",
        "diagnosis_fc_tangent_ridge",
        "diagnosis_recipe-random-weights_ridge_seed-0",
        "diagnosis_recipe_beside_fc_tangent-random-weights_ridge_seed-0",
    }
    assert min(found[run] for run in found if "fc_" in run) > 0.85  # the planted source is one of covariance
    assert found["diagnosis_recipe-random-weights_ridge_seed-0"] < 0.75


def test_no_baselines_give_empty_tables(tmp_path):
    config = copy.deepcopy(CONFIG)
    config["evaluate"]["baselines"] = []
    assert predictions(answered(tmp_path, config=config)).empty


def test_the_fixture_has_a_missing_region_and_a_person_with_two_recordings(tmp_path):
    write_study(tmp_path)
    shards = Shards(Study(tmp_path).shards("toy"))
    assert (shards.manifest["participant_id"] == "sub-0000").sum() == 2
    (lacking,) = np.flatnonzero(shards.manifest["participant_id"] == "sub-0007")
    assert np.isnan(fisher_z(shards.series(lacking), shards.valid_regions(lacking))).sum() == 11

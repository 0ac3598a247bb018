"""``neuropipe probe``: readouts of embeddings, refused where pretraining saw test people."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml
from judged_study import participants, write_embeddings, write_study
from sklearn.metrics import roc_auc_score

from neuropipe.errors import ConfigError, InputError, SplitError
from neuropipe.evaluate import tables
from neuropipe.paths import Study
from neuropipe.provenance import read_json, write_json
from neuropipe.stages import probe, split


@pytest.fixture
def study(tmp_path):
    """A study up to its embeddings: the configuration and the product tree."""
    return prepared(tmp_path)


def prepared(root, people=None):
    config, study = write_study(root, people=people), Study(root)
    for name in ("main", "sites"):
        split.run(config=config, split=name, shards=[study.shards("toy")], output=study.split(name))
    frozen = {name: pd.read_parquet(study.split(name) / "splits.parquet") for name in ("main", "sites")}
    write_embeddings(root, frozen)
    return config, study


def run(config, study, task="diagnosis", name="main"):
    probe.run(
        config=config,
        task=task,
        split_dir=study.split(name),
        embeddings=[study.embeddings("recipe", 0)],
        shards=[study.shards("toy")],
        output=study.task(task, "probe"),
    )
    return study.task(task, "probe")


def test_a_class_target(study):
    folder = run(*study)
    predictions = tables.read([folder / "predictions.parquet"], tables.PREDICTIONS, "predictions")
    assert predictions["run_id"].unique().tolist() == ["diagnosis_recipe_logistic_seed-0"]
    assert (predictions["role"] == "test").sum() == 24
    assert roc_auc_score(predictions["y"], predictions["score"]) > 0.7
    assert predictions["checkpoint_sha256"].unique().tolist() == ["main-0"]
    assert predictions["pretrain_overlap_n"].unique().tolist() == [0]
    assert predictions["pretrain_people"].unique().tolist() == ["train_side"]
    assert predictions["atlas_id"].unique().tolist() == ["toy"]
    nulls = tables.read([folder / "nulls.parquet"], tables.NULLS, "nulls")
    assert nulls["prediction"].map(len).unique().tolist() == [60]
    choices = tables.read([folder / "choices.parquet"], tables.CHOICES, "choices")
    assert choices["chosen"].sum() == 1
    costs = tables.read([folder / "costs.parquet"], tables.COSTS, "costs")
    assert (costs["value"] > 0).all()
    assert read_json(folder / "probe.json")["task"] == "diagnosis"


def test_a_continuous_target(study):
    folder = run(*study, task="age")
    predictions = tables.read([folder / "predictions.parquet"], tables.PREDICTIONS, "predictions")
    assert predictions["readout"].unique().tolist() == ["ridge"]
    assert np.corrcoef(predictions["y"], predictions["yhat"])[0, 1] > 0.5
    assert predictions["score"].isna().all()


def test_embeddings_are_joined_with_the_baselines_that_the_study_names(tmp_path):
    config, study = prepared(tmp_path)
    content = yaml.safe_load(config.read_text())
    content["evaluate"] |= {"combine": ["fc"]}
    config.write_text(yaml.safe_dump(content))
    predictions = pd.read_parquet(run(config, study) / "predictions.parquet")
    assert predictions["system"].unique().tolist() == ["recipe + fc", "recipe"]
    joined, alone = (predictions[predictions["system"] == name] for name in ("recipe + fc", "recipe"))
    assert roc_auc_score(joined["y"], joined["score"]) > roc_auc_score(alone["y"], alone["score"])
    assert (joined["pretrain_people"] == "train_side").all()


def test_every_fold_has_its_own_model(study):
    folder = run(*study, task="diagnosis-sites", name="sites")
    predictions = tables.read([folder / "predictions.parquet"], tables.PREDICTIONS, "predictions")
    pairs = predictions[["fold", "checkpoint_sha256"]].drop_duplicates().itertuples(index=False, name=None)
    assert sorted(pairs) == [("A", "sites-A"), ("B", "sites-B"), ("C", "sites-C")]
    assert (predictions["fold"] == predictions["site"]).all()
    assert predictions["participant_id"].is_unique


def test_the_same_probe_has_the_same_bytes(study):
    names = ("predictions.parquet", "nulls.parquet", "choices.parquet")
    first = [(run(*study) / name).read_bytes() for name in names]
    assert [(run(*study) / name).read_bytes() for name in names] == first


def edit_receipt(study, **changes):
    path = study[1].embeddings("recipe", 0) / "receipt.json"
    receipt = read_json(path)
    for entry in receipt["checkpoints"]:
        entry.update(changes)
    write_json(path, receipt)


def test_pretraining_on_test_people_is_refused_and_recorded_when_asked_for(study):
    everyone = [f"toy/{name}" for name in participants(np.random.default_rng(0))["participant_id"]]
    edit_receipt(study, people=everyone)
    with pytest.raises(SplitError, match="recipe, fold 0: pretraining saw 24 test people"):
        run(*study)
    edit_receipt(study, mode="everyone")
    predictions = pd.read_parquet(run(*study) / "predictions.parquet")
    assert predictions["pretrain_overlap_n"].unique().tolist() == [24]
    assert predictions["pretrain_people"].unique().tolist() == ["everyone"]


def test_people_without_target_or_embedding_are_listed(tmp_path):
    people = participants(np.random.default_rng(0))
    people.loc[3, "diagnosis"] = None
    config, study = prepared(tmp_path, people)
    path = study.embeddings("recipe", 0) / "main" / "0" / "trained.parquet"
    table = pd.read_parquet(path)
    table[table["participant_id"] != "sub-0004"].to_parquet(path)
    folder = run(config, study)
    listed = pd.read_csv(folder / "excluded.tsv", sep="\t", dtype=str)
    found = listed[["stage", "participant_id", "reason"]].itertuples(index=False, name=None)
    assert list(found) == [("probe", "sub-0003", "no target"), ("probe", "sub-0004", "no embedding")]
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert "sub-0003" not in set(predictions["participant_id"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("task", ConfigError, "No task 'dignosis'"),
        ("split", InputError, "No split at .*splits.parquet"),
        ("receipt", InputError, "no receipt.json"),
        ("fold", InputError, "has no model for fold 0 of the split 'main'"),
        ("table", InputError, "No embeddings at .*trained.parquet"),
    ],
)
def test_what_is_missing_is_named(study, change, error, message):
    config, tree = study
    folder = tree.embeddings("recipe", 0)
    if change == "split":
        (tree.split("main") / "splits.parquet").unlink()
    elif change == "receipt":
        (folder / "receipt.json").unlink()
    elif change == "fold":
        edit_receipt(study, fold="7")
    elif change == "table":
        (folder / "main" / "0" / "trained.parquet").unlink()
    with pytest.raises(error, match=message):
        run(config, tree, task="dignosis" if change == "task" else "diagnosis")


def test_a_dataset_without_shards_is_named(study):
    config, tree = study
    with pytest.raises(ConfigError, match="asks about toy"):
        probe.run(
            config=config, task="age", split_dir=tree.split("main"), embeddings=[], shards=[], output=tree.root / "out"
        )

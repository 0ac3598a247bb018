"""``neuropipe finetune``: a planted effect from shards to metrics, test people never touched, leaks refused."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from judged_study import CONFIG, participants, write_study
from sklearn.metrics import roc_auc_score

from neuropipe.errors import ConfigError, InputError, SplitError
from neuropipe.evaluate import tables
from neuropipe.hub import finetuned
from neuropipe.paths import Study
from neuropipe.provenance import read_json, write_json
from neuropipe.stages import evaluate, finetune, pretrain, split
from neuropipe.train import devices, loop

RECIPE = {
    "family": "toys.correlations",
    "train": {"n_steps": 3, "batch_size": 8, "lr": 0.001},
    "finetune": {"n_steps": 60, "batch_size": 16, "lr": 0.02, "evaluate_every": 10, "n_clips": 2, "n_passes": 4},
}


def prepared(root, *, recipe=None, people=None, tasks=("diagnosis", "age"), learns_from="train_side"):
    """Write a study up to its pretrained models; return its configuration and tree."""
    content = copy.deepcopy(CONFIG) | {"study": root.name}
    content["tasks"]["diagnosis-folds"] = content["tasks"]["diagnosis"] | {"split": "folds"}
    content["splits"]["three"] = {"scheme": "holdout", "test": 0.3, "validation": 0.2, "stratify": ["diagnosis"]}
    content["tasks"]["diagnosis-three"] = content["tasks"]["diagnosis"] | {"split": "three"}
    content["pretrain"] = {"tiny": {"datasets": ["toy"], "recipe": str(root / "tiny.yaml"), "finetune": list(tasks)}}
    content["pretrain"]["tiny"]["people"] = learns_from
    root.mkdir(parents=True, exist_ok=True)
    (root / "tiny.yaml").write_text(yaml.safe_dump(recipe or RECIPE))
    config, study = write_study(root, config=content, people=people), Study(root)
    splits = sorted({content["tasks"][task]["split"] for task in tasks})
    for name in splits:
        split.run(config=config, split=name, shards=[study.shards("toy")], output=study.split(name))
    pretrain.run(
        config=config,
        recipe="tiny",
        seed=0,
        shards=[study.shards("toy")],
        splits=[study.split(name) for name in splits],
        threads=None,
        output=study.model("tiny", 0) / "receipt.json",
    )
    return config, study


def run(config, study, task="diagnosis", name="main"):
    output = study.task(task, "finetune/tiny_seed-0")
    finetune.run(
        config=config,
        task=task,
        recipe="tiny",
        seed=0,
        shards=[study.shards("toy")],
        split_dir=study.split(name),
        models=study.model("tiny", 0) / "receipt.json",
        threads=None,
        output=output,
    )
    return output


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with pretrained models of every fold, and what fine-tuning for the diagnosis wrote."""
    config, tree = prepared(tmp_path_factory.mktemp("finetune") / "study")
    return config, tree, run(config, tree)


def read(folder):
    return tables.read([folder / "predictions.parquet"], tables.PREDICTIONS, "predictions")


def test_a_planted_class_is_found_beside_training_from_scratch(study):
    predictions = read(study[2])
    assert sorted(predictions["run_id"].unique()) == [
        "diagnosis_tiny-from-scratch_finetune_seed-0",
        "diagnosis_tiny_finetune_seed-0",
    ]
    for system, rows in predictions.groupby("system"):
        assert roc_auc_score(rows["y"], rows["score"]) > 0.9, system
        np.testing.assert_allclose(rows["score"], 1 / (1 + np.exp(-rows["logit"])))
        assert (rows["uncertainty"] > 0).all() and set(rows["role"]) == {"test"} and len(rows) == 24
    own = predictions[predictions["system"] == "tiny"]
    assert own["readout"].unique().tolist() == ["finetune"]
    assert own["pretrain_overlap_n"].unique().tolist() == [0]
    assert own["pretrain_people"].unique().tolist() == ["train_side"]
    scratch = predictions[predictions["system"] == "tiny (from scratch)"]
    assert scratch["pretrain_overlap_n"].isna().all()


def test_metrics_with_intervals_and_the_network_from_scratch_as_reference(study, tmp_path):
    config, _, folder = study
    metrics = tmp_path / "metrics.parquet"
    evaluate.run(predictions=[folder / "predictions.parquet"], config=config, output=metrics)
    found = pd.read_parquet(metrics).query("system == 'tiny' and metric == 'auroc'")
    assert found["reference"].tolist() == ["tiny (from scratch)"]
    assert (found["ci_low"] <= found["value"]).all() and found["p_perm"].isna().all()
    assert "ece" in pd.read_parquet(metrics)["metric"].unique()


def test_what_was_decided_is_told_of_everyone_and_comes_from_the_saved_network(study):
    _, tree, folder = study
    decisions = tables.read([folder / "decisions.parquet"], tables.DECISIONS, "decisions")
    predictions = read(folder)
    keys = ["system", "fold", "participant_id"]
    joined = predictions.merge(decisions, on=keys, suffixes=("", "_said"))
    assert len(joined) == len(predictions) == len(decisions)
    assert (joined["logit"] == joined["logit_said"]).all() and (joined["uncertainty"] == joined["std"]).all()
    assert decisions["is_far"].mean() < 0.6 and (decisions["mutual_information"] >= -1e-12).all()
    saved = finetuned.load(tree.finetuned("diagnosis", "tiny", 0) / "main" / "0")
    assert saved.about["task"] == {"name": "diagnosis", "target": "diagnosis", "kind": "binary", "positive": "patient"}
    training = saved.about["training"]
    assert training["n_train"] + training["n_validation"] == 36 and training["prior"] == pytest.approx(0.5, abs=0.1)
    assert saved.about["calibration"]["temperature"] > 0 and saved.about["scaling"] is None
    assert saved.regions is not None and len(saved.regions) == 12


def test_finished_networks_are_not_trained_again_and_say_the_same(study, monkeypatch):
    config, tree, folder = study
    first = (folder / "predictions.parquet").read_bytes()
    monkeypatch.setattr(loop, "train", lambda *given, **named: pytest.fail("trained again"))
    assert (run(config, tree) / "predictions.parquet").read_bytes() == first


def test_where_a_network_is_trained_trains_nothing_anew(study, monkeypatch):
    config, tree, _ = study
    elsewhere = {"residence": "mapped", "log_every": 7, "checkpoint_every": 9, "needs_gpu": True}
    recipe = tree.root / "tiny.yaml"
    written = recipe.read_text()
    recipe.write_text(yaml.safe_dump(RECIPE | {"finetune": RECIPE["finetune"] | elsewhere}))
    monkeypatch.setattr(devices, "check", lambda *given: None)  # as if there were a GPU
    monkeypatch.setattr(loop, "train", lambda *given, **named: pytest.fail("trained"))
    try:
        run(config, tree)
    finally:
        recipe.write_text(written)


def test_test_people_are_never_touched(tmp_path, study):
    config, tree, folder = study
    other = Study(shutil.copytree(tree.root, tmp_path / "study"))
    shutil.rmtree(other.root / "finetuned")
    table = pd.read_parquet(tree.split("main") / "splits.parquet")
    people = pd.read_csv(other.participants("toy"), sep="\t")
    tested = people["participant_id"].isin(table.loc[table["role"] == "test", "participant_id"])
    flipped = {"patient": "control", "control": "patient"}
    people.loc[tested, "diagnosis"] = people.loc[tested, "diagnosis"].map(flipped)
    people.to_csv(other.participants("toy"), sep="\t", index=False)
    again = read(run(config, other))
    assert (again["y"] == 1 - read(folder)["y"]).all()
    np.testing.assert_array_equal(again["score"], read(folder)["score"])
    for below in (".", "from-scratch"):
        one, two = (s.finetuned("diagnosis", "tiny", 0) / below / "main" / "0" for s in (tree, other))
        assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
        assert read_json(one / "config.json")["calibration"] == read_json(two / "config.json")["calibration"]


def test_a_planted_number_comes_in_its_own_unit(tmp_path):
    people = participants(np.random.default_rng(0))
    people["age"] = np.where(people["diagnosis"] == "patient", 60.0, 30.0) + np.arange(len(people)) % 5
    settings = RECIPE | {"finetune": RECIPE["finetune"] | {"from_scratch": False, "n_passes": 0}}
    config, tree = prepared(tmp_path / "study", recipe=settings, people=people, tasks=("age",))
    predictions = read(run(config, tree, "age"))
    assert predictions["score"].isna().all() and predictions["uncertainty"].isna().all()
    assert np.abs(predictions["yhat"] - predictions["y"]).mean() < 10  # the mean errs by 15
    assert predictions["system"].unique().tolist() == ["tiny"]
    about = read_json(tree.finetuned("age", "tiny", 0) / "main" / "0" / "config.json")
    assert about["calibration"] is None and 40 < about["scaling"]["mean"] < 55


def test_every_fold_has_a_network_and_persons_are_on_one_side(tmp_path):
    settings = RECIPE | {"finetune": RECIPE["finetune"] | {"from_scratch": False, "n_steps": 10}}
    config, tree = prepared(tmp_path / "study", recipe=settings, tasks=("diagnosis-folds",))
    predictions = read(run(config, tree, "diagnosis-folds", "folds"))
    assert predictions["participant_id"].is_unique and len(predictions) == 60
    assert predictions.groupby("fold")["checkpoint_sha256"].nunique().tolist() == [1] * 5
    assert predictions["checkpoint_sha256"].nunique() == 5


def test_the_validation_side_of_a_split_is_predicted_too(tmp_path):
    settings = RECIPE | {"finetune": RECIPE["finetune"] | {"from_scratch": False, "n_steps": 10}}
    config, tree = prepared(tmp_path / "study", recipe=settings, tasks=("diagnosis-three",))
    folder = run(config, tree, "diagnosis-three", "three")
    predictions = read(folder)
    assert predictions["role"].value_counts().to_dict() == {"test": 18, "validation": 12}
    about = read_json(tree.finetuned("diagnosis-three", "tiny", 0) / "three" / "0" / "config.json")
    assert about["training"]["n_validation"] == 12 and about["training"]["n_train"] == 30
    evaluate.run(
        predictions=[folder / "predictions.parquet"],
        config=config,
        splits=[tree.split("three")],
        output=tmp_path / "metrics.parquet",
    )  # the audit compares roles with the frozen table


def test_pretraining_on_test_people_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    config, tree = prepared(tmp_path / "study", learns_from="everyone")
    path = tree.model("tiny", 0) / "receipt.json"
    receipt = read_json(path)
    write_json(path, receipt | {"mode": "train_side"})
    with monkeypatch.context() as patched:
        patched.setattr(loop, "train", lambda *given, **named: pytest.fail("trained"))
        with pytest.raises(SplitError, match="tiny, fold 0: pretraining saw 24 test people"):
            run(config, tree)
    write_json(path, receipt)
    predictions = read(run(config, tree))
    assert predictions.loc[predictions["system"] == "tiny", "pretrain_overlap_n"].unique().tolist() == [24]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("recipe", ConfigError, "has no recipe 'tiny' under pretrain"),
        ("section", ConfigError, r"tiny\.yaml has no section finetune:"),
        ("fold", InputError, "has no model for fold 0 of the split 'main'"),
    ],
)
def test_what_is_missing_is_named(study, tmp_path, change, error, message):
    config, tree, _ = study
    content = yaml.safe_load(config.read_text())
    models = tree.model("tiny", 0) / "receipt.json"
    if change == "recipe":
        content["pretrain"] = {"other": {"datasets": ["toy"]}}
    elif change == "section":
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({k: v for k, v in RECIPE.items() if k != "finetune"}))
        content["pretrain"]["tiny"]["recipe"] = str(tmp_path / "tiny.yaml")
    else:
        receipt = read_json(models)
        models = tmp_path / "models" / "tiny" / "seed-0" / "receipt.json"
        write_json(models, receipt | {"models": []})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(error, match=message):
        finetune.run(
            config=tmp_path / "config.yaml", task="diagnosis", recipe="tiny", seed=0, shards=[tree.shards("toy")],
            split_dir=tree.split("main"), models=models, threads=None, output=tmp_path / "out",
        )  # fmt: skip


def test_networks_answer_for_the_people_of_a_test_dataset(tmp_path):
    quick = RECIPE | {"finetune": RECIPE["finetune"] | {"n_steps": 10, "from_scratch": False}}
    config, study = prepared(tmp_path / "study", recipe=quick, tasks=("age",))
    content = yaml.safe_load(config.read_text())
    content["datasets"]["away"] = content["datasets"]["toy"]
    content["tasks"]["age"]["test_datasets"] = ["away"]
    people = participants(np.random.default_rng(5)).iloc[:9].assign(participant_id=[f"sub-x{i}" for i in range(9)])
    write_study(study.root, config=content, people=people, dataset="away")
    output = study.task("age", "finetune/tiny_seed-0")
    common = {"config": config, "task": "age", "recipe": "tiny", "seed": 0, "threads": None, "output": output}
    shards = [study.shards("toy"), study.shards("away")]
    finetune.run(**common, shards=shards, split_dir=study.split("main"), models=study.model("tiny", 0) / "receipt.json")
    outside = read(output).query("role == 'external'")
    assert outside["participant_id"].tolist() == people["participant_id"].tolist()
    np.testing.assert_allclose(outside["y"], people["age"])
    assert outside["yhat"].notna().all() and read(output).query("role == 'test'")["dataset"].unique() == ["toy"]
    decisions = tables.read([output / "decisions.parquet"], tables.DECISIONS, "decisions")
    assert (decisions["role"] == "external").sum() == 9
    evaluate.run(config=config, predictions=[output / "predictions.parquet"], output=study.root / "metrics.parquet")
    row = pd.read_parquet(study.root / "metrics.parquet").query("fold == 'external' and metric == 'mae'").iloc[0]
    assert row["value"] == pytest.approx((outside["y"] - outside["yhat"]).abs().mean()) and row["n_test"] == 9

"""``neuropipe pretrain`` with ``train.probe_at``: the same model, and a table of what it knew on the way."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import test_finetune
from judged_study import participants
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from neuropipe.config import load
from neuropipe.data.source import open_source
from neuropipe.evaluate import moments, tables
from neuropipe.evaluate.embed import embed_people
from neuropipe.evaluate.features import Features
from neuropipe.evaluate.linear import STRENGTHS
from neuropipe.evaluate.question import inner_folds
from neuropipe.hub import export
from neuropipe.paths import Study
from neuropipe.provenance import sha256
from neuropipe.shards.read import Shards
from neuropipe.train import checkpoint
from neuropipe.train.recipe import PretrainSettings

TRAIN = {"n_steps": 8, "batch_size": 8, "lr": 0.001, "log_every": 1}


def pretrained(root, people=None, tasks=("diagnosis", "age"), learns_from="train_side", **train):
    recipe = test_finetune.RECIPE | {"train": TRAIN | train}
    _, tree = test_finetune.prepared(root, recipe=recipe, people=people, tasks=tasks, learns_from=learns_from)
    return tree.model("tiny", 0)


def of_the_finished_model(root, folder) -> float:
    """Return scikit-learn's area over the same folds, for the embedding of the model that was kept."""
    study = load(root / "config.yaml")
    shards = [Shards(Study(root).shards("toy"))]
    made = pd.read_parquet(Study(root).split("main") / "splits.parquet")
    (one,) = (a for a in moments.ask(study, shards, {"main": made}, [("main", "0")]) if a.task == "diagnosis")
    saved = export.load(folder)
    values = embed_people(saved.model, open_source(shards), saved.model.config.reads(), 8).filter(regex=r"^e\d")
    folds, areas = inner_folds(one.people, one.train, one.seed, ["diagnosis"]), []
    for k in np.unique(folds):
        kept, held = one.train[folds != k], one.train[folds == k]
        scaled = Features(values.to_numpy(float)).coordinates(kept)
        inner = inner_folds(one.people, kept, one.seed)
        losses = {s: sum(_loss(scaled, one.y, kept, inner, j, s) for j in np.unique(inner)) for s in STRENGTHS}
        areas.append(roc_auc_score(one.y[held], fitted(scaled, one.y, kept, min(losses, key=losses.get), held)))
    return float(np.mean(areas))


def _loss(values, y, rows, folds, held, strength) -> float:
    """Return the summed loss of one inner fold."""
    inside, outside = rows[folds == held], rows[folds != held]
    probability = fitted(values, y, outside, strength, inside)
    return log_loss(y[inside], probability, labels=[0, 1]) * len(inside)


def fitted(values, y, train, strength, rows) -> np.ndarray:
    """Return scikit-learn's probabilities with the penalty that our strength means."""
    model = LogisticRegression(C=1 / (strength * len(train)), tol=1e-8, solver="newton-cholesky")
    return model.fit(values[train], y[train]).predict_proba(values[rows])[:, 1]


def test_the_model_is_the_same_and_the_table_tells_what_it_knew(tmp_path):
    plain = pretrained(tmp_path / "plain")
    probed = pretrained(tmp_path / "probed", probe_at=[0.25, 0.5, 1.0])
    one, two = plain / "main" / "0", probed / "main" / "0"
    assert sha256(one / "model.safetensors") == sha256(two / "model.safetensors")
    losses = [pd.read_parquet(folder / "metrics.parquet")["loss"] for folder in (one, two)]
    pd.testing.assert_series_equal(*losses, check_exact=True)
    assert not (one / "probes.parquet").exists()
    table = pd.read_parquet(two / "probes.parquet")
    assert list(table) == list(tables.PROBES)
    assert table.groupby("task")["step"].agg(list).to_dict() == {"age": [2, 4, 8], "diagnosis": [2, 4, 8]}
    assert table["n_people"].unique().tolist() == [36] and table["split"].unique().tolist() == ["main"]
    diagnosis = table.query("task == 'diagnosis'")
    assert diagnosis["value"].iloc[-1] == pytest.approx(of_the_finished_model(tmp_path / "probed", two))
    age = table.query("task == 'age'")
    np.testing.assert_allclose(age["value"], age["chance"], rtol=0.3)  # nothing in a series tells the age


def test_a_training_that_was_probed_goes_on_from_its_checkpoint(tmp_path):
    folder = pretrained(tmp_path / "probed", probe_at=[0.5]) / "main" / "0"
    state = checkpoint.latest(folder / "checkpoints")
    (probes,) = (own["rows"] for own in state["watch"]["watches"])
    assert state["step"] == 8 and {row["step"] for row in probes} == {4}


def test_labels_of_test_people_are_not_read(tmp_path):
    people = participants(np.random.default_rng(0))
    first = pretrained(tmp_path / "first", people=people, tasks=("age",), probe_at=[1.0])
    split = pd.read_parquet(first.parents[2] / "splits" / "main" / "splits.parquet")
    tested = people["participant_id"].isin(split.loc[split["role"] == "test", "participant_id"])
    people.loc[tested, "age"] = 1000.0  # the split is stratified by site and diagnosis alone
    second = pretrained(tmp_path / "second", people=people, tasks=("age",), probe_at=[1.0])
    tables = [pd.read_parquet(folder / "main" / "0" / "probes.parquet") for folder in (first, second)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_one_model_of_several_folds_is_probed_on_each_training_side(tmp_path):
    folder = pretrained(tmp_path / "s", tasks=("diagnosis-folds",), learns_from="everyone", probe_at=[1.0])
    table = pd.read_parquet(folder / "everyone" / "probes.parquet").query("split == 'folds'")
    assert sorted(table["fold"]) == ["0", "1", "2", "3", "4"] and table["n_people"].unique().tolist() == [48]


@pytest.mark.parametrize("wrong", [0.0, 1.5])
def test_a_moment_is_a_share_of_the_training(wrong):
    with pytest.raises(ValueError, match="probe_at"):
        PretrainSettings(**TRAIN, probe_at=[wrong])

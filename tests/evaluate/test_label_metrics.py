"""Metrics of several classes against scikit-learn and by hand, and their rows for people and clips."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from test_summary import row, summary

from neuropipe.errors import InputError
from neuropipe.evaluate import label_metrics, metrics, tables
from neuropipe.evaluate.breakdown import breakdown

NAMES = np.array(["control", "mild", "severe", "other"], dtype=object)


def shares(n: int, n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True classes, and probabilities (n_classes, n) that know something of them."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    logit = rng.standard_normal((n_classes, n)) + 1.5 * (y == np.arange(n_classes)[:, None])
    return y, np.exp(logit) / np.exp(logit).sum(axis=0)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_is_scikit_learns_whatever_the_weights(k):
    y, probability = shares(120, 5)
    weight = np.random.default_rng(1).integers(0, 3, (4, 120)).astype(float)
    found = label_metrics.top_k(y[None], probability, weight, k)
    expected = [sk.top_k_accuracy_score(y, probability.T, k=k, sample_weight=w) for w in weight]
    np.testing.assert_allclose(found, expected)


def test_guessing_among_equal_probabilities_has_the_share_of_chance():
    y, equal = np.array([[0, 1, 2, 3]]), np.full((4, 4), 0.25)
    assert label_metrics.top_k(y, equal, np.ones((1, 4)), 3)[0] == pytest.approx(3 / 4)


def test_brier_of_several_classes_is_scikit_learns():
    y, probability = shares(100, 4)
    weight = np.random.default_rng(1).integers(0, 3, (4, 100)).astype(float)
    found = label_metrics.brier(y[None], probability, weight)
    expected = [
        sk.brier_score_loss(y, probability.T, sample_weight=w, labels=range(4), scale_by_half=False) for w in weight
    ]
    np.testing.assert_allclose(found, expected)


def test_the_calibration_error_is_the_mean_of_each_class_against_the_rest():
    y, probability = shares(200, 4)
    y[y == 2] = 1  # a class that does not occur counts for nothing
    weight = np.random.default_rng(1).integers(0, 3, (3, 200)).astype(float)
    found = label_metrics.ece(y[None], probability, weight)
    own = [metrics.ece((y == k).astype(float)[None], probability[k][None], weight) for k in (0, 1, 3)]
    np.testing.assert_allclose(found, np.mean(own, axis=0))


def test_outcomes_drawn_from_the_predicted_probabilities_have_a_small_calibration_error():
    rng = np.random.default_rng(2)
    probability = rng.dirichlet([2.0, 1.0, 0.5], 20_000).T
    y = (rng.random(20_000) > np.cumsum(probability, axis=0)).sum(axis=0)
    once = np.ones((1, 20_000))
    assert label_metrics.ece(y[None], probability, once)[0] < 0.01
    assert label_metrics.ece(y[None], np.roll(probability, 1, axis=0), once)[0] > 0.1


def told(n_classes: int = 3, n: int = 90, folds: int = 1, system: str = "model", seed: int = 0) -> pd.DataFrame:
    """Predictions of a run on people of several classes."""
    y, _ = shares(n * folds, n_classes)
    _, probability = shares(n * folds, n_classes, seed)
    yhat = probability.argmax(axis=0)
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:03d}" for i in range(n * folds)],
            "fold": np.repeat([f"f{i}" for i in range(folds)], n),
            "site": np.where(np.arange(n * folds) % 2, "A", "B"),
            "y": y,
            "yhat": yhat,
            "label": NAMES[y],
            "predicted": NAMES[yhat],
            "probability": list(probability.T.astype(np.float32)),
        }
    ).assign(run_id=f"t_{system}", system=system, task="t", readout="logistic", split="main", split_scheme="holdout")
    table = table.assign(target_type="multiclass", repeat=0, role="test", dataset="toy", n_train=60, n_val=0)
    return tables.frame(table.assign(person="toy/" + table["participant_id"]), tables.PREDICTIONS)


def shuffled(run: pd.DataFrame, draws: int = 40) -> pd.DataFrame:
    """Permuted classes and predictions that know nothing."""
    rng = np.random.default_rng(5)
    rows = run[["run_id", "repeat", "fold", "dataset", "participant_id"]].to_dict("records")
    labels = np.stack([rng.permutation(run["y"]) for _ in range(draws)], axis=1).astype(np.float32)
    for one, y in zip(rows, labels, strict=True):
        one |= {"y": y, "prediction": rng.integers(0, 3, draws).astype(np.float32)}
    return tables.frame(rows, tables.NULLS)


def test_a_task_of_several_classes_has_its_metrics_intervals_and_null():
    run = told()
    metrics_ = summary(run, nulls=shuffled(run))
    assert set(metrics_["metric"]) == {"balanced_accuracy", "accuracy", "macro_f1", "top2_accuracy", "brier", "ece"}
    found = row(metrics_, "model", "balanced_accuracy")
    assert found["value"] == pytest.approx(sk.balanced_accuracy_score(run["y"], run["yhat"]))
    assert found["ci_low"] < found["value"] < found["ci_high"]
    assert found["ci_method"] == "bootstrap_stratified"
    assert found["null_mean"] == pytest.approx(1 / 3, abs=0.05)
    assert found["p_perm"] == pytest.approx(1 / 41)
    assert pd.isna(found["threshold"]) and pd.isna(found["prevalence"])
    assert row(metrics_, "model", "macro_f1")["value"] == pytest.approx(
        sk.f1_score(run["y"], run["yhat"], average="macro")
    )
    four = set(summary(told(4))["metric"])
    assert {"top2_accuracy", "top3_accuracy"} <= four
    assert set(summary(told().assign(probability=None))["metric"]) == {"balanced_accuracy", "accuracy", "macro_f1"}


def test_folds_of_several_classes_are_averaged_and_compared():
    model, reference = told(folds=5), told(folds=5, system="fc", seed=3)
    found = row(summary(model, reference), "model", "balanced_accuracy")
    per_fold = [
        [sk.balanced_accuracy_score(part["y"], part["yhat"]) for _, part in run.groupby("fold")]
        for run in (model, reference)
    ]
    assert found["value"] == pytest.approx(np.mean(per_fold[0]))
    assert found["delta"] == pytest.approx(np.mean(per_fold[0]) - np.mean(per_fold[1]))
    assert 0 <= found["p_nb"] <= 1 and found["p_holm"] == found["p_nb"]


def test_sites_of_a_task_of_several_classes_are_broken_down():
    run = told()
    found = breakdown(run, draws=200, seed=0).set_index("group")
    part = run[run["site"] == "A"]
    assert found.loc["A", "value"] == pytest.approx(sk.balanced_accuracy_score(part["y"], part["yhat"]))
    assert found.loc["A", "ci_low"] < found.loc["A", "value"] < found.loc["A", "ci_high"]
    assert (found.loc["A", "metric"], found.loc["A", "n"]) == ("balanced_accuracy", 45)
    assert pd.isna(found.loc["A", "n_positive"])


def test_rows_with_other_numbers_of_classes_are_refused():
    run = told()
    run.at[0, "probability"] = np.array([0.5, 0.5], np.float32)
    with pytest.raises(InputError, match="probabilities of 2 labels in one row and 3"):
        summary(run)

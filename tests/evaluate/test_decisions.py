"""Temperature, bias and threshold come from validation people, and change what should change and nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn import metrics as sk
from test_summary import held_out, nulls_of, predicted, row, summary

from neuropipe.evaluate import tables
from neuropipe.evaluate.calibration import MIN_PER_CLASS, Decision, best_threshold, decide, fit
from neuropipe.evaluate.decision_curve import THRESHOLDS, decision_curves, net_benefit
from neuropipe.evaluate.testsets import test_sets as sets_of


def test_the_threshold_is_the_one_of_the_greatest_balanced_accuracy():
    rng = np.random.default_rng(0)
    y = (rng.random(80) < 0.3).astype(float)
    score = np.round(rng.standard_normal(80) + y, 1)  # with ties
    found = sk.balanced_accuracy_score(y, score >= best_threshold(y, score))
    every = np.concatenate([np.unique(score), [10.0]])
    assert found == max(sk.balanced_accuracy_score(y, score >= cut) for cut in every)


def test_of_equally_good_thresholds_the_nearest_to_one_half_is_taken():
    y, score = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.3, 0.42, 0.9])
    assert best_threshold(y, score) == pytest.approx(0.66)  # not 0.2, which is as good
    assert best_threshold(np.repeat([0.0, 1.0], 2), np.array([0.1, 0.2, 0.6, 0.9])) == pytest.approx(0.4)


def test_few_people_or_constant_scores_settle_nothing():
    y = np.repeat([0.0, 1.0], [40, MIN_PER_CLASS - 1])
    score = np.linspace(0, 1, len(y))
    assert decide(y, score, None) == Decision()
    assert decide(np.repeat([0.0, 1.0], 40), np.full(80, 0.3), np.full(80, -1.0)) == Decision()
    assert not Decision().calibrates
    assert Decision().threshold == 0.5


def overconfident(rng: np.random.Generator, n: int, folds: int = 1) -> pd.DataFrame:
    """A run whose log odds are thrice what they should be, and shifted."""
    run = predicted("model", n=n, folds=folds)
    honest = rng.standard_normal(len(run)) - 1.0
    run["y"] = (rng.random(len(run)) < expit(honest)).astype(float)
    run["logit"] = 3 * honest + 1.5
    run["score"] = expit(run["logit"])
    return run


def test_calibration_takes_overconfidence_away_and_is_fitted_on_validation_people_alone():
    rng = np.random.default_rng(0)
    run, other = overconfident(rng, 3000), held_out(overconfident(rng, 3000))
    metrics = summary(run, other, nulls=nulls_of(run), draws=100)
    fitted = fit(other["logit"].to_numpy(), other["y"].to_numpy())
    assert fitted["temperature"] == pytest.approx(3, rel=0.1)
    probability = expit(run["logit"] / fitted["temperature"] + fitted["bias"])
    brier = row(metrics, "model", "brier")
    assert brier["value"] == pytest.approx(sk.brier_score_loss(run["y"], probability))
    assert brier["temperature"] == pytest.approx(fitted["temperature"])
    assert row(metrics, "model", "brier_uncalibrated")["value"] == pytest.approx(
        sk.brier_score_loss(run["y"], run["score"])
    )
    assert row(metrics, "model", "calibration_slope")["value"] == pytest.approx(1, abs=0.12)
    assert row(metrics, "model", "calibration_intercept")["value"] == pytest.approx(0, abs=0.15)
    assert row(metrics, "model", "ece")["value"] < 0.03 < row(metrics, "model", "ece_uncalibrated")["value"]
    assert row(metrics, "model")["value"] == pytest.approx(sk.roc_auc_score(run["y"], run["score"]))
    assert pd.isna(row(metrics, "model")["temperature"])
    # Readouts of permuted labels are not calibrated, so that only the uncalibrated score has a null.
    assert pd.isna(brier["p_perm"])
    assert pd.notna(row(metrics, "model", "brier_uncalibrated")["p_perm"])


def test_calls_are_those_of_the_threshold_that_validation_people_chose():
    rng = np.random.default_rng(1)
    run, other = overconfident(rng, 500), held_out(overconfident(rng, 500))
    found = row(summary(run, other, draws=100), "model", "balanced_accuracy")
    fitted = fit(other["logit"].to_numpy(), other["y"].to_numpy())
    judged, chosen = (expit(part["logit"] / fitted["temperature"] + fitted["bias"]) for part in (run, other))
    threshold = best_threshold(other["y"].to_numpy(), chosen.to_numpy())
    assert (found["threshold"], found["threshold_source"]) == (pytest.approx(threshold), "validation")
    assert found["value"] == pytest.approx(sk.balanced_accuracy_score(run["y"], judged >= threshold))
    ridge = [part.assign(readout="ridge", logit=np.nan) for part in (run, other)]
    found = row(summary(*ridge, draws=100), "model", "mcc")
    threshold = best_threshold(other["y"].to_numpy(), other["score"].to_numpy())
    assert found["threshold"] == pytest.approx(threshold)
    assert found["value"] == pytest.approx(sk.matthews_corrcoef(run["y"], run["score"] >= threshold))
    assert pd.isna(found["temperature"])


def test_every_fold_is_read_by_its_own_validation_people():
    rng = np.random.default_rng(2)
    run, other = overconfident(rng, 300, folds=2), held_out(overconfident(rng, 300, folds=2))
    other.loc[other["fold"] == "f1", "logit"] *= 2
    metrics = summary(run, other, draws=100)
    own = [fit(part["logit"].to_numpy(), part["y"].to_numpy()) for _, part in other.groupby("fold")]
    temperatures = [part["temperature"] for part in own]
    assert temperatures[1] == pytest.approx(2 * temperatures[0], rel=0.5)
    found = [row(metrics, "model", "ece", fold)["temperature"] for fold in ("f0", "f1", "mean", "pooled")]
    assert found == pytest.approx([*temperatures, np.mean(temperatures), np.mean(temperatures)])
    biases = [row(metrics, "model", "mcc", fold)["bias"] for fold in ("f0", "f1")]
    assert biases == pytest.approx([part["bias"] for part in own])
    pooled = np.concatenate(
        [expit(p["logit"] / f["temperature"] + f["bias"]) for (_, p), f in zip(run.groupby("fold"), own, strict=True)]
    )
    assert row(metrics, "model", "brier", "pooled")["value"] == pytest.approx(sk.brier_score_loss(run["y"], pooled))


def test_nulls_call_as_many_people_as_the_run_does():
    rng = np.random.default_rng(3)
    run, other = overconfident(rng, 200), held_out(overconfident(rng, 200))
    nulls = nulls_of(run)
    (fixed,), (chosen,) = sets_of(run, nulls), sets_of(run, nulls, other)
    assert (chosen.null.calls.sum(axis=1) == chosen.scored.calls.sum()).all()
    lowest_called = np.where(chosen.null.calls == 1, chosen.null.prediction, np.inf).min(axis=1)
    highest_other = np.where(chosen.null.calls == 0, chosen.null.prediction, -np.inf).max(axis=1)
    assert (lowest_called >= highest_other).all()
    np.testing.assert_array_equal(fixed.null.calls, fixed.null.prediction >= 0.5)


@pytest.mark.slow
def test_p_values_of_calls_at_a_chosen_threshold_are_uniform(studies=1000):
    """Readouts that shrink towards the prevalence: a fixed cut among null scores would call everyone the same."""
    rng = np.random.default_rng(4)
    p = []
    for _ in range(studies):
        run = predicted("model", n=40)
        run["y"] = rng.permutation(run["y"])
        run["logit"] = -1 + 0.001 * rng.standard_normal(40)
        run["score"] = expit(run["logit"])
        other = held_out(run.assign(y=rng.permutation(run["y"]), logit=-1 + 0.001 * rng.standard_normal(40)))
        other["score"] = expit(other["logit"])
        nulls = nulls_of(run, draws=39)
        nulls["prediction"] = [(-1 + 0.001 * rng.standard_normal(39)).astype(np.float32) for _ in range(40)]
        (found,) = sets_of(run, nulls, other)
        metric, once = found.metrics["balanced_accuracy"], np.ones((1, 40))
        value, null = metric.compute(found.scored, once)[0], metric.compute(found.null, once)
        p.append((1 + (null >= value).sum()) / 40)
    share = np.mean(np.array(p) <= 0.1)
    assert share <= 0.1 + 3 * np.sqrt(0.09 / studies)
    assert share >= 0.1 - 4 * np.sqrt(0.09 / studies) - 0.05  # ties make it less than one tenth


def test_net_benefit_by_hand():
    y, probability = np.array([1, 0, 1, 0, 0.0]), np.array([0.9, 0.6, 0.4, 0.3, 0.1])
    # From 0.5 on: one of two sick and one of three well are treated, 1/5 - 1/5 * 1. From 0.25 on: 2/5 - 2/5 * 1/3.
    found = net_benefit(y, probability, np.array([0.25, 0.5, 0.8, 0.95]))
    np.testing.assert_allclose(found, [2 / 5 - 2 / 15, 0, 1 / 5, 0], atol=1e-12)
    # Treating all: the threshold of no benefit is the prevalence.
    np.testing.assert_allclose(net_benefit(y, np.ones(5), np.array([0.4])), 0, atol=1e-12)


def test_decision_curves_are_of_calibrated_probabilities_over_all_folds():
    rng = np.random.default_rng(5)
    run, other = overconfident(rng, 300, folds=2), held_out(overconfident(rng, 300, folds=2))
    ridge = run.assign(run_id="t_ridge", readout="ridge", logit=np.nan)
    number = predicted("model", kind="regression", task="age")
    found = decision_curves(pd.concat([run, other, ridge, number]))
    assert found["run_id"].unique().tolist() == ["t_model"]
    assert found["threshold"].tolist() == pytest.approx(THRESHOLDS.tolist())
    own = {fold: fit(part["logit"].to_numpy(), part["y"].to_numpy()) for fold, part in other.groupby("fold")}
    probability = [
        expit(z / own[f]["temperature"] + own[f]["bias"]) for z, f in zip(run["logit"], run["fold"], strict=True)
    ]
    expected = net_benefit(run["y"].to_numpy(), np.array(probability), THRESHOLDS)
    np.testing.assert_allclose(found["net_benefit"], expected)
    prevalence = run["y"].mean()
    np.testing.assert_allclose(found["treat_all"], prevalence - (1 - prevalence) * THRESHOLDS / (1 - THRESHOLDS))


def test_no_probabilities_no_curves():
    assert list(decision_curves(predicted("model", readout="ridge"))) == list(tables.NET_BENEFIT)

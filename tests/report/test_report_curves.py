"""The lines of the figures against scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, mean_absolute_error, roc_auc_score, roc_curve

from neuropipe.report import curves


@pytest.mark.parametrize("decimals", [1, 8])
def test_roc_is_that_of_scikit_learn_with_and_without_ties(decimals: int) -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 80).astype(float)
    score = np.round(rng.standard_normal(80) + y, decimals)
    fpr, tpr = curves.roc(y, score)
    expected_fpr, expected_tpr, _ = roc_curve(y, score, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected_fpr)
    np.testing.assert_allclose(tpr, expected_tpr)


def test_mean_roc_lies_between_its_folds_and_has_their_mean_area() -> None:
    rng = np.random.default_rng(0)
    folds, areas = [], []
    for shift in (0.5, 2.0):
        y = np.repeat([0.0, 1.0], 2000)
        score = rng.standard_normal(4000) + shift * y
        folds.append(curves.roc(y, score))
        areas.append(roc_auc_score(y, score))
    fpr, tpr = curves.mean_roc(folds)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert auc(fpr, tpr) == pytest.approx(np.mean(areas), abs=0.005)


def _nulls(y: np.ndarray, prediction: np.ndarray, folds: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"repeat": 0, "fold": folds, "y": list(y), "prediction": list(prediction)})


def test_null_draws_are_fold_means_of_scikit_learns_auroc() -> None:
    rng = np.random.default_rng(1)
    y = np.stack([rng.permutation([0, 1] * 10) for _ in range(7)], axis=1).astype(np.float32)
    prediction = rng.standard_normal((20, 7)).round(1).astype(np.float32)
    half = ["a"] * 10 + ["b"] * 10
    expected = [
        np.mean([roc_auc_score(y[rows, d], prediction[rows, d]) for rows in (slice(0, 10), slice(10, 20))])
        for d in range(7)
    ]
    np.testing.assert_allclose(curves.null_draws(_nulls(y, prediction, half), "auroc"), expected, rtol=1e-6)


def test_null_draws_of_a_regression_are_mean_absolute_errors() -> None:
    rng = np.random.default_rng(2)
    y, prediction = rng.standard_normal((2, 12, 5)).astype(np.float32)
    expected = [mean_absolute_error(y[:, d], prediction[:, d]) for d in range(5)]
    np.testing.assert_allclose(curves.null_draws(_nulls(y, prediction, ["0"] * 12), "mae"), expected, rtol=1e-6)


def test_reliability_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    probability = rng.uniform(size=200)
    y = (rng.uniform(size=200) < probability).astype(float)
    predicted, observed, sizes = curves.reliability(y, probability)
    expected_observed, expected_predicted = calibration_curve(y, probability, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(observed, expected_observed)
    np.testing.assert_allclose(predicted, expected_predicted)
    assert sizes.sum() == 200


def test_smoothing_leaves_a_line_alone_inside_and_passes_over_gaps() -> None:
    y = np.arange(30, dtype=float)
    np.testing.assert_allclose(curves.smooth(y, 5)[2:-2], y[2:-2])
    constant = np.full(30, 2.0)
    constant[7] = np.nan
    np.testing.assert_allclose(curves.smooth(constant, 5), 2.0)


def test_thinning_keeps_both_ends() -> None:
    x, y = curves.thin(np.arange(10_000.0), np.arange(10_000.0) ** 2, n=100)
    assert len(x) == 100
    assert (x[0], x[-1], y[-1]) == (0, 9999, 9999.0**2)

"""Intervals that cover, p-values that are uniform, tests that agree with a calculation by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from neuropipe.evaluate import metrics, uncertainty


def binormal(rng: np.random.Generator, n: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Half of `n` people positive, scores normal with a shifted mean."""
    y = np.repeat([0.0, 1.0], n // 2)
    return y, rng.standard_normal(n) + shift * y


def coverage_of_auroc(studies: int, n: int, draws: int) -> float:
    """Share of simulated independent test sets whose bootstrap interval holds the true AUROC."""
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    hits = 0
    for _ in range(studies):
        y, score = binormal(rng, n, 1.0)
        weights = uncertainty.bootstrap_weights(np.arange(n), y.astype(int), draws, rng)
        values = np.concatenate([metrics.auroc(y[None], score[None], weight) for weight in weights])
        low, high = uncertainty.percentile_interval(values)
        hits += low <= truth <= high
    return hits / studies


def test_bootstrap_intervals_cover_the_truth():
    # 200 studies: standard error 1.5 %.
    assert 0.905 <= coverage_of_auroc(200, 120, 400) <= 0.99


@pytest.mark.slow
def test_bootstrap_intervals_cover_the_truth_in_2000_studies():
    assert 0.93 <= coverage_of_auroc(2000, 160, 1000) <= 0.97


def coverage_of_mae(studies: int, n: int, draws: int) -> float:
    rng = np.random.default_rng(1)
    truth = np.sqrt(2 / np.pi)
    hits = 0
    for _ in range(studies):
        error = rng.standard_normal((1, n))
        weights = uncertainty.bootstrap_weights(np.arange(n), None, draws, rng)
        values = np.concatenate([metrics.mae(np.zeros((1, n)), error, weight) for weight in weights])
        low, high = uncertainty.percentile_interval(values)
        hits += low <= truth <= high
    return hits / studies


def test_bootstrap_intervals_of_a_mean_error_cover():
    assert 0.90 <= coverage_of_mae(300, 100, 400) <= 0.98


@pytest.mark.parametrize(("n_positive", "n_negative"), [(6, 8), (20, 5), (1, 1)])
def test_a_perfect_ranking_is_as_sure_as_its_separate_pairs(n_positive: int, n_negative: int):
    y = np.repeat([1, 0], [n_positive, n_negative])
    low, high = uncertainty.perfect_interval(1.0, y, np.arange(len(y)))
    k = min(n_positive, n_negative)
    exact = stats.binomtest(k, k).proportion_ci(method="exact")
    assert (low, high) == (pytest.approx(exact.low), 1)
    assert uncertainty.perfect_interval(0.0, y, np.arange(len(y))) == (0, pytest.approx(1 - exact.low))


def test_the_exact_limit_holds_in_the_worst_case():
    # A share of the smaller class lies below everyone: the AUROC is the rest, and often nobody of it is drawn.
    k, y = 6, np.repeat([1, 0], [6, 30])
    low, _ = uncertainty.perfect_interval(1.0, y, np.arange(36))
    wrong = np.random.default_rng(0).random((40_000, k)) < 1 - low
    perfect = (~wrong).all(axis=1).mean()
    assert perfect == pytest.approx(0.025, abs=0.003)  # standard error 0.0008


def test_a_family_serves_in_one_pair():
    y, families = np.array([1, 1, 1, 0, 0, 0]), np.array([0, 0, 1, 0, 2, 3])
    assert uncertainty.perfect_interval(1.0, y, families) == (pytest.approx(0.025 ** (1 / 2)), 1)
    assert uncertainty.perfect_interval(1.0, y, np.zeros(6, int)) == (0, 1)


def test_the_difference_of_two_proportions_is_newcombes():
    # Newcombe (1998), Statistics in Medicine 17:873, table II, method 10: 56/70 against 48/80.
    def wilson(k: int, n: int) -> tuple[float, float, float]:
        found = stats.binomtest(k, n).proportion_ci(method="wilson")
        return k / n, found.low, found.high

    low, high = uncertainty.recovered_difference(wilson(56, 70), wilson(48, 80))
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_weights_count_people_and_keep_each_class():
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], [30, 12])
    weight = np.concatenate(list(uncertainty.bootstrap_weights(np.arange(42), strata, 500, rng)))
    assert weight.shape == (500, 42)
    assert (weight[:, :30].sum(axis=1) == 30).all()
    assert (weight[:, 30:].sum(axis=1) == 12).all()
    # Counts of a multinomial: mean 1, variance 1 - 1/n.
    assert weight[:, :30].var() == pytest.approx(1 - 1 / 30, rel=0.03)


def test_families_are_drawn_as_a_whole():
    units = np.array([0, 1, 1, 2, 0, 3])
    weight = np.concatenate(list(uncertainty.bootstrap_weights(units, None, 200, np.random.default_rng(0))))
    assert (weight[:, 0] == weight[:, 4]).all()
    assert (weight[:, 1] == weight[:, 2]).all()
    assert (weight[:, [0, 1, 3, 5]].sum(axis=1) == 4).all()


def test_draws_do_not_depend_on_the_size_of_blocks(monkeypatch):
    def all_draws() -> np.ndarray:
        rng = np.random.default_rng(0)
        return np.concatenate(list(uncertainty.bootstrap_weights(np.arange(10), None, 50, rng)))

    whole = all_draws()
    monkeypatch.setattr(uncertainty, "CHUNK", 70)
    np.testing.assert_array_equal(whole, all_draws())


def test_undefined_draws_are_left_out_until_most_are():
    assert uncertainty.percentile_interval(np.array([np.nan, 1.0, 2.0, 3.0]))[0] == pytest.approx(1.05)
    assert np.isnan(uncertainty.percentile_interval(np.array([np.nan, np.nan, np.nan, 1.0]))).all()


def test_nadeau_bengio_by_hand():
    differences = np.array([0.02, 0.05, -0.01, 0.04, 0.00])
    # mean 0.02; variance (0 + 9 + 9 + 4 + 4) e-4 / 4 = 6.5e-4; corrected (1/5 + 1/4) * 6.5e-4 = 2.925e-4
    t, p = uncertainty.nadeau_bengio(differences, 0.25)
    assert t == pytest.approx(0.02 / np.sqrt(2.925e-4))
    assert p == pytest.approx(2 * (1 - stats.t.cdf(1.16941, 4)), abs=1e-5)
    low, high = uncertainty.corrected_interval(differences, 0.25)
    half = 2.776445 * np.sqrt(2.925e-4)
    assert (low, high) == (pytest.approx(0.02 - half, abs=1e-6), pytest.approx(0.02 + half, abs=1e-6))


def test_without_the_correction_it_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    differences = rng.standard_normal(8) + 0.5
    t, p = uncertainty.nadeau_bengio(differences, 0.0)
    expected = stats.ttest_1samp(differences, 0)
    assert (t, p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))


def test_fewer_than_five_splits_give_no_test_and_equal_systems_no_difference():
    assert np.isnan(uncertainty.nadeau_bengio(np.arange(4.0), 0.2)).all()
    assert uncertainty.nadeau_bengio(np.zeros(5), 0.2) == (0.0, 1.0)
    assert np.isnan(uncertainty.corrected_interval(np.array([0.7]), 0.2)).all()


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, made monotone.
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(uncertainty.holm(p), [0.03, np.nan, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(uncertainty.holm(np.array([0.6, 0.7])), [1.0, 1.0])


def test_permutation_p_counts_ties_and_undefined_draws_against_the_observed():
    null = np.array([0.4, 0.5, 0.6, 0.7])
    assert uncertainty.permutation_p(0.6, null, 1) == pytest.approx(3 / 5)
    assert uncertainty.permutation_p(0.8, null, 1) == pytest.approx(1 / 5)
    assert uncertainty.permutation_p(0.45, null, -1) == pytest.approx(2 / 5)
    assert uncertainty.permutation_p(0.8, np.array([np.nan, 0.5]), 1) == pytest.approx(2 / 3)
    assert np.isnan(uncertainty.permutation_p(np.nan, null, 1))


def test_delong_against_the_definition():
    rng = np.random.default_rng(0)
    y = (rng.random(60) < 0.4).astype(float)
    scores = np.round(rng.standard_normal((2, 60)) + y, 1)  # with ties
    areas, covariance = uncertainty.delong(y, scores)
    np.testing.assert_allclose(areas, [roc_auc_score(y, row) for row in scores])
    compare = [np.subtract.outer(row[y == 1], row[y == 0]) for row in scores]
    psi = [(difference > 0) + 0.5 * (difference == 0) for difference in compare]
    by_positive, by_negative = (np.stack([part.mean(axis=axis) for part in psi]) for axis in (1, 0))
    m, n = by_positive.shape[1], by_negative.shape[1]
    np.testing.assert_allclose(covariance, np.cov(by_positive) / m + np.cov(by_negative) / n)


def test_delong_and_the_paired_bootstrap_agree_on_a_difference():
    rng = np.random.default_rng(3)
    y, first = binormal(rng, 300, 1.2)
    second = first + rng.standard_normal(300)
    difference, low, high = uncertainty.delong_difference(y, np.stack([first, second]))
    draws = [
        metrics.auroc(y[None], first[None], weight) - metrics.auroc(y[None], second[None], weight)
        for weight in uncertainty.bootstrap_weights(np.arange(300), y.astype(int), 2000, rng)
    ]
    boot_low, boot_high = uncertainty.percentile_interval(np.concatenate(draws))
    assert difference == pytest.approx(roc_auc_score(y, first) - roc_auc_score(y, second))
    assert (low, high) == (pytest.approx(boot_low, abs=0.012), pytest.approx(boot_high, abs=0.012))


def test_two_people_are_too_few_for_delong():
    assert np.isnan(uncertainty.delong(np.array([0.0, 1.0]), np.array([[0.1, 0.2]]))[1]).all()

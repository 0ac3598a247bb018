"""What predictions still owe to confounds: closed forms, planted dependence, none where there is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_label_metrics import told
from test_summary import predicted

from neuropipe.evaluate import tables
from neuropipe.evaluate.dependence import fisher_interval, partial_correlation, rows
from neuropipe.evaluate.summary import summarise


def value(prediction: np.ndarray, confound: np.ndarray, given: np.ndarray) -> float:
    columns = (part if part.ndim == 2 else part[:, None] for part in (prediction, confound, given))
    return partial_correlation(*columns, 0, np.random.default_rng(0))[0]


def test_it_is_the_partial_correlation_of_the_textbook():
    x, z, y = (
        np.random.default_rng(0).multivariate_normal(np.zeros(3), [[1, 0.5, 0.4], [0.5, 1, 0.3], [0.4, 0.3, 1]], 80).T
    )
    r_xz, r_xy, r_zy = (np.corrcoef(*pair)[0, 1] for pair in ((x, z), (x, y), (z, y)))
    expected = (r_xz - r_xy * r_zy) / np.sqrt((1 - r_xy**2) * (1 - r_zy**2))
    assert value(x, z, y) == pytest.approx(expected)
    assert value(-x, z, y) == pytest.approx(-expected)


def test_with_groups_it_is_the_root_of_eta_squared():
    rng = np.random.default_rng(1)
    group = rng.integers(0, 3, 90)
    x = rng.standard_normal(90) + 0.5 * group
    f = stats.f_oneway(*(x[group == k] for k in range(3))).statistic
    indicators = (group[:, None] == np.arange(1, 3)).astype(float)
    assert value(x, indicators, np.zeros(90)) == pytest.approx(np.sqrt(2 * f / (2 * f + 87)))


def test_nothing_is_left_of_a_prediction_that_the_target_explains_or_of_a_constant_confound():
    y, rng = np.repeat([0.0, 1.0], 20), np.random.default_rng(2)
    assert np.isnan(value(3 * y + 1, rng.standard_normal(40), y))
    assert np.isnan(value(rng.standard_normal(40), np.ones(40), y))
    assert np.isnan(value(rng.standard_normal(40), 2 * y, y))  # a confound that is the target


def test_fishers_interval_covers_a_partial_rank_correlation():
    rng = np.random.default_rng(3)
    hits, truth = 0, 6 / np.pi * np.arcsin(0.5 / 2)  # Spearman's of a normal pair with r = 0.5
    for _ in range(600):
        a, b = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 60).T
        low, high = fisher_interval(stats.spearmanr(a, b).statistic, 60, 0)
        hits += low <= truth <= high
    assert 0.92 <= hits / 600 <= 0.98


def confounds(run: pd.DataFrame, **values: np.ndarray) -> pd.DataFrame:
    parts = [
        run[["task", "dataset", "participant_id"]].assign(confound=name, **{kind: column})
        for name, column in values.items()
        for kind in ["number" if np.issubdtype(column.dtype, np.number) else "text"]
    ]
    return tables.frame(pd.concat(parts), tables.CONFOUNDS)


def dependence(run: pd.DataFrame, **values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(rows(run, confounds(run, **values), 200, 0)).set_index("metric")


def test_what_is_planted_is_found_and_what_the_target_explains_is_not():
    rng = np.random.default_rng(4)
    run = predicted("model", n=200)
    motion, age = rng.standard_normal(200), run["y"].to_numpy() * 10 + rng.standard_normal(200)
    run["logit"] = 2 * run["y"] + motion + rng.standard_normal(200)
    site = np.array(list("ABCD"), dtype=object)[rng.integers(0, 4, 200)]
    found = dependence(run, mean_fd=motion, age=age, site=site)
    assert found.loc["dependence_mean_fd", "value"] == pytest.approx(np.sqrt(0.5), abs=0.1)
    assert found.loc["dependence_mean_fd", "p_perm"] == pytest.approx(1 / 201)
    assert found.loc["dependence_mean_fd", "ci_method"] == "fisher_z"
    # Age goes with the prediction by the diagnosis alone.
    assert np.corrcoef(run["logit"], age)[0, 1] > 0.5
    low, high = found.loc["dependence_age", ["ci_low", "ci_high"]]
    assert low < 0 < high
    # Groups explain something of anything: the null says how much.
    assert found.loc["dependence_site", "null_mean"] == pytest.approx(np.sqrt(3 / 198), rel=0.15)
    assert found.loc["dependence_site", "p_perm"] > 0.01
    assert pd.isna(found.loc["dependence_site", "ci_low"])
    run["logit"] += 2 * (site == "B")
    assert dependence(run, site=site).loc["dependence_site", "p_perm"] == pytest.approx(1 / 201)


def test_ranks_make_it_blind_to_the_scale_of_predictions():
    rng = np.random.default_rng(5)
    run, motion = predicted("model", n=60), rng.standard_normal(60)
    bent = run.assign(logit=np.exp(run["logit"]))
    assert dependence(run, a=motion)["value"].item() == pytest.approx(dependence(bent, a=motion)["value"].item())


def test_errors_of_numbers_and_probabilities_of_classes_can_depend_too():
    rng = np.random.default_rng(6)
    run = predicted("model", n=100, kind="regression")
    motion = rng.standard_normal(100)
    run["yhat"] = run["y"] + 5 * motion + rng.standard_normal(100)
    assert dependence(run, mean_fd=motion)["value"].item() > 0.9
    classes = told(n=100)
    free, bound = rng.standard_normal(100), np.stack(classes["probability"].to_list())[:, 0].astype(float)
    found = dependence(classes, free=free, bound=bound)
    assert found.loc["dependence_free", "p_perm"] > 0.01
    assert found.loc["dependence_bound", "p_perm"] == pytest.approx(1 / 201)


def test_p_values_are_uniform_where_predictions_owe_nothing_to_the_confound():
    rng = np.random.default_rng(7)
    y, p = np.repeat([0.0, 1.0], 15)[:, None], []
    for _ in range(300):
        groups = np.eye(3)[rng.integers(0, 3, 30)][:, 1:]
        found, null = partial_correlation(rng.standard_normal((30, 1)) + y, groups, y, 39, rng)
        p.append((1 + (null >= found).sum()) / 40)
    assert stats.kstest(p, stats.uniform(0, 1.0125).cdf).pvalue > 0.01


def test_repeats_are_averaged_and_unknown_or_few_people_left_out():
    rng = np.random.default_rng(8)
    run, motion = predicted("model", n=30), rng.standard_normal(30)
    twice = pd.concat([run, run.assign(repeat=1)])
    one, two = dependence(run, a=motion), pd.DataFrame(rows(twice, confounds(run, a=motion), 50, 0)).set_index("metric")
    assert one["value"].item() == pytest.approx(two["value"].item())
    assert two["n_test"].item() == 30
    assert dependence(run, a=np.where(np.arange(30) < 9, motion, np.nan))["value"].isna().all()


def test_folds_have_one_row_over_all_of_them():
    run = predicted("model", folds=3)
    table = confounds(run, age=np.random.default_rng(9).standard_normal(120))
    found = summarise(run, tables.frame([], tables.NULLS), draws=100, seed=0, permutations=20, confounds=table)
    found = found[found["metric"] == "dependence_age"]
    assert found["fold"].tolist() == ["pooled"]
    assert found["n_test"].tolist() == [120]

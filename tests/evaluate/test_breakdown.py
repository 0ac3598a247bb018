"""The primary metric by site and sex: values, intervals, and groups that are too small."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import mean_absolute_error, roc_auc_score
from test_summary import predicted

from neuropipe.evaluate.breakdown import breakdown


def grouped(run: pd.DataFrame, draws: int = 500) -> pd.DataFrame:
    return breakdown(run, draws=draws, seed=0).set_index(["column", "group"])


def test_groups_have_their_own_value_and_interval():
    run = predicted("model", n=120)
    run["site"], run["sex"] = np.where(np.arange(120) % 3, "A", "B"), pd.NA
    found = grouped(run)
    assert found.index.tolist() == [("site", "A"), ("site", "B")]  # of sex nothing is known
    for name, part in run.groupby("site"):
        own = found.loc[("site", name)]
        assert own["value"] == pytest.approx(roc_auc_score(part["y"], part["score"]))
        assert own["ci_low"] < own["value"] < own["ci_high"]
        assert (own["n"], own["n_positive"], own["metric"]) == (len(part), part["y"].sum(), "auroc")


def test_the_interval_of_a_mean_error_is_that_of_a_mean():
    run = predicted("model", n=400, kind="regression").assign(site="A")
    found = grouped(run, draws=3000).loc[("site", "A")]
    error = (run["yhat"] - run["y"]).abs()
    low, high = stats.norm.interval(0.95, error.mean(), error.std() / 20)
    assert found["value"] == pytest.approx(mean_absolute_error(run["y"], run["yhat"]))
    assert (found["ci_low"], found["ci_high"]) == (pytest.approx(low, rel=0.02), pytest.approx(high, rel=0.02))


def test_an_auroc_over_folds_compares_people_of_one_fold_only():
    run = predicted("model", folds=3, n=20).assign(site="A")
    run["score"] += np.repeat([0.0, 10.0, -10.0], 20)  # folds without a common scale
    folds = [(part["y"].sum() * (1 - part["y"]).sum(), part) for _, part in run.groupby("fold")]
    own = [roc_auc_score(part["y"], part["score"]) for _, part in folds]
    expected = np.average(own, weights=[pairs for pairs, _ in folds])
    assert grouped(run).loc[("site", "A"), "value"] == pytest.approx(expected)


def test_small_groups_and_groups_of_one_class_are_said_by_nan():
    run = predicted("model", n=60)
    run["site"] = ["A"] * 52 + ["few"] * 6 + ["one", "n/a"]
    run.loc[run["site"] == "few", "y"] = [1.0, 0, 0, 1, 0, 0]
    run["sex"] = np.where(run["y"] == 1, "F", "M")
    found = grouped(run)
    assert np.isfinite(found.loc[("site", "few"), "value"])
    assert np.isnan(found.loc[("site", "few"), "ci_low"])
    assert found.loc[[("site", "one"), ("site", "n/a"), ("sex", "F"), ("sex", "M")], "value"].isna().all()
    assert found["n"].groupby("column").sum().to_dict() == {"sex": 60, "site": 60}


def test_a_perfect_group_is_not_certain():
    run = predicted("model", n=40, skill=50.0).assign(sex="F")
    found = grouped(run).loc[("sex", "F")]
    assert (found["value"], found["ci_high"]) == (1, 1)
    assert found["ci_low"] == pytest.approx(stats.binomtest(20, 20).proportion_ci(method="exact").low)


def test_a_perfect_group_is_as_sure_as_the_pairs_that_were_compared():
    run = predicted("model", n=12, folds=2).assign(site="A")
    run["y"] = [1.0] * 2 + [0.0] * 10 + [1.0] * 10 + [0.0] * 2  # two pairs in each fold
    run["score"] = 0.1 + 0.8 * run["y"]
    found = grouped(run).loc[("site", "A")]
    assert (found["value"], found["ci_low"], found["ci_high"]) == (1, pytest.approx(0.025 ** (1 / 4)), 1)


def test_people_of_several_repeats_count_once():
    run = predicted("model", n=40).assign(site="A")
    found = grouped(pd.concat([run, run.assign(repeat=1)])).loc[("site", "A")]
    assert (found["n"], found["n_positive"]) == (40, 20)
    assert found["value"] == pytest.approx(roc_auc_score(run["y"], run["score"]))


def test_validation_people_are_left_out():
    run = predicted("model").assign(site="A")
    extra = run.assign(role="validation", site="B")
    pd.testing.assert_frame_equal(grouped(run), grouped(pd.concat([run, extra])))

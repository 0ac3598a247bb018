"""Patterns of regions: the planted region is found, and noise that a model cancels is not mistaken for it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from questions import age, some_people

from neuropipe.evaluate.drivers import Regional
from neuropipe.evaluate.features import Features
from neuropipe.evaluate.protocol import System, answer

N_REGIONS = 6
PAIRS = np.triu_indices(N_REGIONS, 1)
TABLE = pd.DataFrame({"region": range(N_REGIONS), "name": list("abcdef"), "network": "x"})
RNG = np.random.default_rng(0)


def test_a_pattern_is_the_covariance_with_the_standardised_score():
    values, score = RNG.standard_normal((30, len(PAIRS[0]))), RNG.standard_normal(30)
    found = Regional(Features(values, scaled=False), TABLE, PAIRS).pattern(np.arange(30), score)
    edges = np.array([np.cov(values[:, e], score, ddof=0)[0, 1] / score.std() for e in range(values.shape[1])])
    expected = [edges[(PAIRS[0] == r) | (PAIRS[1] == r)].mean() for r in range(N_REGIONS)]
    np.testing.assert_allclose(found, expected)


def test_of_volumes_it_is_their_correlation_and_the_sum_is_no_region():
    values, score = RNG.gamma(2.0, size=(30, N_REGIONS + 1)), RNG.standard_normal(30)
    values[:, 2] = 7.0  # the same in everyone
    found = Regional(Features(values), TABLE).pattern(np.arange(30), score)
    expected = [0 if r == 2 else np.corrcoef(values[:, r], score)[0, 1] for r in range(N_REGIONS)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_what_is_missing_counts_as_the_mean_and_a_constant_score_has_no_pattern():
    values, score = RNG.standard_normal((30, len(PAIRS[0]))), RNG.standard_normal(30)
    values[4, 0] = np.nan
    filled = values.copy()
    filled[4, 0] = np.nanmean(values[:, 0])
    both = [Regional(Features(x, scaled=False), TABLE, PAIRS).pattern(np.arange(30), score) for x in (values, filled)]
    np.testing.assert_allclose(*both)
    still = Regional(Features(values, scaled=False), TABLE, PAIRS).pattern(np.arange(30), np.ones(30))
    np.testing.assert_array_equal(still, 0)


@pytest.fixture(scope="module")
def planted() -> tuple:
    """Age raises all connections of region 2; another region only carries noise that those of region 2 have too."""
    people = some_people(200)
    question = age(people)
    noise, y = RNG.standard_normal((200, 1)), question.target.y[:, None]
    values = 0.2 * RNG.standard_normal((200, len(PAIRS[0])))
    of = [(PAIRS[0] == r) | (PAIRS[1] == r) for r in range(N_REGIONS)]
    values[:, of[2] & ~of[4]] += (y - y.mean()) / y.std() + noise
    values[:, of[4] & ~of[2]] += noise
    return question, Features(values, scaled=False)


def test_the_planted_region_drives_and_the_one_that_cancels_noise_does_not(planted):
    question, features = planted
    regional = Regional(features, TABLE, PAIRS)
    found = answer(question, System("fc"), "ridge", lambda fold: features, regional).drivers
    weight = found.set_index("region")["weight"]
    assert weight.idxmax() == 2
    assert abs(weight[4]) < 0.3 * weight[2]
    assert set(found["run_id"]) == {"age_fc_ridge"}
    assert found["name"].tolist() == list("abcdef")


def test_of_other_features_it_is_told_by_the_scores_of_test_people(planted):
    question, features = planted
    regional = Regional(features, TABLE, PAIRS)
    embedding = Features(question.target.y[:, None] + RNG.standard_normal((200, 1)))
    found = answer(question, System("recipe", 0), "ridge", lambda fold: embedding, regional)
    fold = question.folds[0]
    expected = regional.pattern(fold.test, found.predictions["yhat"].to_numpy())
    np.testing.assert_allclose(found.drivers["weight"], expected)
    assert found.drivers["weight"].idxmax() == 2


def test_without_regions_there_are_no_drivers(planted):
    question, features = planted
    assert answer(question, System("fc"), "ridge", lambda fold: features).drivers.empty

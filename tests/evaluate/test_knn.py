"""Nearest neighbours against scikit-learn's; ties, few people and permuted labels."""

from __future__ import annotations

import numpy as np
import pytest
from questions import age, diagnosis, some_people
from scipy.special import expit, softmax
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from neuropipe.evaluate.features import Features
from neuropipe.evaluate.knn import NEIGHBOURS, Means, Votes, means, possible
from neuropipe.evaluate.protocol import System, answer

RNG = np.random.default_rng(0)
TRAIN, OTHER = RNG.standard_normal((90, 6)), RNG.standard_normal((40, 6))
NUMBER = TRAIN[:, 0] + 0.3 * RNG.standard_normal(90)
INNER = np.arange(90) % 5


@pytest.mark.parametrize("k", [1, 5, 25])
def test_means_are_those_of_scikit_learn(k):
    (found,) = means(TRAIN, NUMBER[:, None], OTHER, (k,))
    expected = KNeighborsRegressor(k).fit(TRAIN, NUMBER).predict(OTHER)
    np.testing.assert_allclose(found[:, 0], expected)


def test_the_number_is_the_best_of_a_plain_cross_validation():
    grid = possible(72)
    search = GridSearchCV(
        KNeighborsRegressor(), {"n_neighbors": list(grid)}, scoring="neg_mean_squared_error", cv=PredefinedSplit(INNER)
    ).fit(TRAIN, NUMBER)
    result = Means.nested(TRAIN, NUMBER[:, None], OTHER, INNER)
    k = grid[result.chosen[0]]
    assert k == search.best_params_["n_neighbors"]
    assert 1 < k < grid[-1]
    np.testing.assert_allclose(result.inner_loss[:, 0], -search.cv_results_["mean_test_score"])
    np.testing.assert_allclose(result.prediction[:, 0], search.predict(OTHER))


def test_shares_of_classes_are_scikit_learns_with_one_average_neighbour_more():
    labels = np.digitize(NUMBER, [-0.5, 0.5])
    onehot = np.eye(3)[labels][:, None]
    result = Votes.nested(TRAIN, onehot, OTHER, INNER)
    k = result.tried[result.chosen[0]]["n_neighbours"]
    expected = KNeighborsClassifier(k).fit(TRAIN, labels).predict_proba(OTHER)
    share = softmax(result.prediction[:, 0], axis=1)
    np.testing.assert_allclose(share * (k + 1) - onehot.mean(axis=(0, 1)), expected * k, atol=1e-8)


def test_of_two_classes_they_are_log_odds():
    label = (NUMBER > 0).astype(float)
    result = Votes.nested(TRAIN, label[:, None], OTHER, INNER)
    k = result.tried[result.chosen[0]]["n_neighbours"]
    expected = KNeighborsClassifier(k).fit(TRAIN, label).predict_proba(OTHER)[:, 1]
    np.testing.assert_allclose(expit(result.prediction[:, 0]) * (k + 1), expected * k + label.mean())


def test_equally_far_people_share_the_places_that_are_left_in_any_order():
    train, y = np.array([[1.0], [-1.0], [3.0], [-1.0]]), np.array([[0.0], [3.0], [9.0], [6.0]])
    (found,) = means(train, y, np.zeros((1, 1)), (2,))
    assert found[0, 0] == pytest.approx((0 + 3 + 6) / 3)
    (turned,) = means(train[::-1], y[::-1], np.zeros((1, 1)), (2,))
    assert turned[0, 0] == pytest.approx(found[0, 0])


def test_few_people_have_few_neighbours():
    assert possible(2) == (1,)
    assert possible(7) == (1, 3)
    assert possible(1000) == NEIGHBOURS
    result = Means.nested(TRAIN[:3], NUMBER[:3, None], OTHER[:2], np.arange(3))
    assert np.isfinite(result.prediction).all()


def test_coordinates_keep_the_neighbours_of_standardised_features():
    people = some_people(60)
    question = age(people)
    values = np.random.default_rng(1).standard_normal((60, 100)) * np.arange(1, 101)  # more features than people
    values[:, 0] += 20 * people.numbers("age")
    found = answer(question, System("s"), "knn", lambda fold: Features(values, scaled=True))
    k = found.choices.loc[found.choices["chosen"], "n_neighbours"].item()
    fold = question.folds[0]
    scaler = StandardScaler().fit(values[fold.train])
    model = KNeighborsRegressor(k).fit(scaler.transform(values[fold.train]), question.target.y[fold.train])
    expected = model.predict(scaler.transform(values[fold.test]))
    np.testing.assert_allclose(found.predictions["yhat"], expected)
    assert found.choices["strength"].isna().all()


def test_a_null_of_neighbours_is_at_chance_and_the_planted_effect_is_not():
    people = some_people(120)
    question = diagnosis(people, draws=100)
    values = np.random.default_rng(0).standard_normal((120, 4)) + 1.5 * question.target.y[:, None]
    found = answer(question, System("s"), "knn", lambda fold: Features(values))
    assert roc_auc_score(found.predictions["y"], found.predictions["score"]) > 0.85
    labels, null = (np.stack(found.nulls[name].to_list(), axis=1) for name in ("y", "prediction"))
    chance = [roc_auc_score(*pair) for pair in zip(labels, null, strict=True)]
    assert np.mean(chance) == pytest.approx(0.5, abs=0.03)

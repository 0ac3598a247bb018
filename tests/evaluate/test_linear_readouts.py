"""Ridge and logistic regression against scikit-learn, strength by strength; the choice made inside training."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import linear_model

from neuropipe.evaluate import linear
from neuropipe.evaluate.linear import STRENGTHS, Logistic, Ridge, nested

SHAPES = [(40, 120), (120, 12)]


def problem(n: int, p: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows with an offset, two label columns, rows to predict."""
    rng = np.random.default_rng(seed)
    train = rng.standard_normal((n, p)) + 2
    first = (train[:, 0] + rng.standard_normal(n) > 2).astype(float)
    return train, np.stack([first, rng.permutation(first)], axis=1), rng.standard_normal((25, p)) + 2


@pytest.mark.parametrize(("n", "p"), SHAPES)
@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_ridge_is_scikit_learns(n, p, strength):
    train, y, other = problem(n, p)
    expected = linear_model.Ridge(alpha=strength).fit(train, y).predict(other)
    np.testing.assert_allclose(Ridge(train, y, other).predict(np.arange(2), np.full(2, strength)), expected, atol=1e-8)


@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_logistic_is_scikit_learns_along_the_path(n, p):
    train, y, other = problem(n, p)
    path = Logistic(train, y, other)
    for strength in (100.0, 10.0, 1.0):
        found = path.predict(np.arange(2), np.full(2, strength))
        for column in range(2):
            model = linear_model.LogisticRegression(C=1 / strength, tol=1e-10, solver="newton-cholesky")
            expected = model.fit(train, y[:, column]).decision_function(other)
            np.testing.assert_allclose(found[:, column], expected, atol=2e-3)


def test_each_column_may_have_its_own_strength():
    train, y, other = problem(60, 20)
    for model in (Ridge, Logistic):
        both = model(train, y, other).predict(np.arange(2), np.array([10.0, 1.0]))
        for column, strength in enumerate((10.0, 1.0)):
            alone = model(train, y[:, [column]], other).predict(np.arange(1), np.array([strength]))[:, 0]
            np.testing.assert_allclose(both[:, column], alone, atol=1e-4)


def test_losses_are_squared_error_and_negative_log_likelihood():
    y = np.array([[0.0], [1.0], [1.0]])
    value = np.array([[0.5], [2.0], [-1.0]])
    assert Ridge.loss(y, value)[0] == pytest.approx(0.25 + 1 + 4)
    p = 1 / (1 + np.exp(-value[:, 0]))
    assert Logistic.loss(y, value)[0] == pytest.approx(-np.log(1 - p[0]) - np.log(p[1]) - np.log(p[2]))


def test_the_nested_choice_is_the_best_of_a_plain_cross_validation():
    train, y, other = problem(80, 30)
    y = train[:, [0]] * 2 + np.random.default_rng(1).standard_normal((80, 1))
    inner = np.arange(80) % 5
    loss = []
    for strength in STRENGTHS:
        errors = []
        for fold in range(5):
            held = inner == fold
            model = linear_model.Ridge(alpha=strength * (~held).sum()).fit(train[~held], y[~held, 0])
            errors.append(((model.predict(train[held]) - y[held, 0]) ** 2).sum())
        loss.append(sum(errors) / 80)
    result = nested(Ridge, train, y, other, inner)
    best = int(np.argmin(loss))
    assert 0 < best < len(STRENGTHS) - 1  # a choice, not an end of the grid
    assert result.chosen[0] == best
    tried = np.isfinite(result.inner_loss[:, 0])
    np.testing.assert_allclose(result.inner_loss[tried, 0], np.array(loss)[tried], rtol=1e-6)
    final = linear_model.Ridge(alpha=STRENGTHS[best] * 80).fit(train, y[:, 0]).predict(other)
    np.testing.assert_allclose(result.prediction[:, 0], final, atol=1e-6)


@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_what_ridge_leaves_of_inner_folds_is_what_it_leaves_when_they_are_left_out(n, p):
    train, y, _ = problem(n, p)
    inner = np.concatenate([[0] * 7, np.arange(n - 7) % 4])  # folds of different sizes
    expected = np.zeros((len(STRENGTHS), 2))
    for place, strength in enumerate(STRENGTHS):
        for fold in range(4):
            out = inner == fold
            model = linear_model.Ridge(alpha=strength * (~out).sum(), solver="svd").fit(train[~out], y[~out])
            expected[place] += ((model.predict(train[out]) - y[out]) ** 2).sum(axis=0)
    np.testing.assert_allclose(Ridge.inner_losses(train, y, inner, STRENGTHS), expected, rtol=1e-6)


@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_principal_coordinates_are_not_decomposed_again(n, p):
    train, y, other = problem(n, p)
    once = linear.decompose(train, other)
    turned, moved = once.u * np.sqrt(once.values), once.other
    again = linear.decompose(turned, moved)
    np.testing.assert_array_equal(again.other, moved - turned.mean(axis=0))  # not turned
    direct = Ridge(train, y, other).predict(np.arange(2), np.full(2, 3.0))
    np.testing.assert_allclose(Ridge(turned, y, moved).predict(np.arange(2), np.full(2, 3.0)), direct, atol=1e-10)


def test_labels_without_signal_choose_the_strongest_and_predict_the_mean():
    rng = np.random.default_rng(0)
    train = rng.standard_normal((60, 200)) / np.sqrt(200)
    y = rng.standard_normal((60, 20)) + 5
    result = nested(Ridge, train, y, train[:5], np.arange(60) % 5)
    weak = result.chosen == len(STRENGTHS) - 1
    assert weak.mean() > 0.5
    np.testing.assert_allclose(result.prediction[:, weak], np.broadcast_to(y.mean(0)[weak], (5, weak.sum())), atol=0.1)


@pytest.mark.parametrize("model", [Ridge, Logistic])
def test_columns_do_not_influence_each_other(model):
    train, y, other = problem(60, 100)
    inner = np.arange(60) % 5
    together = nested(model, train, y, other, inner)
    alone = nested(model, train, y[:, [0]], other, inner)
    assert alone.chosen[0] == together.chosen[0]
    np.testing.assert_allclose(alone.prediction[:, 0], together.prediction[:, 0], atol=1e-6)


def test_a_side_with_one_class_still_gives_finite_predictions():
    train, y, other = problem(30, 5)
    y = np.ones_like(y)
    assert np.isfinite(nested(Logistic, train, y, other, np.arange(30) % 5).prediction).all()


def test_coordinates_without_any_spread_predict_the_mean():
    y = np.arange(10.0)[:, None]
    result = nested(Ridge, np.zeros((10, 1)), y, np.zeros((3, 1)), np.arange(10) % 5)
    np.testing.assert_allclose(result.prediction, 4.5)


def test_strengths_are_ascending():
    assert list(linear.STRENGTHS) == sorted(linear.STRENGTHS)

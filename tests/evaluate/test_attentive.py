"""The attentive readout: scikit-learn's where attention has no choice, and more where one token matters."""

from __future__ import annotations

import numpy as np
import pytest
from questions import age, diagnosis, some_people
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score

from neuropipe.evaluate import attentive
from neuropipe.evaluate.attentive import AttentiveLogistic, AttentiveRidge, Tokens
from neuropipe.evaluate.linear import nested
from neuropipe.evaluate.protocol import System, answer

RNG = np.random.default_rng(0)


def there(x: np.ndarray) -> np.ndarray:
    """Return coordinates in which all tokens are there."""
    return np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=2).astype(np.float32)


@pytest.mark.parametrize("strength", [0.01, 0.1, 1.0])
def test_of_equal_tokens_it_is_scikit_learns_linear_model(strength):
    x = RNG.standard_normal((200, 5)) / 5**0.5
    y = (x[:, 0] + 0.3 * RNG.standard_normal(200) > 0.2).astype(float)
    tokens, penalty = there(np.repeat(x[:, None], 4, axis=1)), np.array([strength * 100])
    found = AttentiveLogistic(tokens[:100], y[:100, None], tokens[100:]).predict(np.array([0]), penalty)[:, 0]
    model = LogisticRegression(C=1 / penalty[0], tol=1e-8, max_iter=5000).fit(x[:100], y[:100])
    np.testing.assert_allclose(found, model.decision_function(x[100:]), atol=0.05 * np.abs(found).max())
    numbers = 50 + 10 * x[:, 0] + RNG.standard_normal(200)
    found = AttentiveRidge(tokens[:100], numbers[:100, None], tokens[100:]).predict(np.array([0]), penalty)[:, 0]
    model = Ridge(alpha=penalty[0]).fit(x[:100], numbers[:100])
    np.testing.assert_allclose(found, model.predict(x[100:]), atol=0.15)


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_gradients_are_those_of_finite_differences(kind, monkeypatch):
    x = there(RNG.standard_normal((12, 3, 4)))
    x[0, 1, -1] = 0
    y = (RNG.random((12, 1)) > 0.5).astype(float)
    weights = RNG.standard_normal((9, 1))

    def loss(w):
        scores = x[:, :, :4] @ w[:4] + np.where(x[:, :, -1:] > 0, 0, -np.inf)
        said = (softmax(scores, axis=1) * (x[:, :, :4] @ w[4:8])).sum(1) + w[8]
        model = attentive.READOUT[kind]
        half = 0.5 if kind == "regression" else 1.0  # squared errors are penalised as in ridge regression
        return half * float(model.loss(y, said)[0]) / 12 + 0.05 * float((w[:8] ** 2).sum())

    numeric = [(loss(weights + d[:, None]) - loss(weights - d[:, None])) / 2e-5 for d in 1e-5 * np.eye(9)]
    monkeypatch.setattr(attentive, "N_STEPS", 2)  # the first step is Adam's: the sign of the gradient
    data = attentive._split(x.astype(np.float64))
    model = attentive.READOUT[kind]._mean_gradient
    after = attentive._fit(*data, y, model, np.array([0.1]), weights)
    assert loss(after) < loss(weights)
    monkeypatch.setattr(attentive, "N_STEPS", 1)
    monkeypatch.setattr(attentive.np, "cos", lambda value: np.float64(1.0))
    monkeypatch.setattr(attentive.np, "sqrt", lambda value: np.float64(1.0))  # no scaling: the step is the gradient
    after = attentive._fit(*data, y, model, np.array([0.1]), weights)
    np.testing.assert_allclose((weights - after)[:, 0] / attentive.STEP, numeric, rtol=1e-4, atol=1e-6)


def one_speaks(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens (n, 12, 6) of which one, marked by its first number and at a place of its own, tells the class."""
    y = (RNG.random(n) > 0.5).astype(float)
    tokens = RNG.standard_normal((n, 12, 6))
    tokens[:, :, 0] = 0.3 * RNG.standard_normal((n, 12))
    place = RNG.integers(12, size=n)
    tokens[np.arange(n), place, 0] += 3
    tokens[np.arange(n), place, 1] += 2 * (2 * y - 1)
    return tokens, y


def test_the_token_that_speaks_is_found():
    tokens, y = one_speaks(600)
    train = np.arange(300)
    x = Tokens(tokens).coordinates(train)
    result = nested(AttentiveLogistic, x[:300], y[:300, None], x[300:], np.arange(300) % 5)
    mean = LogisticRegression().fit(tokens[:300].mean(1), y[:300]).decision_function(tokens[300:].mean(1))
    assert roc_auc_score(y[300:], mean) < 0.85
    assert roc_auc_score(y[300:], result.prediction[:, 0]) > 0.95


def test_a_number_in_one_network_is_read_there():
    """One token of eight carries the number; which one it is, is the same in everyone."""
    tokens = RNG.standard_normal((400, 8, 5)) + 2 * RNG.standard_normal((8, 5))
    y = 40 + 10 * tokens[:, 3, 2]
    x = Tokens(tokens).coordinates(np.arange(300))
    result = nested(AttentiveRidge, x[:300], y[:300, None], x[300:], np.arange(300) % 5)
    mean = Ridge().fit(tokens[:300].mean(1), y[:300]).predict(tokens[300:].mean(1))
    assert r2_score(y[300:], result.prediction[:, 0]) > 0.6 > 0.3 > r2_score(y[300:], mean)


def test_coordinates_are_fitted_on_the_training_side_and_mark_what_is_missing():
    tokens = RNG.standard_normal((50, 4, 7)) + 3 * RNG.standard_normal((4, 7))
    tokens[1, 2], tokens[2] = np.nan, np.nan
    train = np.arange(30)
    x = Tokens(tokens).coordinates(train)
    assert x.shape == (50, 4, 7 + 7 + 1) and np.isfinite(x).all()
    assert x[1, :, -1].tolist() == [1, 1, 0, 1] and x[2, :, -1].tolist() == [1, 1, 1, 1] and not x[2, :, :7].any()
    np.testing.assert_allclose((x[train][x[train, :, -1] > 0][:, 7:14] ** 2).sum(1).mean(), 1, rtol=0.05)
    tokens[40:] *= 100
    np.testing.assert_array_equal(Tokens(tokens).coordinates(train)[:40], x[:40])
    given = RNG.standard_normal((30, 3))
    changed = x.copy()
    changed[1, 2, :14] = 7.0  # of a token that is not there
    outputs = [AttentiveRidge(part[:30], given, part[:30]).predict(np.arange(3), np.ones(3)) for part in (x, changed)]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4)


def test_it_answers_a_question_with_its_null():
    people = some_people(120)
    question = diagnosis(people, draws=3)
    tokens = RNG.standard_normal((120, 3, 4))
    tokens[:, 1, 0] += 3 * np.nan_to_num(question.target.y)
    found = answer(question, System("model", 0), "attentive", lambda fold: Tokens(tokens))
    tested = found.predictions[found.predictions["role"] == "test"]
    assert roc_auc_score(tested["y"], tested["score"]) > 0.9 and tested["logit"].notna().all()
    assert found.nulls["prediction"].map(len).unique().tolist() == [3]
    assert found.predictions["run_id"].unique().tolist() == ["diagnosis_model_attentive_seed-0"]
    numbers = answer(age(people, draws=1), System("model", 0), "attentive", lambda fold: Tokens(tokens))
    assert numbers.predictions["yhat"].between(20, 60).all()

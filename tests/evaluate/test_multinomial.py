"""Multinomial regression against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from neuropipe.evaluate.multinomial import Multinomial, nested

RNG = np.random.default_rng(0)
CENTRES = RNG.standard_normal((3, 6))
Y = RNG.integers(0, 3, 120)
X = CENTRES[Y] + RNG.standard_normal((120, 6))


@pytest.mark.parametrize("strength", [10.0, 1.0, 0.1])
def test_probabilities_are_those_of_scikit_learn(strength: float) -> None:
    model = Multinomial(X[:80], Y[:80], X[80:], n_labels=3)
    expected = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=5000).fit(X[:80], Y[:80]).predict_proba(X[80:])
    np.testing.assert_allclose(model.predict(strength), expected, atol=1e-3)


def test_more_features_than_rows_give_the_same_as_well() -> None:
    wide = np.concatenate([X, RNG.standard_normal((120, 200))], axis=1)
    expected = LogisticRegression(C=0.5, tol=1e-8, max_iter=5000).fit(wide[:40], Y[:40]).predict_proba(wide[40:])
    np.testing.assert_allclose(Multinomial(wide[:40], Y[:40], wide[40:], 3).predict(2.0), expected, atol=1e-3)


def test_a_label_that_nobody_showed_has_no_probability() -> None:
    seen = Y < 2
    found = Multinomial(X[seen], Y[seen], X, n_labels=4).predict(1.0)
    assert (found[:, 2:] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_labels_without_signal_choose_the_strongest_penalty_and_answer_the_shares() -> None:
    rng = np.random.default_rng(1)
    noise, labels = rng.standard_normal((90, 30)), np.repeat([0, 1, 2], 30)
    noise /= np.sqrt((noise**2).sum(axis=1).mean())
    chosen = nested(noise, labels, noise, np.arange(90) % 5, 3)
    assert chosen.place == 5
    np.testing.assert_allclose(chosen.probability, 1 / 3, atol=0.12)


def test_signal_chooses_a_strength_that_predicts() -> None:
    scaled = (X - X.mean(0)) / np.sqrt(((X - X.mean(0)) ** 2).sum(axis=1).mean())
    chosen = nested(scaled[:80], Y[:80], scaled[80:], np.arange(80) % 5, 3)
    assert (chosen.probability.argmax(axis=1) == Y[80:]).mean() > 0.75
    assert np.nanargmin(chosen.inner_loss) == chosen.place < 5

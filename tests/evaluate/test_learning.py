"""Learning curves: who is drawn, what readouts of few people say, and what a planted effect looks like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from questions import age, diagnosis, some_people
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score

from neuropipe.evaluate import kernel_path, learning
from neuropipe.evaluate.attentive import Tokens
from neuropipe.evaluate.features import Features
from neuropipe.evaluate.linear import STRENGTHS, Logistic, nested
from neuropipe.evaluate.linear import Ridge as Linear
from neuropipe.evaluate.protocol import System, answer


def drawn(question, n_draws=20):
    return replace(question, learning_draws=n_draws)


def with_families(people, size=3):
    families = "kin/" + pd.Series(np.arange(len(people)) // size).astype(str)
    return replace(people, table=people.table.assign(person=families.to_numpy()))


def test_sizes_double_and_leave_out_what_is_almost_everyone():
    assert learning.sizes(10) == []
    assert learning.sizes(22) == [16]
    assert learning.sizes(80) == [16, 32]
    assert learning.sizes(86) == [16, 32, 64]
    assert learning.sizes(100_000) == [16, 32, 64, 128, 256, 512, 1024]


def test_draws_hold_every_class_in_its_share_and_grow_by_adding_people():
    people = some_people(300)
    question = drawn(diagnosis(people))
    y = question.target.y.copy()
    y[(y == 1) & (np.arange(300) % 5 > 0)] = 0  # a tenth has it
    question = replace(question, target=replace(question.target, y=y))
    fold = question.folds[0]
    found = learning.draws(question, fold)
    assert [(d.n_people, d.number) for d in found] == [(n, i) for n in (16, 32, 64, 128) for i in range(20)]
    share = y[fold.train].mean()
    for draw in found:
        assert set(draw.rows) <= set(fold.train) and len(set(draw.rows)) == draw.n_people
        n_positive = y[draw.rows].sum()
        assert n_positive == max(2, np.floor(draw.n_people * share)) or n_positive == np.ceil(draw.n_people * share)
        for number in range(5):  # every inner training side can learn
            assert len(set(y[draw.rows[draw.inner != number]])) == 2
        assert np.ptp(np.bincount(draw.inner)) <= 1
    by_draw = {(d.n_people, d.number): set(d.rows) for d in found}
    assert all(by_draw[16, i] < by_draw[32, i] < by_draw[128, i] for i in range(20))
    assert len({frozenset(rows) for rows in by_draw.values()}) == 80


def test_kin_come_together_and_stay_in_one_inner_fold():
    people = with_families(some_people(180))
    question = drawn(age(people), 5)
    fold = question.folds[0]
    family = people.table["person"].to_numpy()
    n_families = len(set(family[fold.train]))
    for draw in learning.draws(question, fold):
        assert len(set(family[draw.rows])) == draw.n_people
        assert set(draw.rows) == set(fold.train[np.isin(family[fold.train], family[draw.rows])])
        assert pd.Series(draw.inner).groupby(family[draw.rows]).nunique().max() == 1
    assert learning.sizes(n_families) == sorted({draw.n_people for draw in learning.draws(question, fold)})


def by_scikit_learn(binary, x, y, other, inner):
    """The same procedure with scikit-learn: strengths on inner folds, then all people at the chosen one."""
    size = ((x - x.mean(axis=0)) ** 2).sum(axis=1).mean()

    def fitted(rows, strength):
        penalty = strength * size * rows.sum()
        if binary:
            return LogisticRegression(C=1 / penalty, tol=1e-10, solver="newton-cholesky").fit(x[rows], y[rows])
        return Ridge(alpha=penalty).fit(x[rows], y[rows])

    def loss(strength):
        total = 0.0
        for fold in set(inner):
            model, out = fitted(inner != fold, strength), inner == fold
            if binary:
                total += log_loss(y[out], model.predict_proba(x[out]), normalize=False, labels=[0, 1])
            else:
                total += mean_squared_error(y[out], model.predict(x[out])) * out.sum()
        return total

    model = fitted(np.full(len(y), True), min(STRENGTHS, key=loss))
    return model.decision_function(other) if binary else model.predict(other)


@pytest.mark.parametrize("n_features", [5, 60])
@pytest.mark.parametrize("binary", [True, False])
def test_few_people_are_learned_from_as_scikit_learn_does(binary, n_features):
    rng = np.random.default_rng(n_features)
    x, other = rng.standard_normal((32, n_features)) + 3, rng.standard_normal((9, n_features)) + 3
    y = x[:, 0] - 3 + rng.standard_normal(32)
    y = (y > 0).astype(float) if binary else 40 + 10 * y
    inner = np.arange(32) % 5
    model = Logistic if binary else Linear
    said = kernel_path.prediction(model, x, y, other, inner)
    np.testing.assert_allclose(said, by_scikit_learn(binary, x, y, other, inner), rtol=1e-3, atol=1e-3)
    scaled = Features(np.concatenate([x, other]), scaled=False).coordinates(np.arange(32))  # mean squared length 1
    alike = nested(model, scaled[:32], y[:, None], scaled[32:], inner).prediction[:, 0]
    np.testing.assert_allclose(said, alike, rtol=1e-3, atol=1e-3)


def test_separable_people_and_features_that_say_nothing_are_no_trouble():
    y = np.repeat([0.0, 1.0], 8)
    inner = np.arange(16) % 5
    apart = kernel_path.prediction(Logistic, y[:, None] * 100, y, np.array([[0.0], [100.0]]), inner)
    assert apart[0] < -3 and apart[1] > 3
    for model in (Logistic, Linear):
        flat = kernel_path.prediction(model, np.ones((16, 3)), y, np.ones((2, 3)), inner)
        np.testing.assert_allclose(flat, 0.0 if model is Logistic else 0.5, atol=1e-6)


def planted(question, strength):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((len(question.people), 40))
    y = question.target.y
    values[:, :5] += strength * ((y - y.mean()) / y.std())[:, None]
    return Features(values)


@pytest.mark.parametrize(("ask", "metric", "better"), [(diagnosis, "auroc", 1), (age, "mae", -1)])
def test_a_planted_effect_is_told_better_by_more_people(ask, metric, better):
    question = drawn(ask(some_people(400)))
    features = planted(question, 0.35)
    readout = "logistic" if ask is diagnosis else "ridge"
    found = answer(question, System("net", 0), readout, lambda fold: features)
    rows = found.efficiency[found.efficiency["metric"] == metric]
    mean = rows.groupby("n_people")["value"].mean() * better
    assert mean.index.tolist() == [16, 32, 64, 128, 240]
    assert mean.is_monotonic_increasing and mean.iloc[-1] - mean.iloc[0] > 0.1
    tested = found.predictions
    value = (
        roc_auc_score(tested["y"], tested["score"]) if metric == "auroc" else abs(tested["y"] - tested["yhat"]).mean()
    )
    assert rows.loc[rows["n_people"] == 240, "value"].tolist() == pytest.approx([value])
    assert rows["n_clips"].isna().all() and set(rows["run_id"]) == set(found.predictions["run_id"])


def test_without_signal_few_people_are_at_chance_and_every_system_draws_the_same():
    question = drawn(diagnosis(some_people(200), scheme="kfold", test=None, n_folds=3), 10)
    first, second = (planted(question, 0.0), planted(question, 0.0))
    one = answer(question, System("one"), "ridge", lambda fold: first).efficiency
    two = answer(question, System("two"), "ridge", lambda fold: second).efficiency
    pd.testing.assert_series_equal(one["value"], two["value"])
    assert set(one["fold"]) == {"0", "1", "2"}
    assert set(one["metric"]) == {"auroc", "balanced_accuracy"}  # a ridge score is no probability
    drawn_ones = one[(one["metric"] == "auroc") & (one["n_people"] < 100)]
    assert abs(drawn_ones["value"].mean() - 0.5) < 0.05


def test_draws_of_zero_leave_curves_out_and_other_readouts_have_them_too():
    question = diagnosis(some_people(60))
    tokens = Tokens(np.random.default_rng(0).standard_normal((60, 3, 4)))
    assert answer(question, System("net"), "attentive", lambda fold: tokens).efficiency.empty
    found = answer(drawn(question, 2), System("net"), "attentive", lambda fold: tokens).efficiency
    assert found.groupby("n_people")["draw"].nunique().to_dict() == {16: 2, 36: 1}

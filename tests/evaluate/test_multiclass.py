"""Tasks of several classes, end to end against scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from questions import some_people
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from neuropipe.config import Split, Task
from neuropipe.errors import SplitError
from neuropipe.evaluate import linear
from neuropipe.evaluate.features import Features
from neuropipe.evaluate.multinomial import Softmax
from neuropipe.evaluate.protocol import System, answer, constant_answer, resolve_readouts
from neuropipe.evaluate.question import Question, ask, inner_folds
from neuropipe.evaluate.targets import read_target
from neuropipe.splits.make import make_split

CLASSES = ("mild", "none", "severe")
N = 150


def stages(draws: int = 0, stratify: tuple[str, ...] = ("stage",)) -> tuple[Question, np.ndarray]:
    """A task of three classes, and features that tell them."""
    people, rng = some_people(N), np.random.default_rng(0)
    stage = rng.choice(CLASSES, N, p=[0.3, 0.5, 0.2])
    people.participants["toy"]["stage"] = stage
    task = Task(target="stage", kind="multiclass", datasets=["toy"], split="main")
    table = make_split("main", Split(scheme="holdout", test=0.4, stratify=list(stratify)), people)
    question = ask(people, read_target("stage", task, people), table, draws=draws, seed=0)
    centres = pd.Series([[2.0, 0], [0, 0], [0, 2.0]], index=CLASSES)[stage].to_list()
    return question, np.concatenate([np.array(centres) + rng.standard_normal((N, 2)), rng.standard_normal((N, 6))], 1)


@pytest.fixture(scope="module")
def asked() -> tuple[Question, np.ndarray]:
    return stages(draws=40)


def scaled(question: Question, values: np.ndarray) -> np.ndarray:
    return Features(values).coordinates(question.folds[0].train)


def test_classes_have_places_and_sides_have_their_shares(asked):
    question, _ = asked
    assert question.target.classes == CLASSES
    fold = question.folds[0]
    shares = [np.bincount(question.target.y[side].astype(int)) / len(side) for side in (fold.train, fold.test)]
    np.testing.assert_allclose(*shares, atol=0.03)
    columns = question.columns(fold.train)
    assert columns.shape == (len(fold.train), 41, 3)
    np.testing.assert_array_equal(columns.sum(axis=2), 1)
    np.testing.assert_array_equal(columns[:, 0].argmax(axis=1), question.target.y[fold.train])
    np.testing.assert_array_equal(columns.sum(axis=0), np.repeat(columns[:, :1].sum(axis=0), 41, axis=0))


def test_a_training_side_without_a_class_is_refused(asked):
    question, _ = asked
    role = np.where(question.target.y == 2, "test", np.where(np.arange(N) % 2, "train", "test"))
    table = question.people.table.assign(split="main", scheme="holdout", repeat=0, fold="0", role=role)
    with pytest.raises(SplitError, match="the train side needs people of every class"):
        ask(question.people, question.target, table, draws=0, seed=0)


def test_logistic_is_scikit_learns_with_the_choice_inside(asked):
    question, values = asked
    fold, x = question.folds[0], scaled(*asked)
    found = answer(question, System("s"), "logistic", lambda fold: Features(values))
    inner = inner_folds(question.people, fold.train, 0)
    n_inner = len(fold.train) * 0.8
    search = GridSearchCV(
        LogisticRegression(tol=1e-8, solver="newton-cholesky"), {"C": 1 / (np.array(linear.STRENGTHS) * n_inner)},
        scoring="neg_log_loss", cv=PredefinedSplit(inner),
    ).fit(x[fold.train], question.target.y[fold.train])  # fmt: skip
    strength = 1 / search.best_params_["C"] / n_inner
    assert found.choices.loc[found.choices["chosen"], "strength"].item() == pytest.approx(strength)
    model = LogisticRegression(C=1 / (strength * len(fold.train)), tol=1e-8, solver="newton-cholesky")
    expected = model.fit(x[fold.train], question.target.y[fold.train]).predict_proba(x[fold.test])
    rows = found.predictions
    np.testing.assert_allclose(np.stack(rows["probability"].to_list()), expected, atol=2e-3)
    np.testing.assert_array_equal(rows["yhat"], expected.argmax(axis=1))
    assert rows["predicted"].tolist() == [CLASSES[place] for place in expected.argmax(axis=1)]
    assert rows["label"].tolist() == [CLASSES[int(place)] for place in question.target.y[fold.test]]
    assert rows[["score", "logit", "train_mean"]].isna().all(axis=None)


def test_ridge_is_scikit_learns_of_one_column_per_class_and_gives_no_probability(asked):
    question, values = asked
    fold, x = question.folds[0], scaled(*asked)
    found = answer(question, System("s"), "ridge", lambda fold: Features(values))
    strength = found.choices.loc[found.choices["chosen"], "strength"].item()
    onehot = np.eye(3)[question.target.y[fold.train].astype(int)]
    scores = Ridge(alpha=strength * len(fold.train)).fit(x[fold.train], onehot).predict(x[fold.test])
    np.testing.assert_array_equal(found.predictions["yhat"], scores.argmax(axis=1))
    assert found.predictions["probability"].isna().all()


@pytest.mark.parametrize("readout", ["logistic", "ridge", "knn"])
def test_a_null_draw_is_the_whole_procedure_on_permuted_labels(asked, readout):
    question, values = asked
    found = answer(question, System("s"), readout, lambda fold: Features(values))
    null = np.stack(found.nulls["prediction"].to_list())
    labels = np.stack(found.nulls["y"].to_list())
    swapped = replace(question, labels=question.labels[:, [7]])
    alone = answer(swapped, System("s"), readout, lambda fold: Features(values))
    np.testing.assert_array_equal(null[:, 6], alone.predictions["yhat"])
    np.testing.assert_array_equal(labels[:, 6], question.labels[question.folds[0].test, 7])
    chance = [balanced_accuracy_score(*pair) for pair in zip(labels.T, null.T, strict=True)]
    assert np.mean(chance) == pytest.approx(1 / 3, abs=0.05)
    real = found.predictions
    assert balanced_accuracy_score(real["y"], real["yhat"]) > 0.5


def test_label_columns_of_classes_do_not_influence_each_other(asked):
    question, _ = asked
    fold, x = question.folds[0], scaled(*asked)
    columns = question.columns(fold.train)[:, :3]
    both = Softmax(x[fold.train], columns, x).predict(np.arange(3), np.array([10.0, 1.0, 5.0]))
    alone = Softmax(x[fold.train], columns[:, [1]], x).predict(np.arange(1), np.array([1.0]))
    np.testing.assert_allclose(both[:, 1], alone[:, 0], atol=1e-4)


def test_the_majority_answers_with_the_shares_of_the_training_side(asked):
    question, _ = asked
    found = constant_answer(question, System("majority")).predictions
    counts = np.bincount(question.target.y[question.folds[0].train].astype(int))
    expected = np.broadcast_to(counts / counts.sum(), (len(found), 3))
    np.testing.assert_allclose(np.stack(found["probability"].to_list()), expected, rtol=1e-6)
    assert set(found["predicted"]) == {CLASSES[counts.argmax()]}


def test_linear_means_logistic():
    assert resolve_readouts(["linear", "ridge", "knn", "attentive"], "multiclass") == ["logistic", "ridge", "knn"]
    assert resolve_readouts(["logistic", "knn"], "regression") == ["ridge", "knn"]

"""The protocol: sides, permutations, inner folds, and nulls that are what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from questions import age, diagnosis, some_people
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from neuropipe.errors import SplitError
from neuropipe.evaluate.features import Features
from neuropipe.evaluate.metrics import auroc
from neuropipe.evaluate.protocol import Answer, System, answer, constant_answer, resolve_readouts
from neuropipe.evaluate.question import ask, inner_folds, null_blocks, permuted
from neuropipe.evaluate.uncertainty import permutation_p
from neuropipe.splits.people import People


def test_sides_are_those_of_the_split_without_people_who_have_no_target():
    people = some_people(40)
    people.participants["toy"].loc[["sub-0005", "sub-0017"], "diagnosis"] = None
    question = diagnosis(people, validation=0.2)
    fold = question.folds[0]
    rows = np.concatenate([fold.train, fold.validation, fold.test])
    assert sorted(rows) == [i for i in range(40) if i not in (5, 17)]
    np.testing.assert_array_equal(fold.judged, np.concatenate([fold.validation, fold.test]))


def test_a_split_of_other_people_is_refused():
    question = diagnosis(some_people(40))
    table = pd.DataFrame(
        {"split": "main", "scheme": "holdout", "repeat": 0, "fold": "0", "role": "train"}, index=range(39)
    )
    table = table.assign(dataset="toy", participant_id=[f"sub-{i:04d}" for i in range(39)])
    with pytest.raises(SplitError, match="does not list 1 people of task 'diagnosis': toy/sub-0039"):
        ask(question.people, question.target, table, draws=0, seed=0)


def test_a_side_without_a_class_is_refused():
    people = some_people(40)
    question = diagnosis(people)
    y = question.target.y.copy()
    y[question.folds[0].test] = 1
    table = diagnosis_table(question)
    with pytest.raises(SplitError, match="the test side needs people of every class"):
        ask(people, replace(question.target, y=y), table, draws=0, seed=0)


def diagnosis_table(question) -> pd.DataFrame:
    role = np.full(len(question.people), "unused", dtype=object)
    role[question.folds[0].train], role[question.folds[0].test] = "train", "test"
    return question.people.table.assign(split="main", scheme="holdout", repeat=0, fold="0", role=role)


@pytest.mark.parametrize("scheme", [{}, {"scheme": "kfold", "test": None, "n_folds": 4}])
def test_permutations_keep_the_labels_of_every_site_on_every_side(scheme):
    people = some_people(60)
    question = diagnosis(people, draws=30, **scheme)
    np.testing.assert_array_equal(question.labels[:, 0], question.target.y)
    site = people.table["site"].to_numpy()
    for fold in question.folds:
        for side in (fold.train, fold.test):
            for name in "AB":
                rows = side[site[side] == name]
                np.testing.assert_array_equal(question.labels[rows].sum(axis=0), question.target.y[rows].sum())
    changed = (question.labels[:, 1:] != question.labels[:, :1]).any(axis=1)
    assert changed.mean() > 0.9


def test_blocks_over_repeats_are_sites_alone():
    question = diagnosis(some_people(60), scheme="repeated_kfold", test=None, n_folds=3, n_repeats=2)
    assert set(null_blocks(question.people, question.folds)) == {"toy/A", "toy/B"}


def test_every_permutation_is_equally_likely():
    y = np.array([0.0, 1.0, 2.0, np.nan])
    drawn = permuted(y, np.array(["a"] * 4), 3000, np.random.default_rng(0))[:, 1:]
    assert np.isnan(drawn[3]).all()
    orders, times = np.unique(drawn[:3], axis=1, return_counts=True)
    assert orders.shape[1] == 6
    assert stats.chisquare(times).pvalue > 0.001


def test_one_individual_in_two_datasets_is_permuted_as_one():
    y = np.array([0.0, 1.0, 2.0, 0.0, 1.0, np.nan])
    individuals = np.array(list("abcabd"), dtype=object)
    drawn = permuted(y, np.array(["s"] * 6), 600, np.random.default_rng(0), individuals)
    np.testing.assert_array_equal(drawn[:, 0], y)
    np.testing.assert_array_equal(drawn[:2], drawn[3:5])
    assert set(drawn[0]) == {0, 1, 2}
    np.testing.assert_array_equal(np.sort(drawn[:3], axis=0), np.repeat([[0], [1], [2]], 601, axis=1))


def test_inner_folds_keep_families_together_and_spread_sites():
    people = some_people(60)
    family = np.arange(60) // 4
    people = People(
        people.table.assign(person=[f"kin/{f}" for f in family]), people.recordings, people.participants, people.roles
    )
    train = np.arange(0, 60)[family % 3 != 0]
    inner = inner_folds(people, train, 0)
    assert set(inner) == set(range(5))
    assert (pd.Series(inner).groupby(family[train]).nunique() == 1).all()


def signal(people: People, strength: float, p: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((len(people), p))
    values[:, 0] += strength * (people.column("diagnosis") == "patient")
    values[:, 1] += strength * people.numbers("age") / 10
    return values


def test_a_planted_effect_is_found_and_its_null_is_at_chance():
    people = some_people(120)
    question = diagnosis(people, draws=100)
    values = signal(people, 2.5)
    for readout in ("ridge", "logistic"):
        found = answer(question, System("planted", 3), readout, lambda fold: Features(values))
        tested = found.predictions
        assert roc_auc_score(tested["y"], tested["score"]) > 0.85
        assert tested["run_id"].unique().tolist() == [f"diagnosis_planted_{readout}_seed-3"]
        assert tested["logit"].notna().all() == (readout == "logistic")
        null = np.stack(found.nulls["prediction"].to_list(), axis=1)
        labels = np.stack(found.nulls["y"].to_list(), axis=1)
        assert np.mean([roc_auc_score(*pair) for pair in zip(labels, null, strict=True)]) == pytest.approx(
            0.5, abs=0.03
        )


def test_a_null_draw_is_the_whole_procedure_on_permuted_labels():
    people = some_people(60)
    question = age(people, draws=4)
    values = signal(people, 1.0)
    found = answer(question, System("s"), "ridge", lambda fold: Features(values))
    swapped = replace(question, labels=question.labels[:, [2]])
    alone = answer(swapped, System("s"), "ridge", lambda fold: Features(values))
    null = np.stack(found.nulls["prediction"].to_list())[:, 1]  # draw 2
    np.testing.assert_allclose(null, alone.predictions["yhat"], rtol=1e-5)


def test_chosen_strengths_reproduce_the_prediction_with_scikit_learn():
    people = some_people(80)
    question = age(people)
    values = signal(people, 1.0)
    found = answer(question, System("s"), "ridge", lambda fold: Features(values))
    fold = question.folds[0]
    scaled = (values - values[fold.train].mean(0)) / values[fold.train].std(0)
    scaled /= np.sqrt((scaled[fold.train] ** 2).sum(1).mean())
    strength = found.choices.loc[found.choices["chosen"], "strength"].item()
    y = question.target.y
    model = Ridge(alpha=strength * len(fold.train)).fit(scaled[fold.train], y[fold.train])
    np.testing.assert_allclose(found.predictions["yhat"], model.predict(scaled[fold.test]), rtol=1e-6)
    assert found.predictions["train_mean"].unique() == pytest.approx(y[fold.train].mean())


def test_the_majority_says_the_training_prevalence():
    people = some_people(41)
    question = diagnosis(people)
    found = constant_answer(question, System("majority"))
    prevalence = question.target.y[question.folds[0].train].mean()
    np.testing.assert_allclose(found.predictions["score"], prevalence)
    assert found.nulls.empty
    numbers = constant_answer(age(people), System("majority")).predictions
    np.testing.assert_allclose(numbers["yhat"], numbers["train_mean"])


def test_readouts_fit_the_target():
    assert resolve_readouts(["linear"], "binary") == ["logistic"]
    assert resolve_readouts(["linear", "ridge", "logistic"], "binary") == ["logistic", "ridge"]
    assert resolve_readouts(["linear", "logistic"], "regression") == ["ridge"]


def p_values(studies: int) -> np.ndarray:
    """Permutation p of studies in which features know nothing of labels."""
    people = some_people(40)
    question = diagnosis(people)
    blocks = null_blocks(people, question.folds)
    once = np.ones((1, len(question.folds[0].test)))
    found = []
    for study in range(studies):
        labels = permuted(question.target.y, blocks, 39, np.random.default_rng([1, study]))
        values = signal(people, 0.0, p=5, seed=study)
        one = answer(
            replace(question, labels=labels), System("s"), "ridge", lambda fold, values=values: Features(values)
        )
        observed = roc_auc_score(one.predictions["y"], one.predictions["score"])
        y, null = (np.stack(one.nulls[name].to_list(), axis=1) for name in ("y", "prediction"))
        found.append(permutation_p(observed, auroc(y, null, once), 1))
    return np.array(found)


def test_null_p_values_are_uniform():
    p = p_values(40)
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert np.mean(p <= 0.25) < 0.5


@pytest.mark.slow
def test_null_p_values_are_uniform_over_many_studies():
    # With 39 draws p is one of 1/40 ... 1; under the null each has the same chance.
    p = p_values(1000)
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.02)
    assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.05)


def test_joining_nothing_gives_empty_tables():
    assert Answer.join([]).predictions.empty

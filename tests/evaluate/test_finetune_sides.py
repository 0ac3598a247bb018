"""Whom a network is trained on: persons and families on one side, labels in their shares, test people nowhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from questions import age, diagnosis, some_people

from neuropipe.errors import SplitError
from neuropipe.evaluate.finetune import sides


def with_families(people, size: int = 3):
    """Return people of whom every `size` in a row are kin."""
    family = [f"kin/{i // size}" for i in range(len(people))]
    return dataclasses.replace(people, table=people.table.assign(person=family))


@pytest.mark.parametrize("scheme", [{"scheme": "kfold", "n_folds": 5}, {"scheme": "holdout", "test": 0.3}])
def test_families_are_on_one_side_of_every_fold_and_nobody_is_lost(scheme):
    people = with_families(some_people(120))
    question = diagnosis(people, stratify=[], **scheme)
    person = people.table["person"].to_numpy()
    for fold in question.folds:
        found = sides(question, fold, 0.2)
        assert sorted([*found.train, *found.validation]) == sorted(fold.train)
        three = [set(person[rows]) for rows in (found.train, found.validation, fold.test)]
        assert not (three[0] & three[1] or three[0] & three[2] or three[1] & three[2])
        assert len(found.validation) == pytest.approx(0.2 * len(fold.train), abs=4)


def test_labels_keep_their_shares_among_the_held_out():
    question = diagnosis(some_people(200))
    found = sides(question, question.folds[0], 0.2)
    y = question.target.y
    assert y[found.validation].mean() == pytest.approx(y[found.train].mean(), abs=0.03)
    numbers = age(some_people(200))
    found = sides(numbers, numbers.folds[0], 0.2)
    quartiles = np.quantile(numbers.target.y[numbers.folds[0].train], [0.25, 0.5, 0.75])
    counts = np.bincount(np.digitize(numbers.target.y[found.validation], quartiles), minlength=4)
    assert counts.max() - counts.min() <= 2


def test_the_validation_side_of_a_split_is_used_where_there_is_one():
    question = diagnosis(some_people(100), validation=0.2)
    fold = question.folds[0]
    found = sides(question, fold, 0.5)
    np.testing.assert_array_equal(found.validation, fold.validation)
    np.testing.assert_array_equal(found.train, fold.train)


def test_the_held_out_are_drawn_by_the_seed_and_never_by_test_labels():
    people = some_people(100)
    question = diagnosis(people)
    fold = question.folds[0]
    first = sides(question, fold, 0.2).validation
    y = question.target.y.copy()
    y[fold.test] = 1 - y[fold.test]
    flipped = dataclasses.replace(question, target=dataclasses.replace(question.target, y=y))
    np.testing.assert_array_equal(sides(flipped, fold, 0.2).validation, first)
    other = dataclasses.replace(question, seed=question.seed + 1)
    assert set(sides(other, fold, 0.2).validation) != set(first)


def test_a_side_without_both_classes_is_refused():
    question = diagnosis(some_people(20), stratify=[])
    with pytest.raises(SplitError, match=r"expected people of every class .* for validation"):
        sides(question, question.folds[0], 0.05)

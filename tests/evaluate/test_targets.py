"""What a task asks, and the message where the column cannot answer."""

from __future__ import annotations

import numpy as np
import pytest
from questions import some_people

from neuropipe.config import Task
from neuropipe.errors import ConfigError, InputError
from neuropipe.evaluate.targets import class_labels, read_target


def task(**changes: object) -> Task:
    given = {"target": "diagnosis", "kind": "binary", "positive": "patient", "datasets": ["toy"], "split": "main"}
    return Task(**(given | changes))


def test_the_positive_class_is_one_and_the_unknown_is_nan():
    people = some_people(8)
    people.participants["toy"].iloc[3, people.participants["toy"].columns.get_loc("diagnosis")] = None
    target = read_target("t", task(), people)
    np.testing.assert_array_equal(target.y, [0, 0, 1, np.nan, 0, 0, 1, 1])
    np.testing.assert_array_equal(target.known, np.arange(8) != 3)


def test_numbers_in_a_class_column_are_compared_as_text():
    people = some_people(4)
    people.participants["toy"]["diagnosis"] = [1.0, 2.0, 1.0, np.nan]
    np.testing.assert_array_equal(read_target("t", task(positive="2"), people).y, [0, 1, 0, np.nan])


def test_classes_have_places_in_the_order_of_their_names():
    people = some_people(5)
    people.participants["toy"]["diagnosis"] = [3.0, 1.0, np.nan, 10.0, 1.0]
    target = read_target("t", task(kind="multiclass", positive=None), people)
    assert target.classes == ("1", "10", "3")
    np.testing.assert_array_equal(target.y, [2, 0, np.nan, 1, 0])


def test_a_number_is_read_as_it_is():
    people = some_people(4)
    people.participants["toy"]["age"] = ["20", "31.5", "n/a", "40"]
    np.testing.assert_array_equal(
        read_target("t", task(target="age", kind="regression"), people).y, [20, 31.5, np.nan, 40]
    )


@pytest.mark.parametrize(
    ("values", "changes", "error", "message"),
    [
        (["patient"] * 4, {}, InputError, "tasks.t: .*'diagnosis' of toy needs two classes .*found only 'patient'"),
        ([None] * 4, {}, InputError, "no value at all"),
        (["a", "b", "a", "b"], {}, InputError, "never has the positive value 'patient'; found a, b"),
        (["a", "b", "patient", "b"], {}, ConfigError, r"has 3 values \(a, b, patient\) but the task is binary"),
        ([5, 5, 5, 5], {"kind": "regression"}, InputError, "does not vary"),
        (["five", 5, 5, 5], {"kind": "regression"}, InputError, "Expected numbers.*five"),
        (["a", "a", None, "a"], {"kind": "multiclass"}, InputError, "needs two classes .*found only 'a'"),
        (["a", "b", "a", "b"], {"target": "diagnoses"}, InputError, "Did you mean 'diagnosis'"),
    ],
)
def test_a_column_that_cannot_answer_is_one_clear_error(values, changes, error, message):
    people = some_people(4)
    people.participants["toy"]["diagnosis"] = values
    with pytest.raises(error, match=message):
        read_target("t", task(**({"target": "diagnosis"} | changes)), people)


def test_labels_are_keyed_by_dataset_and_person():
    labels = class_labels("t", task(), some_people(4))
    assert labels.to_dict() == {
        "toy/sub-0000": "control",
        "toy/sub-0001": "control",
        "toy/sub-0002": "patient",
        "toy/sub-0003": "patient",
    }

"""Defects that published evaluations had, each as a test that would fail if it were here."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from questions import diagnosis, recordings, some_people
from sklearn.metrics import confusion_matrix

from neuropipe.config import Roles, Split
from neuropipe.errors import SplitError
from neuropipe.evaluate.features import Features
from neuropipe.evaluate.metrics import METRICS, Scored
from neuropipe.evaluate.protocol import System, answer
from neuropipe.evaluate.question import inner_folds
from neuropipe.splits.make import make_split
from neuropipe.splits.people import gather

PEOPLE = some_people(60)
VALUES = np.random.default_rng(0).standard_normal((60, 30))


@pytest.mark.parametrize("readout", ["ridge", "logistic"])
def test_nothing_is_chosen_by_the_labels_of_test_people(readout):
    question = diagnosis(PEOPLE)
    before = answer(question, System("noise"), readout, lambda _: Features(VALUES))
    test = question.folds[0].test
    question.labels[test] = 1 - question.labels[test]
    question.target.y[test] = 1 - question.target.y[test]
    after = answer(question, System("noise"), readout, lambda _: Features(VALUES))
    pd.testing.assert_series_equal(before.predictions["score"], after.predictions["score"])
    pd.testing.assert_frame_equal(before.choices, after.choices)


def test_labels_and_predictions_are_not_swapped():
    y, score = np.array([1] * 8 + [0] * 2), np.array([0.9] * 4 + [0.1] * 4 + [0.1] * 2)
    (tn, fp), (fn, tp) = confusion_matrix(y, score >= 0.5)
    own = (tp / (tp + fn) + tn / (tn + fp)) / 2
    swapped = (tp / (tp + fp) + tn / (tn + fn)) / 2
    scored = Scored(y[None].astype(float), score[None], None, np.full((1, 10), np.nan))
    found = METRICS["binary"]["balanced_accuracy"].compute(scored, np.ones((1, 10)))
    assert found == pytest.approx(own)
    assert own != swapped


@pytest.mark.parametrize("scheme", ["holdout", "kfold"])
def test_people_are_divided_and_not_their_recordings(scheme):
    table = pd.DataFrame({"site": "A", "diagnosis": ["control", "patient"] * 10}, index=[f"sub-{i}" for i in range(20)])
    owners = [owner for owner in table.index for _ in range(1 + int(owner[4:]) % 4)]
    source = recordings(owners, [np.zeros((5, 2))] * len(owners), table.rename_axis("participant_id"))
    people = gather([source], {"toy": Roles()})
    settings = Split(scheme=scheme, test=0.4) if scheme == "holdout" else Split(scheme=scheme, n_folds=5)
    rows = make_split("main", settings, people)
    assert len(people) == 20
    assert (rows.groupby("fold")["participant_id"].nunique() == 20).all()
    assert not rows.duplicated(["fold", "participant_id"]).any()
    assert set(rows[rows["role"] == "test"].groupby("fold").size()) == ({8} if scheme == "holdout" else {4})


def test_every_draw_is_seeded_and_touches_no_global_state():
    np.random.seed(1)  # noqa: NPY002
    first = diagnosis(PEOPLE, draws=3, validation=0.2)
    np.random.seed(2)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    second = diagnosis(PEOPLE, draws=3, validation=0.2)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    for name in ("train", "validation", "test"):
        assert np.array_equal(getattr(first.folds[0], name), getattr(second.folds[0], name))
    assert np.array_equal(first.labels, second.labels, equal_nan=True)
    train = first.folds[0].train
    assert np.array_equal(inner_folds(PEOPLE, train, 0), inner_folds(PEOPLE, train, 0))


@pytest.mark.parametrize("n", [41, 64, 65])
def test_everyone_on_the_test_side_is_predicted_once(n):
    people = some_people(n)
    question = diagnosis(people, scheme="kfold", test=None, n_folds=3)
    values = np.random.default_rng(0).standard_normal((n, 5))
    found = answer(question, System("noise"), "ridge", lambda _: Features(values)).predictions
    tested = found[found["role"] == "test"]
    assert sorted(tested["participant_id"]) == people.table["participant_id"].tolist()


def listed(tmp_path, rows: list[str]) -> Split:
    path = tmp_path / "list.tsv"
    path.write_text("\n".join(["participant_id\trole", *rows]) + "\n")
    return Split(scheme="predefined", path=str(path))


def cohort() -> object:
    """People one of whose ids begins with another's."""
    ids = ["sub-1", "sub-10", "sub-2", "sub-20"]
    table = pd.DataFrame({"site": "A"}, index=pd.Index(ids, name="participant_id"))
    return gather([recordings(ids, [np.zeros((5, 2))] * 4, table)], {"toy": Roles()})


def test_an_id_is_no_other_that_begins_with_it(tmp_path):
    rows = make_split("main", listed(tmp_path, ["sub-1\ttest", "sub-20\ttrain"]), cohort()).set_index("participant_id")
    assert rows["role"].to_dict() == {"sub-1": "test", "sub-10": "unused", "sub-2": "unused", "sub-20": "train"}


def test_a_mistyped_list_is_an_error_and_not_everyone(tmp_path):
    with pytest.raises(SplitError, match="sub-01"):
        make_split("main", listed(tmp_path, ["sub-01\ttest", "sub-20\ttrain"]), cohort())
    with pytest.raises(SplitError, match="lists nobody"):
        make_split("main", listed(tmp_path, []), cohort())

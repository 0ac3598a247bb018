"""The audit of leaks: pretraining on test people, predictions off the split, labels that know too much."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from questions import diagnosis, recordings, some_people

from neuropipe.config import Roles
from neuropipe.errors import SplitError
from neuropipe.evaluate import leakage
from neuropipe.evaluate.features import Features
from neuropipe.evaluate.protocol import System, answer
from neuropipe.splits.people import gather


def fold(kin: bool = False) -> pd.DataFrame:
    ids = ["sub-1", "sub-10", "sub-2", "sub-3"]
    table = pd.DataFrame({"dataset": "toy", "participant_id": ids, "role": ["train", "test", "test", "train"]})
    return table.assign(
        person=["kin/a", "kin/a", "toy/sub-2", "toy/sub-3"] if kin else "toy/" + table["participant_id"]
    )


def test_test_people_in_pretraining_are_counted_by_whole_ids():
    assert leakage.pretrain_overlap(["toy/sub-1", "toy/sub-3"], fold()) == 0
    assert leakage.pretrain_overlap(["toy/sub-1", "toy/sub-10", "toy/sub-2"], fold()) == 2
    assert leakage.pretrain_overlap(["other/sub-10"], fold()) == 0


def test_kin_of_test_people_count_too():
    assert leakage.pretrain_overlap(["toy/sub-1"], fold(kin=True)) == 1


def test_a_person_seen_through_another_dataset_counts():
    table = labels_of_three()
    sources = [recordings(list(table.index), [np.zeros((5, 2))] * 3, table)]
    beside = {"bold": table.assign(family=["a", "a", None])}
    roles = {"toy": Roles(), "bold": Roles(kin="family"), "slices": Roles()}
    people = gather(sources, roles, {"toy": "bold", "slices": "bold"}, beside)
    table = people.table.assign(role=["train", "test", "test"])
    for seen, n in (("bold/sub-3", 1), ("slices/sub-3", 1), ("slices/sub-1", 1), ("other/sub-3", 0)):
        assert leakage.pretrain_overlap({seen, *people.persons([seen])}, table) == n, seen


def labels_of_three() -> pd.DataFrame:
    ids = pd.Index(["sub-1", "sub-2", "sub-3"], name="participant_id")
    return pd.DataFrame({"site": "A", "sex": "F", "age": 30.0}, index=ids)


def test_overlap_is_refused_unless_asked_for():
    leakage.refuse_overlap(0, "recipe", "0", "train_side")
    leakage.refuse_overlap(3, "recipe", "0", "everyone")
    for mode in ("train_side", "external"):
        with pytest.raises(SplitError, match="recipe, fold 0: pretraining saw 3 test people"):
            leakage.refuse_overlap(3, "recipe", "0", mode)


def answered(leak: bool):
    """Noise features; with `leak` the readout is trained on the test side too."""
    people = some_people(80)
    question = diagnosis(people, draws=60)
    if leak:
        (one,) = question.folds
        everyone = type(one)(0, "0", np.concatenate([one.train, one.test]), one.validation, one.test)
        question.folds[:] = [everyone]
    values = np.random.default_rng(0).standard_normal((80, 60))
    return answer(question, System("noise"), "ridge", lambda _: Features(values))


def test_shuffled_labels_at_chance_pass():
    found = answered(leak=False)
    (check,) = leakage.shuffled_labels(found.predictions, found.nulls)
    assert check["passed"]
    assert check["value"] == pytest.approx(0.5, abs=0.04)


def test_a_readout_that_saw_the_test_people_fails():
    found = answered(leak=True)
    (check,) = leakage.shuffled_labels(found.predictions, found.nulls)
    assert not check["passed"]
    assert check["value"] > 0.7


def test_fewer_than_fifty_shuffles_prove_nothing():
    found = answered(leak=False)
    nulls = found.nulls.assign(**{name: found.nulls[name].map(lambda v: v[:49]) for name in ("y", "prediction")})
    (check,) = leakage.shuffled_labels(found.predictions, nulls)
    assert not check["passed"]


def split_table(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[["repeat", "fold", "dataset", "participant_id", "role"]].astype({"repeat": "int64"})


def test_predictions_follow_the_split():
    predictions = answered(leak=False).predictions
    (check,) = leakage.follows_split(predictions, {"main": split_table(predictions)})
    assert check["passed"]


def test_predictions_of_people_on_another_side_are_refused():
    predictions = answered(leak=False).predictions
    table = split_table(predictions)
    table.loc[3, "role"] = "train"
    with pytest.raises(SplitError, match=f"do not follow the split 'main'.*{table['participant_id'][3]}"):
        leakage.follows_split(predictions, {"main": table})
    with pytest.raises(SplitError, match="do not follow the split"):
        leakage.follows_split(predictions, {"main": table.drop(index=5)})


def test_pretraining_is_listed_for_every_trained_run():
    predictions = answered(leak=False).predictions
    assert leakage.pretraining(predictions) == []
    (check,) = leakage.pretraining(predictions.assign(pretrain_overlap_n=2))
    assert (check["value"], check["passed"]) == (2, False)

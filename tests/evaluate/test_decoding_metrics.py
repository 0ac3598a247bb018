"""Metrics of clips against scikit-learn, their intervals over persons, and their null within persons."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn import metrics as sk

from neuropipe.errors import InputError
from neuropipe.evaluate import tables
from neuropipe.evaluate.label_metrics import confusion
from neuropipe.evaluate.metrics import METRICS, Scored
from neuropipe.evaluate.summary import summarise
from neuropipe.evaluate.testsets import clip_sets

FACTS = {
    "task": "state", "readout": "logistic", "split": "main", "split_scheme": "holdout", "target": "state",
    "target_type": "decoding", "repeat": 0, "fold": "0", "n_train": 10, "n_val": 0, "role": "test", "dataset": "d",
}  # fmt: skip


def rows(person: np.ndarray, y: np.ndarray, yhat: np.ndarray, system: str = "fc", **facts) -> pd.DataFrame:
    """Return predictions of clips."""
    names = np.array(["a", "b", "c", "d", "e"], dtype=object)
    table = pd.DataFrame({"participant_id": [f"sub-{p}" for p in person], "y": y, "yhat": yhat})
    table = table.assign(
        **FACTS | facts, system=system, run_id=f"state_{system}", label=names[y], predicted=names[yhat]
    )
    table = table.assign(person="d/" + table["participant_id"], clip=[f"clip-{i:03d}" for i in range(len(y))])
    return tables.frame(table, tables.DECODING)


def judged(*parts: pd.DataFrame, draws: int = 4000, permutations: int = 200) -> pd.DataFrame:
    """Return the metrics of some runs."""
    nobody = tables.frame([], tables.PREDICTIONS), tables.frame([], tables.NULLS)
    return summarise(*nobody, draws=draws, seed=0, decoded=pd.concat(parts), permutations=permutations)


@pytest.mark.parametrize("lacking", [None, 3, 1])
def test_values_are_those_of_scikit_learn_whatever_the_weights(lacking: int | None) -> None:
    rng = np.random.default_rng(0)
    y, yhat = rng.integers(0, 5, (2, 200))
    yhat = np.where(rng.random(200) < 0.5, y, yhat)
    if lacking is not None:  # true nowhere, though predicted
        y[y == lacking] = 0
    weight = rng.integers(0, 4, (3, 200)).astype(float)
    cells = confusion(y[None], yhat[None], weight)
    for draw in range(3):
        given = {"sample_weight": weight[draw]}
        np.testing.assert_allclose(cells[draw], sk.confusion_matrix(y, yhat, labels=range(5), **given))
        for name, expected in (
            ("accuracy", sk.accuracy_score(y, yhat, **given)),
            ("balanced_accuracy", np.nanmean(sk.recall_score(y, yhat, average=None, zero_division=np.nan, **given))),
            ("macro_f1", sk.f1_score(y, yhat, average="macro", **given)),
        ):
            found = METRICS["decoding"][name].compute(Scored(y[None], yhat[None], None, np.zeros(1)), weight)
            assert found[draw] == pytest.approx(expected, abs=1e-12), name


def test_balanced_accuracy_is_scikit_learns_where_labels_lack() -> None:
    y, yhat = np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 0])
    found = METRICS["decoding"]["balanced_accuracy"].compute(
        Scored(y[None], yhat[None], None, np.zeros(1)), np.ones((1, 5))
    )
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found[0] == pytest.approx(sk.balanced_accuracy_score(y, yhat))


def test_intervals_are_over_persons_not_over_clips() -> None:
    """Ten people of whom each is told wholly or not at all: their number, a binomial, is what varies."""
    person, y = np.repeat(np.arange(10), 20), np.tile(np.arange(4), 50)
    yhat = np.where(person < 6, y, (y + 1) % 4)
    found = judged(rows(person, y, yhat)).set_index("metric").loc["accuracy"]
    assert found["value"] == pytest.approx(0.6)
    expected = binom.ppf([0.025, 0.975], 10, 0.6) / 10
    assert [found["ci_low"], found["ci_high"]] == pytest.approx(expected.tolist())
    assert found["n_test"] == 10 and found["ci_method"] == "bootstrap"


def test_the_null_is_that_of_all_orders_of_a_persons_labels() -> None:
    y, yhat = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 0, 2, 1])
    person = np.repeat([0, 1], 3)
    orders = [np.array(order) for order in permutations(range(3))]
    exact = [np.mean(np.concatenate([a, b]) == yhat) for a in orders for b in orders]
    found = judged(rows(person, y, yhat), permutations=4000).set_index("metric").loc["accuracy"]
    assert found["null_mean"] == pytest.approx(np.mean(exact), abs=0.01)
    assert found["p_perm"] == pytest.approx(np.mean(np.array(exact) >= 4 / 6), abs=0.02)


def test_shuffled_labels_stay_with_their_person() -> None:
    person, y = np.repeat([0, 1], 4), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    (only,) = clip_sets(rows(person, y, y), permutations=50, seed=0)
    assert (only.null.y == y).all()


def test_what_is_compared_with_is_the_mean_pattern_not_connectivity() -> None:
    person, y = np.repeat(np.arange(8), 8), np.tile(np.arange(4), 16)
    good, bad = rows(person, y, y, "mean_pattern"), rows(person, y, (y + (person < 4)) % 4)
    found = judged(good, bad).set_index(["system", "metric"])
    assert found.loc[("fc", "accuracy"), "reference"] == "mean_pattern"
    assert found.loc[("fc", "accuracy"), "delta"] == pytest.approx(-0.5)
    assert pd.isna(found.loc[("mean_pattern", "accuracy"), "reference"])


def test_a_clip_is_scored_once() -> None:
    once = rows(np.array([0, 1]), np.array([0, 1]), np.array([0, 1]))
    with pytest.raises(InputError, match="clip-000 more than once"):
        judged(once, once)

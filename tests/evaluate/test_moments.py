"""Readouts cross-validated inside a training side: planted effects come out at their theoretical size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from questions import some_people
from scipy.stats import norm

from neuropipe.evaluate.features import Features
from neuropipe.evaluate.moments import Asked
from neuropipe.evaluate.question import inner_folds

PEOPLE = some_people(600)
Y = (PEOPLE.column("diagnosis") == "patient").to_numpy(float)
TRAIN = np.arange(0, 600, 2) + np.arange(300) % 2  # every other person, of both sites


def asked(kind: str, y: np.ndarray) -> Asked:
    return Asked("main", "0", "t", kind, "diagnosis", PEOPLE, y, TRAIN, seed=1)


def test_two_normal_classes_are_told_apart_as_their_distance_says():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((600, 3))
    values[:, 0] += 2 * Y
    found = asked("binary", Y).judge(Features(values))
    assert found["value"] == pytest.approx(norm.cdf(2 / 2**0.5), abs=0.04)
    assert found["chance"] == 0.5 and found["metric"] == "auroc" and found["n_people"] == 300


def test_a_number_is_predicted_up_to_its_noise():
    rng = np.random.default_rng(0)
    y = rng.uniform(20, 80, 600)
    values = np.stack([y + 5 * rng.standard_normal(600), rng.standard_normal(600)], axis=1)
    found = asked("regression", y).judge(Features(values))
    assert found["metric"] == "mae"
    assert found["value"] == pytest.approx(5 * (2 / np.pi) ** 0.5, abs=0.5)  # mean |noise|; shrinkage hardly matters
    folds = inner_folds(PEOPLE, TRAIN, 1, ["diagnosis"])
    apart = [np.abs(y[TRAIN[folds == k]] - y[TRAIN[folds != k]].mean()).mean() for k in range(5)]
    assert found["chance"] == pytest.approx(np.mean(apart))


def test_both_classes_are_in_every_fold_even_of_few_people():
    few = replace(asked("binary", Y), train=TRAIN[:24])
    rng = np.random.default_rng(0)
    assert np.isfinite(few.judge(Features(rng.standard_normal((600, 2))))["sd"])
    folds = inner_folds(PEOPLE, few.train, 1, ["diagnosis"])
    assert all(len(set(Y[few.train[folds == k]])) == 2 for k in range(5))


def test_others_play_no_part():
    rng = np.random.default_rng(0)
    values, y = rng.standard_normal((600, 3)) + Y[:, None], Y.copy()
    first = asked("binary", y).judge(Features(values))
    others = np.setdiff1d(np.arange(600), TRAIN)
    values[others], y[others] = 1e6 * rng.standard_normal((300, 3)), np.nan
    assert asked("binary", y).judge(Features(values)) == first

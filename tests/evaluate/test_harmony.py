"""Harmonised features of a question: fitted on the training side, never by the target; and planted leaks are found."""

from __future__ import annotations

import numpy as np
import pytest
from questions import age, diagnosis, some_people

from neuropipe.evaluate import audited
from neuropipe.evaluate.combat import Combat
from neuropipe.evaluate.features import Blocks, Features, Kernel
from neuropipe.evaluate.harmony import Harmony, harmonised_system
from neuropipe.evaluate.protocol import System

PEOPLE = some_people(60)
QUESTION = diagnosis(PEOPLE)
TRAIN = QUESTION.folds[0].train


def sited(n_features: int = 6, seed: int = 0) -> np.ndarray:
    """Features in which everyone of site B lies three higher."""
    values = np.random.default_rng(seed).standard_normal((60, n_features))
    return values + 3.0 * (PEOPLE.table["site"] == "B").to_numpy()[:, None]


def apart(values: np.ndarray) -> float:
    """How far the means of the two sites lie from each other."""
    b = (PEOPLE.table["site"] == "B").to_numpy()
    return float(np.linalg.norm(values[b].mean(0) - values[~b].mean(0)))


def test_sites_bear_the_name_of_their_dataset():
    assert set(Harmony.of(QUESTION, []).sites) == {"toy/A", "toy/B"}


@pytest.mark.parametrize("scaled", [True, False])
def test_features_lose_their_sites(scaled):
    features = Features(sited(), scaled)
    found = Harmony.of(QUESTION, []).on(features, TRAIN)
    assert found.scaled == scaled
    assert apart(found.values) < 0.15 * apart(features.values)


def test_parts_side_by_side_and_inner_products_lose_them_too():
    values = sited(90)
    kernel, harmony = Kernel(values @ values.T, 90), Harmony.of(QUESTION, [])
    for features in (kernel, Blocks((Features(sited(5, 1)), kernel))):
        assert apart(features.coordinates(TRAIN)) > 0.8
        assert apart(harmony.on(features, TRAIN).coordinates(TRAIN)) < 0.35 * apart(features.coordinates(TRAIN))


def test_the_target_is_never_kept():
    assert Harmony.of(QUESTION, ["diagnosis"]).kept is None
    assert Harmony.of(QUESTION, ["diagnosis", "age", "sex"]).kept.n_features == 3
    assert Harmony.of(age(PEOPLE), ["age"]).kept is None


def test_people_of_other_sites_are_counted():
    left_out = diagnosis(PEOPLE, scheme="leave_one_site_out", test=None, stratify=[])
    harmony = Harmony.of(left_out, [])
    assert [harmony.n_unseen(fold) for fold in left_out.folds] == [30, 30]
    assert harmony.n_unseen(QUESTION.folds[0]) == 0


def test_the_system_says_so():
    system = harmonised_system(System("recipe (random weights)", 3, {"pretrain_people": "external"}))
    assert system.name == "recipe (random weights) (ComBat)"
    assert system.facts == {"pretrain_people": "external", "harmonisation": "combat"}


def scaler_on_everyone(features: Features) -> Features:
    return Features((features.values - features.values.mean(0)) / features.values.std(0), scaled=False)


def combat_on_everyone(features: Features) -> Features:
    sites = Harmony.of(QUESTION, []).sites
    return Features(Combat.fit(features.values, sites).apply(features.values, sites), features.scaled)


def filled_by_everyone(features: Features) -> Features:
    mean = np.nanmean(features.values, axis=0)
    return Features(np.where(np.isnan(features.values), mean, features.values), features.scaled)


@pytest.mark.parametrize("leak", [scaler_on_everyone, combat_on_everyone, filled_by_everyone])
def test_a_transform_that_was_fitted_on_everyone_is_found(leak):
    values = sited()
    values[TRAIN[0], 0] = np.nan
    features = Features(values if leak is filled_by_everyone else sited())
    check = audited.checked(features, TRAIN, leak, "run")
    assert not check["passed"], check["value"]


def test_transforms_of_the_protocol_pass():
    values = sited(100).astype(np.float32)
    values[TRAIN[0], 0] = np.nan
    kernel = Kernel(np.nan_to_num(values) @ np.nan_to_num(values).T.astype(float), 100)
    harmony = Harmony.of(QUESTION, ["age", "sex"])
    for features in (Features(values), Features(values, scaled=False), kernel, Blocks((Features(values), kernel))):
        for one in (None, harmony):
            (check,) = audited.transforms(QUESTION, "system", "run", lambda _, f=features: f, one)
            assert check["passed"], (features, one, check["value"])

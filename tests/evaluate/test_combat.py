"""ComBat against neuroCombat's numbers, and what must hold of people whom it was not fitted on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neuropipe.evaluate.combat import Combat

# Made-up values of three sites, and what neuroCombat 0.2.12 makes of them, without and with covariates.
GOLDEN = json.loads((Path(__file__).parent / "neurocombat.json").read_text())
SITES, VALUES = np.array(GOLDEN["site"]), np.array(GOLDEN["values"])


def cohort(n: int = 90, n_features: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values of three sites that differ in location and scale, and the sites."""
    rng = np.random.default_rng(seed)
    sites = np.array(list("ABC"))[np.arange(n) % 3]
    values = rng.standard_normal((n, n_features))
    values[sites == "A"] = values[sites == "A"] * 2 + rng.normal(1, 0.5, n_features)
    return values, sites


@pytest.mark.parametrize("kept", [False, True])
def test_neurocombat_says_the_same(kept):
    covariates = np.stack([GOLDEN["age"], GOLDEN["sex"]], axis=1) if kept else None
    fitted = Combat.fit(VALUES, SITES, covariates)
    expected = np.array(GOLDEN["kept" if kept else "plain"])
    assert fitted.apply(VALUES, SITES, covariates) == pytest.approx(expected, abs=5e-5)
    assert np.abs(expected - VALUES).max() > 2  # there was something to take away


def test_collinear_covariates_change_nothing():
    sex = np.array(GOLDEN["sex"])
    once, twice = (np.stack(columns, axis=1) for columns in ([sex], [sex, 1 - sex]))
    first = Combat.fit(VALUES, SITES, once).apply(VALUES, SITES, once)
    assert Combat.fit(VALUES, SITES, twice).apply(VALUES, SITES, twice) == pytest.approx(first)


def test_location_and_scale_of_new_people_of_known_sites_are_brought_together():
    values, sites = cohort(600)
    fitted = Combat.fit(values[:300], sites[:300])
    new = fitted.apply(values[300:], sites[300:])
    own = sites[300:] == "A"
    assert np.abs(values[300:][own].mean(0) - values[300:][~own].mean(0)).mean() > 0.8
    assert np.abs(new[own].mean(0) - new[~own].mean(0)).mean() < 0.3
    assert new[own].std() / new[~own].std() == pytest.approx(1, abs=0.1)


def test_people_of_sites_that_were_not_seen_keep_their_values():
    values, sites = cohort()
    fitted = Combat.fit(values, sites)
    for unknown in ("D", ""):
        assert np.array_equal(fitted.apply(values[:5], np.full(5, unknown)), values[:5])


def test_a_site_with_one_person_tells_nothing():
    values, sites = cohort()
    sites = sites.astype(object)
    sites[0] = "alone"
    fitted = Combat.fit(values, sites)
    assert fitted.sites == ("A", "B", "C")
    assert np.array_equal(fitted.apply(values, sites)[0], values[0])


def test_a_single_site_leaves_everything():
    values, _ = cohort()
    one = np.full(len(values), "A")
    assert np.array_equal(Combat.fit(values, one).apply(values, one), values)


def test_missing_values_stay_missing_and_move_no_one_else():
    values, sites = cohort()
    holes = values.copy()
    holes[3, :5] = np.nan
    found = Combat.fit(holes, sites).apply(holes, sites)
    assert np.array_equal(np.isnan(found), np.isnan(holes))
    close = Combat.fit(values, sites).apply(values, sites)
    assert found[np.isfinite(found)] == pytest.approx(close[np.isfinite(holes)], abs=0.2)


def test_a_feature_that_does_not_vary_stays():
    values, sites = cohort()
    values[:, 7] = 3
    found = Combat.fit(values, sites).apply(values, sites)
    assert np.array_equal(found[:, 7], values[:, 7])
    assert np.isfinite(found).all()

"""Features: connectivity against numpy, coordinates against the features they stand for, confounds by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from questions import recordings, some_people
from sklearn.linear_model import Ridge

from neuropipe.config import Roles
from neuropipe.errors import AtlasError, InputError
from neuropipe.evaluate.features import Features, confound_design, confound_names, connectivity, fisher_z
from neuropipe.signals.regions import Regions
from neuropipe.splits.people import gather

RNG = np.random.default_rng(0)


def correlated(n_times: int = 80, n_regions: int = 6) -> np.ndarray:
    return RNG.standard_normal((n_times, n_regions)) @ RNG.standard_normal((n_regions, n_regions)) + 3


def test_connectivity_is_fishers_z_of_numpys_correlations():
    series = correlated()
    expected = np.arctanh(np.corrcoef(series.T)[np.triu_indices(6, 1)])
    np.testing.assert_allclose(fisher_z(series), expected, rtol=1e-10)
    np.testing.assert_allclose(fisher_z(series.astype(np.float16)), expected, atol=0.01)


def test_missing_and_constant_regions_are_unknown_and_perfect_correlation_is_finite():
    series = correlated()
    series[:, 2] = 5
    series[:, 4] = series[:, 3]
    valid = np.array([True, True, True, True, True, False])
    z = np.full((6, 6), 0.0)
    z[np.triu_indices(6, 1)] = fisher_z(series, valid)
    assert np.isnan(z[np.triu_indices(6, 1)]).sum() == 5 + 4
    assert np.isnan(z[0, 2])
    assert np.isnan(z[0, 5])
    assert 5 < z[3, 4] < 10


def people_of(source):
    return gather([source], {"toy": Roles()})


def labels(n: int) -> pd.DataFrame:
    ids = pd.Index([f"sub-{i:04d}" for i in range(n)], name="participant_id")
    return pd.DataFrame({"site": "A", "sex": "F", "age": 30.0}, index=ids)


def test_recordings_of_one_person_are_averaged_in_z_where_they_are_known():
    first, second, other = correlated(), correlated(50), correlated()
    source = recordings(["sub-0000", "sub-0001", "sub-0000"], [first, other, second], labels(2))
    source.valid[2, 0] = False
    found = connectivity(people_of(source), [source]).values
    z1, z2 = fisher_z(first), fisher_z(second)
    without = np.triu_indices(6, 1)[0] == 0
    np.testing.assert_allclose(found[0], np.where(without, z1, (z1 + z2) / 2), rtol=1e-6)
    np.testing.assert_allclose(found[1], fisher_z(other), rtol=1e-6)


def test_censored_samples_do_not_count():
    series = correlated()
    spoiled = series.copy()
    spoiled[[3, 7]] = 100
    source = recordings(["sub-0000"], [spoiled], labels(1))
    source.manifest.at[0, "censored"] = [3, 7]
    found = connectivity(people_of(source), [source]).values[0]
    np.testing.assert_allclose(found, fisher_z(np.delete(series, [3, 7], axis=0)), rtol=1e-6)


def test_datasets_of_other_regions_are_refused():
    source = recordings(["sub-0000"], [correlated()], labels(1))
    other = recordings(["sub-0000"], [correlated()], labels(1))
    other.dataset, other.regions = "other", Regions.plain("another", 6)
    people = gather([source, other], {"toy": Roles(), "other": Roles()})
    with pytest.raises(AtlasError, match="Connectivity of other"):
        connectivity(people, [source, other])


def with_holes(n: int, p: int) -> np.ndarray:
    values = RNG.standard_normal((n, p)) + RNG.standard_normal(p)
    values[RNG.random((n, p)) < 0.1] = np.nan
    values[: n // 2] = np.where(np.isnan(values[: n // 2]), 0.5, values[: n // 2])
    return values


@pytest.mark.parametrize(("n", "p"), [(30, 200), (60, 10)])
@pytest.mark.parametrize("scaled", [True, False])
def test_ridge_on_coordinates_is_ridge_on_filled_centred_features(n, p, scaled):
    values = with_holes(n, p)
    train, test = np.arange(0, n, 2), np.arange(1, n, 2)
    y = RNG.standard_normal(n)
    mean = np.nanmean(values[train], axis=0)
    filled = np.where(np.isnan(values), mean, values) - mean
    if scaled:
        filled /= filled[train].std(axis=0)
    filled /= np.sqrt((filled[train] ** 2).sum(axis=1).mean())
    coordinates = Features(values, scaled).coordinates(train)
    for strength in (0.1, 1.0, 10.0):
        expected = Ridge(alpha=strength).fit(filled[train], y[train]).predict(filled[test])
        found = Ridge(alpha=strength).fit(coordinates[train], y[train]).predict(coordinates[test])
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("p", "scaled"), [(200, False), (200, True), (10, True)])
def test_nothing_is_fitted_on_test_people(p, scaled):
    values = with_holes(40, p)
    train = np.arange(25)
    changed = values.copy()
    changed[30:] = RNG.standard_normal((10, p)) + 2
    before, after = (Features(v, scaled).coordinates(train) for v in (values, changed))
    np.testing.assert_allclose(before[:30], after[:30], atol=1e-6)
    assert np.abs(before[30:] - after[30:]).max() > 0.1


def test_a_feature_without_spread_in_training_has_no_weight():
    values = RNG.standard_normal((20, 3))
    values[:10, 1] = 7.0
    values[:10, 2] = np.nan
    coordinates = Features(values).coordinates(np.arange(10))
    assert (coordinates[:, 1] == 0).all()
    assert np.isfinite(coordinates).all()


def test_the_design_of_confounds_by_hand():
    people = some_people(6)
    table = people.participants["toy"]
    table["age"] = [20.0, np.nan, 40, 50, 60, 70]
    table["sex"] = ["F", "M", "F", "F", None, "M"]
    design = confound_design(people, ["age", "sex", "site", "mean_fd", "duration_s"]).values
    assert design.shape == (6, 1 + 2 + 2 + 1 + 1)
    np.testing.assert_array_equal(design[:, 0], table["age"])
    np.testing.assert_array_equal(design[:, 1], table["sex"] == "F")
    np.testing.assert_array_equal(design[:, 3], [1, 0, 1, 0, 1, 0])
    np.testing.assert_allclose(design[:, 5], np.linspace(0.1, 0.4, 6))
    np.testing.assert_array_equal(design[:, 6], 10.0)


def test_the_target_is_no_confound_of_itself_under_any_name():
    people = some_people(4)
    assert confound_names(["age", "sex", "mean_fd"], "age", people) == ["sex", "mean_fd", "duration_s"]
    renamed = gather(
        [recordings(["sub-0000"], [correlated()], labels(1).rename(columns={"age": "years"}))],
        {"toy": Roles(age="years")},
    )
    assert confound_names(["age", "sex"], "years", renamed) == ["sex", "duration_s"]
    assert confound_names(["years", "sex"], "age", renamed) == ["sex", "duration_s"]


def test_motion_comes_from_the_participants_where_the_recordings_do_not_say():
    people = some_people(4)
    people.recordings["mean_fd"] = np.nan
    people.participants["toy"]["mean_fd"] = [0.4, 0.3, 0.2, 0.1]
    np.testing.assert_allclose(confound_design(people, ["mean_fd"]).values[:, 0], [0.4, 0.3, 0.2, 0.1])
    with pytest.raises(InputError, match="No participants column 'handedness'"):
        confound_design(people, ["handedness"])

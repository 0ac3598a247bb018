"""Partial correlations and tangent space against nilearn, and what becomes of regions that a person lacks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from questions import recordings
from sklearn.covariance import LedoitWolf

from neuropipe.config import Roles
from neuropipe.errors import InputError
from neuropipe.evaluate import connectome
from neuropipe.splits.people import gather

N, REGIONS = 14, 7
TRAIN = np.arange(9)
UPPER = np.triu_indices(REGIONS, 1)


def some_series(n: int = N, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    mixing = np.eye(REGIONS) + 0.4 * rng.standard_normal((REGIONS, REGIONS))
    return [
        rng.standard_normal((60 + 5 * i, REGIONS)) @ (mixing + 0.1 * rng.standard_normal(mixing.shape))
        for i in range(n)
    ]


def made(series: list[np.ndarray], owners: list[int] | None = None):
    """The people and the source of some series."""
    ids = [f"sub-{i:04d}" for i in (range(len(series)) if owners is None else owners)]
    people = pd.DataFrame(
        {"site": "A", "sex": "F", "age": 30.0}, index=pd.Index(sorted(set(ids)), name="participant_id")
    )
    source = recordings(ids, series, people)
    return gather([source], {"toy": Roles()}), [source]


def nilearn_measure(kind: str):
    connectome_of = pytest.importorskip("nilearn.connectome").ConnectivityMeasure
    return connectome_of(cov_estimator=LedoitWolf(store_precision=False), kind=kind, standardize=False)


def standardised(series: np.ndarray) -> np.ndarray:
    return (series - series.mean(axis=0)) / series.std(axis=0)


def test_partial_correlations_are_nilearns():
    series = some_series()
    expected = nilearn_measure("partial correlation").fit_transform([standardised(one) for one in series])
    found = connectome.partial_connectivity(*made(series)).values
    np.testing.assert_allclose(found, np.arctanh(expected[:, *UPPER]), atol=1e-6)


def test_tangent_vectors_are_nilearns_with_the_reference_of_the_training_side():
    series = some_series()
    measure = nilearn_measure("tangent").fit([standardised(series[i]) for i in TRAIN])
    matrices = measure.transform([standardised(one) for one in series]).reshape(N, -1)
    expected = (matrices - matrices[TRAIN].mean(axis=0)) @ (matrices - matrices[TRAIN].mean(axis=0)).T
    kernel = connectome.tangent_connectivity(*made(series))(TRAIN)
    np.testing.assert_allclose(kernel.gram, expected, atol=1e-5)
    assert kernel.n_features == REGIONS * (REGIONS + 1) // 2


def test_the_geometric_mean_of_matrices_that_commute_is_that_of_their_eigenvalues():
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    values = rng.uniform(0.1, 10, (100, 5))
    matrices = (basis * values[:, None, :]) @ basis.T
    expected = (basis * np.exp(np.log(values).mean(axis=0))) @ basis.T
    np.testing.assert_allclose(connectome.geometric_mean(matrices), expected, atol=1e-6)


def test_nothing_of_test_people_moves_those_in_training():
    series = some_series()
    changed = [*series[:9], *some_series(N - 9, seed=5)]
    before, after = (connectome.tangent_connectivity(*made(s))(TRAIN).gram for s in (series, changed))
    np.testing.assert_allclose(before[:9, :9], after[:9, :9], atol=1e-10)
    assert np.abs(before[9:, 9:] - after[9:, 9:]).max() > 0.1


def test_a_missing_region_is_unknown_in_partial_correlations_and_held_fixed_for_nobody_else():
    series = some_series()
    people, sources = made(series)
    sources[0].valid[3, 2] = False
    found = np.zeros((REGIONS, REGIONS))
    found[UPPER] = connectome.partial_connectivity(people, sources).values[3]
    assert (np.isnan(found[UPPER]) == ((UPPER[0] == 2) | (UPPER[1] == 2))).all()
    without = np.delete(np.arange(REGIONS), 2)
    rest = nilearn_measure("partial correlation").fit_transform([standardised(series[3][:, without])])[0]
    upper = np.triu_indices(REGIONS - 1, 1)
    np.testing.assert_allclose(found[np.ix_(without, without)][upper], np.arctanh(rest[upper]), atol=1e-6)


def test_a_missing_region_is_completed_as_the_mean_says():
    people, sources = made(some_series())
    whole = connectome.Covariances.of(people, sources)
    mean = whole.values[TRAIN].mean(axis=0)
    values = whole.values.copy()
    values[12] = mean  # a person like the mean: what is missing is then known exactly
    values[12][2], values[12][:, 2] = 0, 0
    present = whole.present.copy()
    present[12, 2] = False
    completed = connectome.Covariances(values, present).completed(TRAIN)
    np.testing.assert_allclose(completed[12], mean, atol=1e-10)
    present[11, :5] = False
    assert np.linalg.eigvalsh(connectome.Covariances(values, present).completed(TRAIN)).min() > 0
    present[10] = False
    np.testing.assert_allclose(connectome.Covariances(values, present).completed(TRAIN)[10], mean)


def test_recordings_of_a_person_are_averaged():
    series = some_series(3)
    both = connectome.Covariances.of(*made(series, [0, 0, 1])).values
    np.testing.assert_allclose(both[0], (connectome.covariance(series[0]) + connectome.covariance(series[1])) / 2)


def test_without_a_whole_training_person_there_is_no_tangent_space():
    people, sources = made(some_series())
    sources[0].valid[:, 0] = False
    with pytest.raises(InputError, match="a training person with every region"):
        connectome.tangent_connectivity(people, sources)(TRAIN)

"""Regional series differ between people in coupling alone: not in mean, variance or spectrum."""

import numpy as np
import pytest
from scipy import signal, stats

from neuropipe.demo.coupling import (
    AGE_PAIRS,
    AGE_RANGE,
    DIAGNOSIS_PAIRS,
    NETWORKS,
    Effects,
    draw_couplings,
    network_ids,
    pattern,
)
from neuropipe.demo.signals import BAND_HZ, LOADING, band_limited, regional_series

PAIRS = np.triu_indices(len(NETWORKS), 1)
N_PEOPLE, N_SAMPLES, T_R = 500, 195, 2.0


@pytest.fixture(scope="module")
def crowd():
    """Statistics of 500 people, one number per person each: what may differ and what may not."""
    rng = np.random.default_rng(2)
    patient, age = np.arange(N_PEOPLE) % 2 == 0, rng.uniform(*AGE_RANGE, N_PEOPLE)
    couplings = draw_couplings(patient, age, rng)
    ids = network_ids()
    member = np.eye(len(NETWORKS))[ids] / np.bincount(ids)
    found = {"patient": patient, "age": age, "mean": [], "variance": [], "centroid": [], "coupling": []}
    for person in range(N_PEOPLE):
        series = regional_series(couplings[[person]], ids, n_samples=N_SAMPLES, t_r=T_R, rng=rng)[0]
        frequencies, power = signal.periodogram(series, 1 / T_R, axis=0)
        found["mean"].append(series.mean())
        found["variance"].append(series.var(0).mean())
        found["centroid"].append((frequencies[:, None] * power).sum() / power.sum())
        found["coupling"].append((member.T @ np.corrcoef(series, rowvar=False) @ member)[PAIRS])
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("statistic", ["mean", "variance", "centroid"])
def test_groups_and_ages_are_equal_in_mean_variance_and_spectrum(crowd, statistic):
    values, patient = crowd[statistic], crowd["patient"]
    assert stats.ttest_ind(values[patient], values[~patient]).pvalue > 0.001
    assert stats.pearsonr(values, crowd["age"]).pvalue > 0.001
    # The same test sees 5 % of variance, or half a standard deviation of the mean or the spectrum.
    shifted = values + patient * (0.05 * values.mean() if statistic == "variance" else 0.5 * values.std())
    assert stats.ttest_ind(shifted[patient], shifted[~patient]).pvalue < 0.001


def test_connectivity_differs_between_the_named_pairs_and_no_others(crowd):
    coupling, patient = crowd["coupling"], crowd["patient"]
    t = stats.ttest_ind(coupling[patient], coupling[~patient]).statistic
    named = pattern(DIAGNOSIS_PAIRS)[PAIRS]
    assert (t[named != 0] * named[named != 0]).min() > 8
    assert np.abs(t[named == 0]).max() < stats.norm.isf(0.0005 / 33)  # 33 pairs, Bonferroni
    difference = coupling[patient].mean(0) - coupling[~patient].mean(0)
    expected = LOADING**2 * Effects().diagnosis_step * named
    assert difference[named != 0] == pytest.approx(expected[named != 0], abs=0.06)


def test_connectivity_follows_age_between_the_named_pairs_and_no_others(crowd):
    r = np.array([stats.pearsonr(column, crowd["age"]).statistic for column in crowd["coupling"].T])
    named = pattern(AGE_PAIRS)[PAIRS]
    assert (r[named != 0] * named[named != 0]).min() > 0.5
    assert np.abs(np.arctanh(r[named == 0])).max() * (N_PEOPLE - 3) ** 0.5 < stats.norm.isf(0.0005 / 33)


def test_connectivity_within_a_network_is_the_squared_loading():
    rng = np.random.default_rng(4)
    ids = network_ids()
    couplings = np.repeat(np.eye(len(NETWORKS))[None], 20, 0)
    series = regional_series(couplings, ids, n_samples=400, t_r=2.0, rng=rng)
    within = [np.corrcoef(person[:, ids == 6], rowvar=False)[np.triu_indices(91, 1)].mean() for person in series]
    assert np.mean(within) == pytest.approx(LOADING**2, abs=4 * np.std(within) / 20**0.5)


@pytest.mark.parametrize("t_r", [0.8, 1.5, 2.0, 2.5])
def test_the_spectrum_is_flat_in_the_band_and_empty_outside_whatever_the_repetition_time(t_r):
    signals = band_limited(int(400 / t_r), 3000, t_r, np.random.default_rng(1))
    assert signals.var() == pytest.approx(1.0, abs=0.02)
    frequencies, power = signal.welch(signals, 1 / t_r, nperseg=int(200 / t_r), axis=0)
    power = power.mean(1)
    inside = (frequencies > BAND_HZ[0] + 0.01) & (frequencies < BAND_HZ[1] - 0.01)
    outside = frequencies > BAND_HZ[1] + 0.015
    assert power[inside] == pytest.approx(1 / (BAND_HZ[1] - BAND_HZ[0]), rel=0.1)  # one-sided density of variance 1
    assert power[outside].max() < 1e-3 * power[inside].mean()


def test_series_are_cut_from_a_longer_period_so_the_ends_do_not_join():
    signals = band_limited(200, 4000, 2.0, np.random.default_rng(6))
    ends = np.corrcoef(signals[0], signals[-1])[0, 1]
    neighbours = np.corrcoef(signals[0], signals[1])[0, 1]
    assert abs(ends) < 0.15
    assert neighbours > 0.7

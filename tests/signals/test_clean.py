"""Cleaning against closed forms, scipy, nilearn and an explicit least squares with every regressor written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nilearn.signal import clean as nilearn_clean
from scipy.signal import periodogram

from neuropipe.config import Clean
from neuropipe.errors import RunExcluded
from neuropipe.signals.clean import Cleaned, clean

BAND = {"high_pass": 0.01, "low_pass": 0.1}


def cleaned(
    series: np.ndarray,
    t_r: float = 2.0,
    regressors: np.ndarray | None = None,
    censored: np.ndarray | None = None,
    target: float | None = None,
    min_degrees_of_freedom: float = 0,
    **settings: Any,
) -> Cleaned:
    """Clean with the default band, the run's own sampling and no standardising, unless `settings` say otherwise."""
    return clean(
        series,
        t_r,
        np.empty((len(series), 0)) if regressors is None else regressors,
        np.zeros(len(series), dtype=bool) if censored is None else censored,
        Clean(**BAND | {"t_r": target, "standardize": "none"} | settings),
        min_degrees_of_freedom,
    )


def stop_band(n_volumes: int, t_r: float, high_pass: float, low_pass: float) -> np.ndarray:
    """Constant, and every cosine cos(pi k (t + 1/2) / T) with k / (2 T t_r) outside the band, one by one."""
    columns = [np.ones(n_volumes)]
    for k in range(1, n_volumes):
        if not high_pass <= k / (2 * n_volumes * t_r) <= low_pass:
            columns.append(np.cos(np.pi * k * (np.arange(n_volumes) + 0.5) / n_volumes))
    return np.stack(columns, axis=1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_equals_one_least_squares_with_everything_in_it(rng: np.random.Generator) -> None:
    """Stop-band, confounds and a spike per censored volume in one design matrix, solved by numpy."""
    n_volumes = 210
    series = 100 + rng.normal(size=(n_volumes, 6)).cumsum(axis=0)
    confounds = rng.normal(size=(n_volumes, 9)).cumsum(axis=0)
    censored = np.zeros(n_volumes, dtype=bool)
    censored[[0, 30, 31, 100, 209]] = True
    found = cleaned(series, 2.0, confounds, censored)
    design = np.hstack([stop_band(n_volumes, 2.0, **BAND), confounds, np.eye(n_volumes)[:, censored]])
    expected = series - design @ np.linalg.lstsq(design, series, rcond=None)[0]
    np.testing.assert_allclose(found.residual, expected, atol=1e-9 * np.abs(series).max())
    assert found.freedom.left == n_volumes - np.linalg.matrix_rank(design)


def test_equals_the_fit_on_kept_volumes_only(rng: np.random.Generator) -> None:
    """What censored volumes hold does not matter, and is never asked."""
    n_volumes = 180
    series, confounds = rng.normal(size=(n_volumes, 3)), rng.normal(size=(n_volumes, 4))
    censored = np.zeros(n_volumes, dtype=bool)
    censored[[5, 6, 77]] = True
    design = np.hstack([stop_band(n_volumes, 2.0, **BAND), confounds])[~censored]
    expected = series[~censored] - design @ np.linalg.lstsq(design, series[~censored], rcond=None)[0]
    found = cleaned(series, 2.0, confounds, censored)
    np.testing.assert_allclose(found.residual[~censored], expected, atol=1e-10)
    series[censored] = 1e6
    np.testing.assert_allclose(cleaned(series, 2.0, confounds, censored).residual, found.residual, atol=1e-6)
    series[censored] = np.nan
    np.testing.assert_array_equal(cleaned(series, 2.0, confounds, censored).residual.shape, found.residual.shape)
    np.testing.assert_allclose(cleaned(series, 2.0, confounds, censored).residual, found.residual, atol=1e-9)


def test_filtering_brings_no_regressed_noise_back(rng: np.random.Generator) -> None:
    """Lindquist et al. 2019: a filter after the regression brings the confound back, one projection does not."""
    n_volumes = 300
    motion = np.zeros((n_volumes, 1))
    motion[150:] = 1.0  # a step has power in every band
    series = 5 * motion + rng.normal(size=(n_volumes, 1))
    one_projection = cleaned(series, 2.0, motion).residual[:, 0]
    design = np.hstack([np.ones((n_volumes, 1)), motion])
    regressed = series - design @ np.linalg.lstsq(design, series, rcond=None)[0]
    two_steps = cleaned(regressed, 2.0).residual[:, 0]
    step = motion[:, 0] - motion.mean()
    assert abs(np.corrcoef(one_projection, step)[0, 1]) < 1e-9
    assert abs(np.corrcoef(two_steps, cleaned(motion, 2.0).residual[:, 0])[0, 1]) > 0.02
    outside = stop_band(n_volumes, 2.0, **BAND)
    assert np.abs(outside.T @ one_projection).max() < 1e-7 * np.linalg.norm(series)


def test_power_outside_the_band_is_gone_and_inside_is_kept(rng: np.random.Generator) -> None:
    n_volumes, t_r = 600, 1.0
    series = rng.normal(size=(n_volumes, 40))
    frequency, before = periodogram(series, fs=1 / t_r, axis=0)
    _, after = periodogram(cleaned(series, t_r).residual, fs=1 / t_r, axis=0)
    ratio = after.mean(axis=1) / before.mean(axis=1)
    assert ratio[(frequency > 0.02) & (frequency < 0.09)].mean() == pytest.approx(1, abs=0.03)
    assert ratio[(frequency > 0.12) | ((frequency > 0) & (frequency < 0.005))].max() < 0.02


def test_close_to_butterworth_away_from_the_ends(rng: np.random.Generator) -> None:
    """Another filter of the same band: the same signal up to the filters' different flanks."""
    series = rng.normal(size=(400, 5))
    ours = cleaned(series, 2.0).residual
    theirs = nilearn_clean(
        series, t_r=2.0, low_pass=0.1, high_pass=0.01, detrend=True, standardize=None, butterworth__order=5
    )
    for n in range(5):
        assert np.corrcoef(ours[30:-30, n], theirs[30:-30, n])[0, 1] > 0.97


def test_regression_alone_equals_nilearn(rng: np.random.Generator) -> None:
    """Without a filter nothing but constant, trend and confounds is regressed."""
    series, confounds = rng.normal(size=(120, 7)), rng.normal(size=(120, 6))
    found = cleaned(series, 2.0, confounds, high_pass=None, low_pass=None)
    # nilearn takes the trend out of the confounds first, which spans the same space.
    expected = nilearn_clean(series, confounds=confounds, detrend=True, standardize=None, t_r=2.0)
    np.testing.assert_allclose(found.residual, expected, atol=1e-8)
    assert found.freedom.left == 120 - 1 - 1 - 6


def test_zscore_has_mean_zero_and_variance_one_over_kept_samples(rng: np.random.Generator) -> None:
    censored = np.zeros(200, dtype=bool)
    censored[[20, 21, 90]] = True
    found = cleaned(rng.normal(size=(200, 4)), 2.0, censored=censored, standardize="zscore")
    kept = found.series[~found.censored]
    np.testing.assert_allclose(kept.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(kept.std(axis=0), 1, atol=1e-12)
    np.testing.assert_array_equal(found.censored, censored)


@pytest.mark.parametrize(("t_r", "n_volumes"), [(0.72, 1200), (1.5, 196), (2.0, 200), (3.0, 150)])
def test_resampling_is_exact_for_what_the_band_holds(t_r: float, n_volumes: int) -> None:
    """A cosine of the band, known in closed form at any time, arrives at the new times as it is."""
    k = 2 * round(0.05 * n_volumes * t_r) + 1
    frequency = k / (2 * n_volumes * t_r)

    def signal(seconds: np.ndarray) -> np.ndarray:
        return np.cos(2 * np.pi * frequency * (seconds + t_r / 2))[:, None]

    found = cleaned(signal(np.arange(n_volumes) * t_r), t_r, target=2.0)
    assert len(found.series) == int((n_volumes - 1) * t_r / 2.0 + 1e-9) + 1
    times = np.arange(len(found.series)) * 2.0
    np.testing.assert_allclose(found.series, signal(times), atol=1e-9)


def test_resampling_does_not_alias(rng: np.random.Generator) -> None:
    """0.72 s to 2 s without a low-pass: 0.4 Hz would come back at 0.1 Hz; the band ends at the new Nyquist instead."""
    times = np.arange(1000) * 0.72
    fast = np.sin(2 * np.pi * 0.4 * times)[:, None]
    slow = np.sin(2 * np.pi * 0.05 * times)[:, None]
    found = cleaned(slow + fast, 0.72, low_pass=None, target=2.0)
    new_times = np.arange(len(found.series)) * 2.0
    assert np.corrcoef(found.series[:, 0], np.sin(2 * np.pi * 0.05 * new_times))[0, 1] > 0.99
    assert found.pass_band[1] <= 0.25


def test_samples_near_censored_volumes_are_marked() -> None:
    censored = np.zeros(500, dtype=bool)
    censored[250] = True
    series = np.random.default_rng(0).normal(size=(500, 1))
    found = cleaned(series, 0.8, censored=censored, target=2.0)  # volume 250 is at 200 s
    assert np.flatnonzero(found.censored).tolist() == [100]
    found = cleaned(series, 2.0, censored=censored, target=1.0)
    assert np.flatnonzero(found.censored).tolist() == [499, 500, 501]


def test_regions_without_variance_are_missing_in_their_place(rng: np.random.Generator) -> None:
    series = 1000 + rng.normal(size=(200, 5))
    series[:, 1] = 1000
    series[:, 2] = np.nan
    series[7, 3] = np.nan
    confounds = rng.normal(size=(200, 2))
    series[:, 4] = 1000 + 3 * confounds[:, 0]  # nothing is left of it
    found = cleaned(series, 2.0, confounds, standardize="zscore")
    assert np.isnan(found.series).all(axis=0).tolist() == [False, True, True, True, True]
    assert np.isnan(found.variance_retained).tolist() == [False, True, True, True, True]


def test_collinear_and_constant_regressors_cost_nothing(rng: np.random.Generator) -> None:
    series, confounds = rng.normal(size=(200, 3)), rng.normal(size=(200, 2))
    doubled = np.hstack([confounds, confounds * 1e6, np.full((200, 1), 3.0), np.zeros((200, 1))])
    once, twice = cleaned(series, 2.0, confounds), cleaned(series, 2.0, doubled)
    assert once.freedom.left == twice.freedom.left
    np.testing.assert_allclose(once.residual, twice.residual, atol=1e-9)


def test_over_fitted_runs_are_refused_with_the_numbers(rng: np.random.Generator) -> None:
    """300 volumes with 300 confounds: nilearn returns series of unit variance without a word."""
    series, confounds = rng.normal(size=(300, 4)), rng.normal(size=(300, 300))
    with pytest.raises(
        RunExcluded,
        match=r"expected at least 1, found 300 volumes - 0 censored - 109 confounds \(of 300.* - 191 stop-band = 0;",
    ):
        cleaned(series, 2.0, confounds)
    with pytest.raises(
        RunExcluded, match="expected at least 90, found 300 volumes - 0 censored - 20 confounds - 191 stop-band = 89;"
    ):  # 109 cosines - 20
        cleaned(series, 2.0, confounds[:, :20], min_degrees_of_freedom=90)
    assert cleaned(series, 2.0, confounds[:, :20], min_degrees_of_freedom=89).freedom.left == 89


def test_variance_retained(rng: np.random.Generator) -> None:
    """20 random regressors in a band of 109 take 21/109 of white noise's variance on average."""
    found = cleaned(rng.normal(size=(300, 400)), 2.0, rng.normal(size=(300, 20)))
    assert found.variance_retained.mean() == pytest.approx(88 / 109, abs=0.02)


@pytest.mark.parametrize(
    ("n_volumes", "t_r", "target", "reason"),
    [(49, 2.0, 2.0, "too few volumes"), (150, 4.1, 2.0, "up-sampling")],
)
def test_runs_that_cannot_be_filtered(n_volumes: int, t_r: float, target: float, reason: str) -> None:
    with pytest.raises(RunExcluded, match=reason):
        cleaned(np.random.default_rng(0).normal(size=(n_volumes, 2)), t_r, target=target)


def test_slow_runs_end_at_their_own_nyquist(rng: np.random.Generator) -> None:
    """4 s carry up to 0.125 Hz; a low-pass beyond that is no filter, and the band says so."""
    found = cleaned(rng.normal(size=(150, 2)), 4.0, low_pass=0.2, target=2.0)
    assert found.pass_band[1] <= 0.125 and len(found.series) == 299


@pytest.mark.parametrize("bad", [[], [0, 1, 30, 31, 120, 149]])
@pytest.mark.parametrize("standardize", ["zscore_sample", "psc"])
def test_a_high_pass_alone_is_nilearns_cosine_filter(
    rng: np.random.Generator, bad: list[int], standardize: str
) -> None:
    """The same cosines, regressed together with the confounds on the kept volumes."""
    series, confounds = 1000 + rng.normal(size=(150, 5)).cumsum(axis=0), rng.normal(size=(150, 4))
    censored = np.isin(np.arange(150), bad)
    found = cleaned(series, 2.0, confounds, censored, high_pass=0.008, low_pass=None, standardize=standardize)
    expected = nilearn_clean(
        series,
        detrend=False,
        filter="cosine",
        high_pass=0.008,
        t_r=2.0,
        confounds=confounds,
        sample_mask=np.flatnonzero(~censored),
        standardize=standardize,
    )
    np.testing.assert_allclose(found.series[~censored], expected, atol=1e-9)


def test_fmripreps_cosines_as_confounds_are_nilearns_high_pass(rng: np.random.Generator) -> None:
    """Strategies with cosines and no band of their own: what nilearn does with the same table."""
    series, motion = 500 + rng.normal(size=(200, 5)).cumsum(axis=0), rng.normal(size=(200, 6))
    table = np.hstack([motion, stop_band(200, 2.0, 1 / 128, 1.0)[:, 1:]])
    found = cleaned(series, 2.0, table, high_pass=None, low_pass=None, standardize="zscore_sample")
    expected = nilearn_clean(series, confounds=table, detrend=True, standardize="zscore_sample", t_r=2.0)
    np.testing.assert_allclose(found.series, expected, atol=1e-9)


def test_percent_change_is_relative_to_the_mean_before_cleaning(rng: np.random.Generator) -> None:
    """A sine of 1 % of a region's mean, in the band, has an amplitude of 1 %, whatever the mean."""
    mean = np.array([100.0, 1000.0, 50.0])
    wave = np.cos(np.pi * 40 * (np.arange(200) + 0.5) / 200)[:, None]  # 0.05 Hz
    found = cleaned(mean * (1 + 0.01 * wave), 2.0, standardize="psc").series
    np.testing.assert_allclose(found, np.repeat(wave, 3, axis=1), atol=1e-8)


def test_percent_change_needs_a_baseline(rng: np.random.Generator) -> None:
    series = 100 + rng.normal(size=(200, 3))
    series[:, 1] -= 100
    assert np.isnan(cleaned(series, 2.0, standardize="psc").series).all(axis=0).tolist() == [False, True, False]
    with pytest.raises(RunExcluded, match="no baseline: percent signal change needs"):
        cleaned(series[:, [0, 2]] - 100, 2.0, standardize="psc")


def test_a_trend_is_left_on_request(rng: np.random.Generator) -> None:
    series = np.arange(100.0)[:, None] + rng.normal(size=(100, 2))
    kept = cleaned(series, 2.0, high_pass=None, low_pass=None, detrend=False)
    np.testing.assert_allclose(kept.residual, series - series.mean(axis=0), atol=1e-9)
    assert kept.freedom.left == 99


def test_the_numbers_of_the_guard_add_up(rng: np.random.Generator) -> None:
    """Volumes that lie close together are not independent within a narrow band: what they truly take is counted."""
    censored = np.isin(np.arange(300), range(100, 130))
    found = cleaned(rng.normal(size=(300, 2)), 0.72, rng.normal(size=(300, 9)), censored).freedom
    design = np.hstack([stop_band(300, 0.72, **BAND), np.eye(300)[:, censored]])
    assert found.n_censored == np.linalg.matrix_rank(design, tol=1e-7) - found.n_stop_band < 30
    assert found.n_confounds == 9
    assert found.left == 300 - found.n_censored - 9 - found.n_stop_band
    assert f"{found.n_censored} censored (of 30; the others add nothing)" in str(found)

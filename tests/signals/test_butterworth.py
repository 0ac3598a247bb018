"""Cleaning by Butterworth filter against nilearn's signal.clean, on the volumes that are kept."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from nilearn.signal import clean as nilearn_clean
from scipy.interpolate import CubicSpline

from neuropipe.config import Clean
from neuropipe.errors import RunExcluded
from neuropipe.signals.clean import Cleaned, clean

N_VOLUMES = 200
# No censored volume is the mirror image (199 - i) of another, which nilearn would leave as it is.
CENSORED = {
    "none": [],
    "middle": [40, 41, 42, 90, 130],
    "start": [0, 1, 2, 77],
    "end": [50, 196, 197, 198, 199],
    "both ends": [0, 1, 60, 196, 197],
    "a stretch": list(range(100, 130)),
}
BANDS = {
    "band": {"high_pass": 0.01, "low_pass": 0.1},
    "narrow, order 2": {"high_pass": 0.01, "low_pass": 0.08, "filter_order": 2},
    "high": {"high_pass": 0.008, "low_pass": None},
    "low": {"high_pass": None, "low_pass": 0.12},
}
SCALES = {"none": None, "zscore_sample": "zscore_sample", "psc": "psc"}


def series_and_confounds(n_confounds: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Regional means of an image with drift, and confounds of very different sizes that are in them."""
    rng = np.random.default_rng(seed)
    confounds = rng.normal(size=(N_VOLUMES, n_confounds)).cumsum(axis=0) * 10.0 ** rng.integers(-4, 4, n_confounds)
    noise = confounds / (confounds.std(axis=0) if n_confounds else 1)
    series = 1000 + 10 * rng.normal(size=(N_VOLUMES, 7)) + np.linspace(0, 30, N_VOLUMES)[:, None]
    return series + 5 * noise @ rng.normal(size=(n_confounds, 7)), confounds


def ours(
    series: np.ndarray,
    confounds: np.ndarray,
    censored: np.ndarray,
    t_r: float = 2.0,
    target: float | None = None,
    **settings: Any,
) -> Cleaned:
    return clean(series, t_r, confounds, censored, Clean(filter="butterworth", t_r=target, **settings))


def theirs(
    series: np.ndarray, confounds: np.ndarray, censored: np.ndarray, t_r: float, settings: dict[str, Any]
) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nilearn_clean(
            series,
            detrend=settings.get("detrend", True),
            standardize=SCALES[settings["standardize"]],
            sample_mask=np.flatnonzero(~censored) if censored.any() else None,
            confounds=confounds if confounds.shape[1] else None,
            filter="butterworth",
            low_pass=settings["low_pass"],
            high_pass=settings["high_pass"],
            butterworth__order=settings.get("filter_order", 5),
            t_r=t_r,
        )


CASES = [
    (bad, band, scale, n_confounds, t_r, True)
    for (bad, band, scale), (n_confounds, t_r) in zip(
        itertools.product(CENSORED, BANDS, SCALES),
        itertools.cycle([(0, 2.0), (6, 2.0), (24, 1.5), (6, 1.0), (24, 2.0)]),
        strict=False,
    )
]
CASES += [("middle", "band", "none", 6, 2.0, False), ("both ends", "high", "zscore_sample", 6, 2.0, False)]


@pytest.mark.parametrize(("bad", "band", "scale", "n_confounds", "t_r", "detrend"), CASES)
def test_equals_nilearn(bad: str, band: str, scale: str, n_confounds: int, t_r: float, detrend: bool) -> None:
    series, confounds = series_and_confounds(n_confounds)
    censored = np.isin(np.arange(N_VOLUMES), CENSORED[bad])
    settings = BANDS[band] | {"standardize": scale, "detrend": detrend}
    found = ours(series, confounds, censored, t_r, **settings)
    expected = theirs(series, confounds, censored, t_r, settings)
    assert found.series.shape == series.shape and np.isfinite(found.series).all()
    np.testing.assert_array_equal(found.censored, censored)
    np.testing.assert_allclose(found.series[~censored], expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("bad", [[50, 149], [99, 100], [0, 199], [0, 1, 30, 169, 199], list(range(80, 120))])
def test_every_censored_volume_is_interpolated(bad: list[int]) -> None:
    """Given a run without outer censored volumes, and with a spline's values at the others, nilearn agrees.

    Left to itself it filters what those hold whose mirror image is censored too.
    """
    series, confounds = series_and_confounds(6)
    censored = np.isin(np.arange(N_VOLUMES), bad)
    kept = np.flatnonzero(~censored)
    span = slice(kept[0], kept[-1] + 1)
    filled = [CubicSpline(kept, values[kept])(np.arange(N_VOLUMES))[span] for values in (series, confounds)]
    settings = BANDS["band"] | {"standardize": "none"}
    expected = theirs(*filled, censored[span], 2.0, settings)
    spoilt = series.copy()
    spoilt[censored] = 1e4
    found = ours(spoilt, confounds, censored, **settings).series
    np.testing.assert_allclose(found[~censored], expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    assert np.abs(theirs(spoilt, confounds, censored, 2.0, settings) - expected).max() > np.abs(expected).max()


def test_censored_volumes_may_hold_anything_and_keep_their_place() -> None:
    series, confounds = series_and_confounds(6)
    censored = np.isin(np.arange(N_VOLUMES), [0, 1, 2, 70, 71, 198, 199])
    expected = ours(series, confounds, censored).series
    series[censored], confounds[censored] = np.nan, 1e6
    found = ours(series, confounds, censored)
    np.testing.assert_array_equal(found.series, expected)
    for edge, outer in ((3, [0, 1, 2]), (197, [198, 199])):  # beyond the first and last usable volume nothing is known
        np.testing.assert_array_equal(found.series[outer], np.repeat(found.series[[edge]], len(outer), axis=0))


def test_population_and_sample_deviation() -> None:
    series, confounds = series_and_confounds(3)
    censored = np.arange(N_VOLUMES) == 50
    population = ours(series, confounds, censored, standardize="zscore").series
    sample = ours(series, confounds, censored, standardize="zscore_sample").series
    np.testing.assert_allclose(population, sample * np.sqrt(199 / 198), rtol=1e-12)


@pytest.mark.parametrize(("low_pass", "fast_hz"), [(None, 0.4), (None, 0.3), (0.3, 0.28), (0.1, 0.45)])
def test_resampling_does_not_alias(low_pass: float | None, fast_hz: float) -> None:
    """0.72 s to 2 s: what is faster than 0.25 Hz would come back as 0.5 Hz minus itself; it is gone instead."""
    times = np.arange(1000) * 0.72
    slow, fast = np.sin(2 * np.pi * 0.05 * times), 10 * np.sin(2 * np.pi * fast_hz * times)
    none, censored = np.empty((1000, 0)), np.zeros(1000, dtype=bool)
    settings = {"high_pass": None, "low_pass": low_pass, "detrend": False, "target": 2.0, "standardize": "none"}
    found = ours((slow + fast)[:, None], none, censored, 0.72, **settings).series[:, 0]
    new_times = np.arange(len(found)) * 2.0
    assert len(found) == 360
    inner = slice(20, -20)
    error = found - np.sin(2 * np.pi * 0.05 * new_times)
    assert np.abs(error[inner]).max() < 0.1
    alias = np.abs(np.exp(-2j * np.pi * (0.5 - fast_hz) * new_times[inner]) @ error[inner]) * 2 / len(error[inner])
    assert alias < 0.002  # of an amplitude of 10


def test_confounds_lose_the_same_frequencies_as_the_series() -> None:
    """Without a low-pass and to a coarser sampling, series and confounds are cut alike, so nothing comes back."""
    rng = np.random.default_rng(0)
    motion = rng.normal(size=(1000, 4)).cumsum(axis=0) + 5 * rng.normal(size=(1000, 4))
    series = motion @ rng.normal(size=(4, 5)) + 0.01 * rng.normal(size=(1000, 5))
    censored = np.zeros(1000, dtype=bool)
    settings = {"low_pass": None, "target": 2.0, "standardize": "none"}
    kept = ours(series, motion, censored, 0.72, **settings).series
    untouched = ours(series, motion[:, :0], censored, 0.72, **settings).series
    assert (kept.std(axis=0) < 0.005 * untouched.std(axis=0)).all()


def test_samples_near_censored_volumes_stay_marked() -> None:
    series, confounds = series_and_confounds(2)
    censored = np.arange(N_VOLUMES) == 100
    found = ours(series, confounds, censored, 0.8, target=2.0)  # volume 100 is at 80 s
    assert np.flatnonzero(found.censored).tolist() == [40]


@pytest.mark.parametrize(("order", "needed"), [(5, 33), (2, 15)])
def test_runs_too_short_to_be_padded(order: int, needed: int) -> None:
    """scipy says how many volumes it adds at each end; a run must have more."""
    rng = np.random.default_rng(0)
    settings = {"high_pass": 0.1, "low_pass": 0.2, "filter_order": order}
    for n_volumes in (needed, needed + 1):
        series, censored = rng.normal(size=(n_volumes + 2, 3)), np.zeros(n_volumes + 2, dtype=bool)
        censored[[0, -1]] = True
        if n_volumes > needed:
            assert np.isfinite(ours(series, series[:, :0], censored, **settings).series).all()
        else:
            with pytest.raises(RunExcluded, match=f"too few volumes: expected more than {needed} .* found {needed};"):
                ours(series, series[:, :0], censored, **settings)


def test_the_guard_counts_as_for_the_projection() -> None:
    rng = np.random.default_rng(0)
    series, confounds = rng.normal(size=(300, 4)), rng.normal(size=(300, 100))
    censored = np.arange(300) % 60 == 10
    with pytest.raises(RunExcluded, match="found 300 volumes - 5 censored - 100 confounds - 191 stop-band = 4;"):
        clean(series, 2.0, confounds, censored, Clean(filter="butterworth"), 20)


def test_variance_retained() -> None:
    """20 random regressors in a band of 109 take about 20/109 of white noise's variance."""
    rng = np.random.default_rng(0)
    found = ours(rng.normal(size=(300, 400)), rng.normal(size=(300, 20)), np.zeros(300, dtype=bool))
    assert found.variance_retained.mean() == pytest.approx(89 / 109, abs=0.03)


def test_missing_and_constant_regions_stay_missing() -> None:
    series, confounds = series_and_confounds(2)
    series[:, 1], series[:, 2], series[7, 3] = 1000, np.nan, np.nan
    found = ours(series, confounds, np.zeros(N_VOLUMES, dtype=bool)).series
    assert np.isnan(found).all(axis=0).tolist() == [False, True, True, True, False, False, False]


def test_without_a_band_nothing_is_filtered() -> None:
    """As nilearn, which then only takes out trend and confounds."""
    series, confounds = series_and_confounds(5)
    settings = {"high_pass": None, "low_pass": None, "standardize": "none"}
    found = ours(series, confounds, np.zeros(N_VOLUMES, dtype=bool), **settings).series
    expected = theirs(series, confounds, np.zeros(N_VOLUMES, dtype=bool), 2.0, settings)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("name", ["projection", "butterworth"])
def test_cleaning_imports_neither_nilearn_nor_torch(name: str) -> None:
    """Nor scipy.signal, which takes half a second, where it does not filter with it."""
    code = (
        "import sys, numpy as np; from neuropipe.config import Clean; from neuropipe.signals.run import *\n"
        "x = np.random.default_rng(0).normal(size=(100, 3))\n"
        f"clean_run(x, 2.0, without_confounds(100), Clean(filter={name!r}), Exclude())\n"
        "print(*sorted({'nilearn', 'torch', 'sklearn', 'nibabel', 'scipy.signal'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == ("scipy.signal" if name == "butterworth" else ""), done.stdout + done.stderr

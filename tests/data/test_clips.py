"""Clips against scipy and the numbers that the specification gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.interpolate import interp1d

from neuropipe.data import clips


def test_zscore_is_scipys_and_ignores_nan() -> None:
    series = np.random.default_rng(0).normal(5, 3, (40, 4)).astype(np.float32)
    series[30:, 1] = np.nan
    series[:, 2] = 7
    found = clips.zscore(series)
    np.testing.assert_allclose(found[:, 0], stats.zscore(series[:, 0]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[:30, 1], stats.zscore(series[:30, 1]), rtol=1e-4, atol=1e-5)
    assert np.isnan(found[30:, 1]).all() and (found[:, 2] == 0).all()


@pytest.mark.parametrize(("t_r", "target"), [(2.0, 1.6), (0.735, 2.0), (2.0, 2.0), (1.5, 0.5)])
def test_resampling_is_scipys_interpolation(t_r: float, target: float) -> None:
    series = np.random.default_rng(0).standard_normal((50, 3))
    found = clips.resample_linear(series, t_r, target)
    position = np.arange(int(50 * t_r / target)) * target / t_r
    expected = interp1d(np.arange(50), series, axis=0, fill_value="extrapolate")(position)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_resampled_sample_next_to_nan_stays_valid() -> None:
    """The last valid sample is met exactly and the interval on its left is used."""
    series = np.array([[0.0], [1.0], [2.0], [np.nan]])
    assert clips.resample_linear(series, 2.0, 1.0)[:5, 0].tolist() == [0, 0.5, 1, 1.5, 2]
    assert clips.length_before_nan(series) == 3 and clips.length_before_nan(series[:3]) == 3


def test_regular_starts_are_those_of_the_specification() -> None:
    assert clips.clip_starts(180, 100, 8, "regular").tolist() == [0, 11, 22, 34, 45, 57, 68, 80]
    assert clips.clip_starts(90, 100, 3, "regular").tolist() == [0, 0, 0]


def test_uniform_starts_reach_both_ends_and_are_independent() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([clips.clip_starts(180, 100, 2, "uniform", rng) for _ in range(4000)])
    assert drawn.min() == 0 and drawn.max() == 80
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.05
    assert np.abs(drawn[:, 0] - drawn[:, 1]).mean() == pytest.approx(27, abs=1)  # (m + 2) m / (3 (m + 1)), m = 80


def test_cut_pads_on_the_right_and_says_so() -> None:
    series = np.arange(10, dtype=np.float16)[:, None] + 1
    found, valid = clips.cut(series, np.array([0, 7, 9]), 4)
    assert found[..., 0].tolist() == [[1, 2, 3, 4], [8, 9, 10, 0], [10, 0, 0, 0]]
    assert valid.tolist() == [[True] * 4, [True] * 3 + [False], [True] + [False] * 3]
    assert found.dtype == np.float32

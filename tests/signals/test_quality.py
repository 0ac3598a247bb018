"""Quality measures against their closed forms, and the rules that leave runs out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neuropipe.config import Exclude
from neuropipe.errors import RunExcluded
from neuropipe.signals import quality


def test_displacement_ignores_the_unknown_first_volume() -> None:
    fd = np.array([np.nan, 0.1, 0.2, 0.9, 0.4])
    assert quality.displacement(fd, 0.5) == {"mean_fd_mm": 0.4, "max_fd_mm": 0.9, "high_motion_share": 0.2}
    unknown = {"mean_fd_mm": None, "max_fd_mm": None, "high_motion_share": None}
    assert quality.displacement(None, 0.5) == quality.displacement(np.array([np.nan]), 0.5) == unknown


def test_tsnr_is_mean_over_deviation() -> None:
    wave = np.sin(np.linspace(0, 20 * np.pi, 1000, endpoint=False))  # standard deviation 1 / sqrt(2)
    series = np.stack([100 + wave, 50 + 10 * wave, np.full(1000, 7.0), np.full(1000, np.nan)], axis=1)
    found = quality.tsnr(series)
    np.testing.assert_allclose(found[:2], [100 * np.sqrt(2), 5 * np.sqrt(2)], rtol=1e-6)
    assert np.isnan(found[2:]).all()


def test_dvars_in_percent() -> None:
    """Regions that jump by 1 and 2 percent at every volume: the root mean square is sqrt(2.5) percent."""
    sign = np.where(np.arange(10) % 2, 0.5, -0.5)
    series = np.stack([1000 + 10 * sign, 200 + 4 * sign, np.full(10, np.nan)], axis=1)
    mean, kept = np.array([1000, 200, np.nan]), np.ones(10, dtype=bool)
    assert quality.dvars(series, mean, kept) == pytest.approx(np.sqrt(2.5))
    series[4] += 500  # a censored volume spoils neither of its two changes
    kept[4] = False
    assert quality.dvars(series, mean, kept) == pytest.approx(np.sqrt(2.5))
    assert quality.dvars(series[:1], mean, kept[:1]) is None


GOOD = {"duration_s": 300.0, "mean_fd_mm": 0.2, "censored_share": 0.1, "high_motion_share": 0.1, "n_missing_regions": 3}


@pytest.mark.parametrize(
    ("change", "reason", "rule"),
    [
        ({"duration_s": 119.0}, "short run", "min_duration_s"),
        ({"mean_fd_mm": 0.51}, "motion", "max_mean_fd_mm"),
        ({"censored_share": 0.6}, "censored volumes", "max_censored_share"),
        ({"high_motion_share": 0.6}, "censored volumes", "max_censored_share"),
        ({"n_missing_regions": 41}, "missing regions", "max_missing_regions"),
    ],
)
def test_rules(change: dict[str, Any], reason: str, rule: str) -> None:
    quality.check(GOOD, Exclude())
    with pytest.raises(RunExcluded, match=rule) as error:
        quality.check(GOOD | change, Exclude())
    assert error.value.reason == reason
    quality.check(GOOD | change, Exclude(**{rule: None}))
    quality.check(GOOD | dict.fromkeys(change), Exclude())  # unknown is no reason


def test_limits_themselves_are_allowed() -> None:
    quality.check(GOOD | {"duration_s": 120, "mean_fd_mm": 0.5, "n_missing_regions": 40}, Exclude())

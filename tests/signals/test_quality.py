"""Quality measures against their closed forms, and the rules that leave runs out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from neuropipe.config import Clean, Exclude
from neuropipe.errors import RunExcluded
from neuropipe.signals import quality
from neuropipe.signals.clean import clean


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
    np.testing.assert_allclose(quality.dvars_trace(series, mean, kept)[1:], np.sqrt(2.5))
    series[4] += 500  # a censored volume spoils neither of its two changes
    kept[4] = False
    found = quality.dvars_trace(series, mean, kept)
    assert np.flatnonzero(np.isnan(found)).tolist() == [0, 4, 5]
    np.testing.assert_allclose(np.delete(found, [0, 4, 5]), np.sqrt(2.5))
    assert np.isnan(quality.dvars_trace(series[:1], mean, kept[:1])).all()


def test_dvars_of_each_volume_is_that_of_power() -> None:
    """Of regions whose mean is 100, percent are units, and DVARS is the root mean square of the differences."""
    series = 100 + np.random.default_rng(0).normal(size=(20, 6))
    found = quality.dvars_trace(series, np.full(6, 100.0), np.ones(20, dtype=bool))
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], np.sqrt(np.mean(np.diff(series, axis=0) ** 2, axis=1)))


def edges_one_by_one(series: np.ndarray, fd_mm: np.ndarray) -> float:
    """Mean absolute correlation with displacement, each edge's co-fluctuation written down."""
    z = stats.zscore(series)
    row, column = np.triu_indices(series.shape[1], k=1)
    return float(np.mean([abs(np.corrcoef(fd_mm, z[:, i] * z[:, j])[0, 1]) for i, j in zip(row, column, strict=True)]))


def test_edge_motion_is_the_mean_over_edges() -> None:
    rng = np.random.default_rng(0)
    series, fd_mm = 500 + rng.normal(size=(120, 7)) @ rng.normal(size=(7, 7)), rng.gamma(2, 0.1, 120)
    everything = np.ones(120, dtype=bool)
    assert quality.edge_motion(series, fd_mm, everything) == pytest.approx(edges_one_by_one(series, fd_mm), rel=1e-4)
    kept = np.arange(120) % 5 > 0
    fd_mm[3] = np.nan
    series[~kept] += 1000  # censored volumes and volumes without displacement do not count
    used = kept & np.isfinite(fd_mm)
    with_hole = np.column_stack([series, np.full(120, np.nan), np.full(120, 0.1)])  # a missing and a constant region
    expected = edges_one_by_one(series[used], fd_mm[used])
    assert quality.edge_motion(with_hole, fd_mm, kept) == pytest.approx(expected, rel=1e-4)


def test_edge_motion_finds_planted_motion_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    fd_mm, everything = rng.gamma(1, 0.2, 400), np.ones(400, dtype=bool)
    clean = rng.normal(size=(400, 40))
    chance = np.sqrt(2 / (np.pi * 400))
    assert quality.edge_motion(clean, fd_mm, everything) == pytest.approx(chance, rel=0.1)
    moved = clean + 3 * fd_mm[:, None] * rng.normal(size=(400, 1))  # what moves, moves all regions together
    assert quality.edge_motion(moved, fd_mm, everything) > 4 * chance
    assert quality.edge_motion(clean, np.full(400, 0.1), everything) is None
    assert quality.edge_motion(clean, fd_mm, np.arange(400) < 9) is None


def test_correlation_where_both_are_known() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=30), rng.normal(size=30)
    one[:4], other[10] = np.nan, np.nan
    both = np.isfinite(one) & np.isfinite(other)
    assert quality.correlation(one, other) == pytest.approx(stats.pearsonr(one[both], other[both]).statistic)
    assert quality.correlation(one, np.full(30, 2.0)) is None
    assert quality.correlation(one[:12], other[:12]) is None, "seven pairs"


def test_lost_degrees_of_freedom_by_cause() -> None:
    """300 volumes of 2 s have 600 s: their cosines of 0.01 to 0.1 Hz are numbers 12 to 120, 109 of 300."""
    rng = np.random.default_rng(3)
    censored = np.isin(np.arange(300), [20, 80, 81, 200, 290])
    regressors = rng.normal(size=(300, 24))
    settings = Clean(high_pass=0.01, low_pass=0.1, t_r=None)
    found = clean(rng.normal(size=(300, 3)), 2.0, regressors, censored, settings)
    lost = quality.lost_degrees(300, found.degrees_of_freedom, found.lost_to_filter, found.lost_to_censoring)
    assert lost == {
        "lost_degrees_of_freedom": 191 + 5 + 24,
        "lost_to_filter": 191,
        "lost_to_censoring": 5,
        "lost_to_confounds": 24,
    }


GOOD = {
    "duration_s": 300.0,
    "kept_duration_s": 290.0,
    "mean_fd_mm": 0.2,
    "max_fd_mm": 1.5,
    "censored_share": 0.1,
    "high_motion_share": 0.1,
    "n_missing_regions": 3,
    "degrees_of_freedom": 60,
    "mean_coverage": 0.98,
    "tsnr_median": 80.0,
    "dvars_after_percent": 0.4,
    "variance_retained_median": 0.7,
    "edge_motion_after": 0.05,
}
STRICT = {
    "max_fd_mm": 3.0,
    "min_kept_duration_s": 240,
    "min_mean_coverage": 0.9,
    "min_tsnr": 40,
    "max_dvars_percent": 1.0,
    "min_variance_retained": 0.2,
    "max_edge_motion": 0.2,
}


@pytest.mark.parametrize(
    ("change", "reason", "rule"),
    [
        ({"duration_s": 119.0}, "short run", "min_duration_s"),
        ({"mean_fd_mm": 0.51}, "motion", "max_mean_fd_mm"),
        ({"censored_share": 0.6}, "censored volumes", "max_censored_share"),
        ({"high_motion_share": 0.6}, "censored volumes", "max_censored_share"),
        ({"n_missing_regions": 41}, "missing regions", "max_missing_regions"),
        ({"degrees_of_freedom": 19}, "degrees of freedom", "min_degrees_of_freedom"),
        ({"max_fd_mm": 3.1}, "motion peak", "max_fd_mm"),
        ({"kept_duration_s": 239.0}, "short after censoring", "min_kept_duration_s"),
        ({"mean_coverage": 0.89}, "low coverage", "min_mean_coverage"),
        ({"tsnr_median": 39.0}, "low tSNR", "min_tsnr"),
        ({"dvars_after_percent": 1.1}, "DVARS", "max_dvars_percent"),
        ({"variance_retained_median": 0.1}, "over-fitted", "min_variance_retained"),
        ({"edge_motion_after": 0.21}, "edges follow motion", "max_edge_motion"),
    ],
)
def test_rules(change: dict[str, Any], reason: str, rule: str) -> None:
    limits = Exclude(**STRICT)
    quality.check(GOOD, limits)
    with pytest.raises(RunExcluded, match=rule) as error:
        quality.check(GOOD | change, limits)
    assert error.value.reason == reason
    number, limit = f"found {next(iter(change.values())):.4g}", f"{getattr(limits, rule):g}"
    assert number in error.value.detail and limit in error.value.detail
    quality.check(GOOD | change, limits.model_copy(update={rule: None}))
    quality.check(GOOD | dict.fromkeys(change), limits)  # unknown is no reason


def test_every_limit_has_a_rule_and_new_ones_are_off() -> None:
    assert {rule.limit for rule in quality.RULES} == set(Exclude.model_fields) - {"min_region_coverage", "runs"}
    assert all(getattr(Exclude(), name) is None for name in STRICT)


def test_limits_themselves_are_allowed() -> None:
    quality.check(GOOD | {"duration_s": 120, "mean_fd_mm": 0.5, "n_missing_regions": 40}, Exclude())


def test_runs_and_people_left_out_by_hand() -> None:
    limits = Exclude(runs=["sub-02", "sub-03_task-rest_run-2"])
    quality.check_by_hand("sub-01", "sub-01_task-rest", limits)
    quality.check_by_hand("sub-03", "sub-03_task-rest_run-1", limits)
    for person, run in (("sub-02", "sub-02_task-rest"), ("sub-03", "sub-03_task-rest_run-2")):
        with pytest.raises(RunExcluded, match=r"exclude\.runs") as error:
            quality.check_by_hand(person, run, limits)
        assert error.value.reason == "by hand"

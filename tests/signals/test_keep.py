"""Finished series stay as they are, and are judged as others are."""

from __future__ import annotations

import numpy as np
import pytest

from neuropipe.config import Clean, Exclude
from neuropipe.errors import RunExcluded
from neuropipe.signals.keep import keep_run
from neuropipe.signals.run import CleanRun, without_confounds

N = 100
SERIES = np.random.default_rng(0).normal(size=(N, 4))


def keep(raw: np.ndarray, censored: np.ndarray | None = None, coverage: np.ndarray | None = None, **limits) -> CleanRun:
    off = dict.fromkeys(name for name in Exclude.model_fields if name.startswith(("max_", "min_")))
    return keep_run(
        raw, 2.0, without_confounds(len(raw), censored), Clean(), Exclude(**off | limits), coverage=coverage
    )


def test_values_are_untouched() -> None:
    run = keep(SERIES)
    np.testing.assert_array_equal(run.series, SERIES.astype(np.float32))
    assert run.facts["RepetitionTime"] == 2.0 and run.facts["Quality"]["degrees_of_freedom"] is None


def test_volumes_that_are_not_there_lie_between_their_neighbours() -> None:
    raw = SERIES.copy()
    raw[[0, 50, 51]] = np.nan
    run = keep(raw)
    assert run.facts["CensoredVolumes"] == [0, 50, 51]
    np.testing.assert_allclose(run.series[50], (2 * SERIES[49] + SERIES[52]) / 3, rtol=1e-5)
    np.testing.assert_allclose(run.series[0], SERIES[1], rtol=1e-6)
    np.testing.assert_array_equal(run.series[[1, 49, 52, 99]], SERIES[[1, 49, 52, 99]].astype(np.float32))


def test_missing_regions() -> None:
    """Constant, empty, holed, or hardly covered; a region that varies at censored volumes alone is constant too."""
    raw = np.concatenate([SERIES, np.full((N, 3), 2.0)], axis=1)
    raw[:, 5] = np.nan
    raw[10, 6] = 9.0
    raw[30, 1] = np.nan
    run = keep(raw, np.arange(N) == 10, np.array([1, 1, 1, 0.2, 1, 1, 1]), min_region_coverage=0.5)
    missing = ~np.isfinite(run.series).all(axis=0)
    assert missing.tolist() == [False, True, False, True, True, True, True]
    assert run.facts["Quality"]["n_missing_regions"] == 5


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"min_duration_s": 201}, "short run"),
        ({"max_censored_share": 0.05}, "censored volumes"),
        ({"max_missing_regions": 0}, "missing regions"),
    ],
)
def test_rules_apply(limits: dict, reason: str) -> None:
    raw = SERIES.copy()
    raw[:, 0] = 1
    raw[:10] = np.nan
    with pytest.raises(RunExcluded) as excluded:
        keep(raw, **limits)
    assert excluded.value.reason == reason


def test_nothing_left() -> None:
    for raw in (SERIES * np.nan, np.where(np.arange(N)[:, None] < 0, SERIES, np.nan)):
        with pytest.raises(RunExcluded, match="no signal"):
            keep(raw)

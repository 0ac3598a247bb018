"""One run from raw means to a clean series: what `clean_run` adds to the cleaning itself."""

from __future__ import annotations

import numpy as np
import pytest

from neuropipe.config import Clean, Exclude
from neuropipe.errors import RunExcluded
from neuropipe.signals.confounds import Confounds
from neuropipe.signals.run import CleanRun, clean_run, mean_signal, without_confounds


def confounds_of(censored: list[int], n_volumes: int = 200, n_confounds: int = 0) -> Confounds:
    regressors = np.random.default_rng(1).normal(size=(n_volumes, n_confounds))
    names = [f"c{n}" for n in range(n_confounds)]
    return Confounds(regressors, names, np.isin(np.arange(n_volumes), censored), 0, None, 0)


def cleaned(raw: np.ndarray, confounds: Confounds, limits: Exclude | None = None, **settings: object) -> CleanRun:
    return clean_run(raw, 2.0, confounds, Clean(**settings), limits or Exclude(max_censored_share=None))


def test_a_minimum_of_volumes_after_censoring() -> None:
    raw = np.random.default_rng(0).normal(size=(200, 3))
    confounds = confounds_of(list(range(0, 200, 4)))
    limits = Exclude(min_volumes=150, max_censored_share=None)
    assert cleaned(raw, confounds, limits).facts["Quality"]["n_kept_volumes"] == 150
    with pytest.raises(RunExcluded, match=r"too few volumes: .* at least 151, found 150 .*exclude\.min_volumes"):
        cleaned(raw, confounds, limits.model_copy(update={"min_volumes": 151}))


def test_volumes_without_values_count_as_censored_for_the_minimum() -> None:
    raw = np.random.default_rng(0).normal(size=(200, 3))
    raw[10:20] = np.nan
    with pytest.raises(RunExcluded, match="at least 191, found 190"):
        cleaned(raw, without_confounds(200), Exclude(min_volumes=191))


@pytest.mark.parametrize("name", ["projection", "butterworth"])
def test_the_mean_over_regions_is_one_regressor_more(name: str) -> None:
    """Nothing of it is left on average, and it costs one degree of freedom; a missing region does not spoil it."""
    rng = np.random.default_rng(0)
    raw = 4 * rng.normal(size=(200, 1)).cumsum(axis=0) + rng.normal(size=(200, 6))
    raw[:, 5] = np.nan
    raw[50] = 1e3
    confounds = confounds_of([50], n_confounds=3)
    settings = {"filter": name, "standardize": "none", "t_r": None}
    without, found = cleaned(raw, confounds, **settings), cleaned(raw, confounds, mean_signal=True, **settings)
    kept = np.arange(200) != 50
    left, before = (run.series[kept, :5].mean(axis=1).std() for run in (found, without))
    assert left < 1e-4 * before
    assert found.facts["Regressors"] == ["c0", "c1", "c2", "mean_signal"]
    freedom = [run.facts["Quality"]["degrees_of_freedom"] for run in (found, without)]
    assert freedom[0] == freedom[1] - 1
    assert (found.variance_retained[:5] < without.variance_retained[:5]).all() and np.isnan(found.variance_retained[5])


def test_the_mean_signal_is_finite_at_censored_volumes() -> None:
    raw = np.arange(12.0).reshape(4, 3)
    raw[1] = np.nan
    raw[2, 2] = np.nan
    found = mean_signal(raw, np.array([False, True, False, False]))
    np.testing.assert_allclose(found, [0.5, (0.5 + 6.5 + 9.5) / 3, 6.5, 9.5])


def test_a_run_without_a_kept_volume_is_left_out() -> None:
    raw = np.random.default_rng(0).normal(size=(200, 3))
    for settings in ({}, {"mean_signal": True}, {"filter": "butterworth"}):
        with pytest.raises(RunExcluded, match=r"too few volumes: .*found 0"):
            cleaned(raw, confounds_of(list(range(200))), **settings)

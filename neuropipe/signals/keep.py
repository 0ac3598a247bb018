"""One run whose values are left as they are: judged, but neither filtered, resampled nor standardized."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from neuropipe.config import Clean, Exclude
from neuropipe.errors import RunExcluded
from neuropipe.signals import quality, traces
from neuropipe.signals.confounds import Confounds
from neuropipe.signals.run import CleanRun, kept_length, quality_before, remembered


def keep_run(
    raw: np.ndarray,
    t_r: float,
    confounds: Confounds,
    settings: Clean,
    limits: Exclude,
    *,
    coverage: np.ndarray | None = None,
    known: Mapping[str, float] | None = None,
) -> CleanRun:
    """Judge a run of finished series.

    Parameters
    ----------
    raw : float64 array (time, region)
        NaN columns are missing regions, and so become constant ones; rows of NaN are volumes that are not
        there, which are filled in between their neighbours and stay marked as censored.
    t_r, confounds, settings, limits, coverage, known
        As of `neuropipe.signals.run.clean_run`; of `confounds` only censored volumes and displacement count.

    Raises
    ------
    RunExcluded
        A rule of `limits` is broken, or nothing is left.
    """
    censored = confounds.censored | ~np.isfinite(raw).any(axis=1)
    series = _filled(raw, censored)
    if coverage is not None and limits.min_region_coverage is not None:
        series[:, coverage < limits.min_region_coverage] = np.nan
    kept = series[~censored]
    if not len(kept) or not np.isfinite(kept).any():
        raise RunExcluded("no signal", "no region has a value at any volume that is not censored; look at the source")
    series[:, np.ptp(kept, axis=0) == 0] = np.nan
    found = quality_before(confounds, t_r, settings) | dict(known or {})
    numbers, over_time = traces.compare(None, series, t_r, censored, confounds.fd_mm, None, coverage)
    found = numbers | found | kept_length(censored, t_r)
    found |= {
        "censored_share": float(censored.mean()),
        "n_confounds": 0,
        "degrees_of_freedom": None,
        "variance_retained_median": None,
        "n_missing_regions": int((~np.isfinite(series)).any(axis=0).sum()),
        "mean_coverage": None if coverage is None else float(coverage.mean()),
        "tsnr_median": None,
    }
    with remembered(found, lambda: over_time):
        quality.check(found, limits)
    facts = {
        "RepetitionTime": t_r,
        "NumberOfVolumes": len(series),
        "CensoredVolumes": np.flatnonzero(censored).tolist(),
        "PassBand": None,
        "Regressors": [],
        "NumberOfFilledRegressors": 0,
        "NonSteadyStateVolumesRemoved": 0,
        "Source": {"RepetitionTime": t_r, "NumberOfVolumes": len(raw)},
        "Quality": found,
    }
    unknown = np.full(raw.shape[1], np.nan)
    return CleanRun(
        series=series.astype(np.float32),
        n_used=unknown,
        coverage=unknown if coverage is None else coverage,
        tsnr=unknown,
        variance_retained=unknown,
        facts=facts,
        traces=over_time,
    )


def _filled(raw: np.ndarray, censored: np.ndarray) -> np.ndarray:
    """Return a copy whose censored volumes without a value lie on the line between their neighbours."""
    series = raw.copy()
    gaps = censored & ~np.isfinite(raw).any(axis=1)
    if gaps.any() and not gaps.all():
        where, there = np.flatnonzero(gaps), np.flatnonzero(~gaps)
        for region in np.flatnonzero(np.isfinite(raw[there]).all(axis=0)):
            series[where, region] = np.interp(where, there, raw[there, region])
    return series

"""One run from raw regional means to a clean series with its quality: everything between reading and writing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from neuropipe.config import Clean, Exclude
from neuropipe.errors import RunExcluded
from neuropipe.signals import quality
from neuropipe.signals.clean import clean
from neuropipe.signals.confounds import Confounds


@dataclass(frozen=True, eq=False)
class CleanRun:
    """A finished run, ready to be written.

    Attributes
    ----------
    series : float32 array (sample, region)
        Clean series; NaN columns are missing regions.
    n_used : int64 array (region,)
        Voxels behind each region; for ready-made series 1 where there is a column.
    coverage : float64 array (region,)
        Share of the region's voxels that were usable.
    facts : dict
        What the sidecar says of the run itself, by BIDS-like keys.
    """

    series: np.ndarray
    n_used: np.ndarray
    coverage: np.ndarray
    facts: dict[str, Any]


def without_confounds(n_volumes: int) -> Confounds:
    """Return what is regressed from a series that comes without confounds: nothing."""
    return Confounds(np.empty((n_volumes, 0)), [], np.zeros(n_volumes, dtype=bool), 0, None, 0)


def quality_before(confounds: Confounds, t_r: float, settings: Clean) -> dict[str, Any]:
    """Return what is known of a run before its image is read: length and motion."""
    start = confounds.n_leading
    fd_mm = None if confounds.fd_mm is None else confounds.fd_mm[start:]
    n_volumes = len(confounds.censored) - start
    return {
        **quality.displacement(fd_mm, settings.fd_threshold_mm),
        "censored_share": float(confounds.censored[start:].mean()) if n_volumes else 1.0,
        "duration_s": round(n_volumes * t_r, 6),
        "n_missing_regions": None,
    }


def clean_run(
    raw: np.ndarray,
    n_used: np.ndarray,
    coverage: np.ndarray,
    t_r: float,
    confounds: Confounds,
    settings: Clean,
    limits: Exclude,
    *,
    has_mean: bool,
) -> CleanRun:
    """Clean one run and judge it.

    Parameters
    ----------
    raw : float64 array (time, region)
        Regional means; NaN for regions without voxels. A volume without any value is censored.
    n_used, coverage : arrays (region,)
        Voxels behind each region, and their share of the region.
    t_r : float
        Seconds between volumes.
    confounds : Confounds
        Regressors and censored volumes.
    settings, limits : Clean, Exclude
        Sections of the configuration.
    has_mean : bool
        Whether the means are in the image's unit, so that tSNR and percent change mean something.

    Raises
    ------
    RunExcluded
        A rule of `limits` is broken, or too little is left after cleaning.
    """
    start = confounds.n_leading
    before = quality_before(confounds, t_r, settings)
    quality.check(before, limits)
    raw, censored = raw[start:].copy(), confounds.censored[start:] | ~np.isfinite(raw[start:]).any(axis=1)
    if limits.min_region_coverage is not None:
        raw[:, coverage < limits.min_region_coverage] = np.nan
    if not np.isfinite(raw).any():
        raise RunExcluded("no signal", "no region has signal inside the brain mask; look at the image and its mask")
    cleaned = clean(
        raw,
        t_r,
        confounds.regressors[start:],
        censored,
        high_pass=settings.high_pass,
        low_pass=settings.low_pass,
        target_t_r=settings.t_r,
        standardize=settings.standardize == "zscore",
        min_degrees_of_freedom=limits.min_degrees_of_freedom or 0,
    )
    found = before | {
        "censored_share": float(censored.mean()),
        "n_confounds": len(confounds.names),
        "degrees_of_freedom": cleaned.degrees_of_freedom,
        "variance_retained_median": _median(cleaned.variance_retained),
        "n_missing_regions": int(np.isnan(cleaned.series).any(axis=0).sum()),
        "mean_coverage": float(coverage.mean()) if has_mean else None,
        **_in_image_units(raw[~censored], cleaned.residual, has_mean),
    }
    quality.check(found, limits)
    facts = {
        "RepetitionTime": cleaned.t_r,
        "NumberOfVolumes": len(cleaned.series),
        "CensoredVolumes": np.flatnonzero(cleaned.censored).tolist(),
        "PassBand": [round(edge, 6) for edge in cleaned.pass_band],
        "Regressors": confounds.names,
        "NumberOfFilledRegressors": confounds.n_filled,
        "NonSteadyStateVolumesRemoved": start,
        "Source": {"RepetitionTime": t_r, "NumberOfVolumes": len(confounds.censored)},
        "Quality": found,
    }
    return CleanRun(cleaned.series.astype(np.float32), n_used, coverage, facts)


def _in_image_units(raw: np.ndarray, residual: np.ndarray, has_mean: bool) -> dict[str, float | None]:
    """Return tSNR and DVARS (percent) before and after cleaning, where the series have a mean to compare with."""
    if not has_mean:
        return {"tsnr_median": None, "dvars_before_percent": None, "dvars_after_percent": None}
    mean = raw.mean(axis=0)
    return {
        "tsnr_median": _median(quality.tsnr(raw)),
        "dvars_before_percent": quality.dvars(raw, mean),
        "dvars_after_percent": quality.dvars(residual, mean),
    }


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None

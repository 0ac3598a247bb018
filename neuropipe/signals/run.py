"""One run from raw regional means to a clean series with its quality: everything between reading and writing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuropipe.config import Clean, Exclude
from neuropipe.errors import RunExcluded
from neuropipe.signals import quality, traces
from neuropipe.signals.clean import Cleaned, clean
from neuropipe.signals.confounds import Confounds
from neuropipe.signals.traces import Traces


@dataclass(frozen=True, eq=False)
class CleanRun:
    """A finished run, ready to be written.

    Attributes
    ----------
    series : float32 array (sample, region)
        Clean series; NaN columns are missing regions.
    n_used, coverage : arrays (region,)
        Voxels behind each region, and their share of the region; NaN for ready-made series.
    tsnr : float64 array (region,)
        Temporal signal-to-noise before cleaning; NaN for missing regions and ready-made series.
    variance_retained : float64 array (region,)
        Share of the pass-band variance that confounds left; NaN for missing regions.
    facts : dict
        What the sidecar says of the run itself, by BIDS-like keys.
    traces : Traces
        What the run looked like over time, before and after.
    """

    series: np.ndarray
    n_used: np.ndarray
    coverage: np.ndarray
    tsnr: np.ndarray
    variance_retained: np.ndarray
    facts: dict[str, Any]
    traces: Traces


def without_confounds(n_volumes: int, censored: np.ndarray | None = None, fd_mm: np.ndarray | None = None) -> Confounds:
    """Return what is regressed from a series that comes without confounds: nothing."""
    if censored is None:
        censored = np.zeros(n_volumes, dtype=bool)
    return Confounds(np.empty((n_volumes, 0)), [], censored, 0, fd_mm, 0)


def mean_signal(raw: np.ndarray, censored: np.ndarray) -> np.ndarray:
    """Return the mean over regions (time,) of series (time, region), as a regressor.

    Regions that lack a value at a volume that is kept do not count. Censored volumes, whose values are never used,
    hold the mean of the others.
    """
    whole = np.isfinite(raw[~censored]).all(axis=0)
    signal = raw[:, whole].mean(axis=1) if whole.any() else np.zeros(len(raw))
    return np.where(censored, signal[~censored].mean(), signal)


def quality_before(confounds: Confounds, t_r: float, settings: Clean) -> dict[str, Any]:
    """Return what is known of a run before its image is read: length and motion."""
    censored = confounds.censored[confounds.n_leading :]
    return {
        **quality.displacement(confounds.steady_fd_mm, settings.fd_threshold_mm),
        "censored_share": float(censored.mean()) if len(censored) else 1.0,
        "duration_s": round(len(censored) * t_r, 6),
        **kept_length(censored, t_r),
        "n_missing_regions": None,
    }


def kept_length(censored: np.ndarray, t_r: float) -> dict[str, Any]:
    """Return how much of a run is not censored, in volumes and in s."""
    n_kept = int((~censored).sum())
    return {"n_kept_volumes": n_kept, "kept_duration_s": round(n_kept * t_r, 6)}


def clean_run(
    raw: np.ndarray,
    t_r: float,
    confounds: Confounds,
    settings: Clean,
    limits: Exclude,
    *,
    n_used: np.ndarray | None = None,
    coverage: np.ndarray | None = None,
    known: Mapping[str, float] | None = None,
) -> CleanRun:
    """Clean one run and judge it.

    Parameters
    ----------
    raw : float64 array (time, region)
        Regional means; NaN for regions without voxels. A volume without any value is censored.
    t_r : float
        Seconds between volumes.
    confounds : Confounds
        Regressors and censored volumes.
    settings, limits : Clean, Exclude
        Sections of the configuration.
    n_used, coverage : arrays (region,), optional
        Voxels behind each region, and their share of the region. Of ready-made series the voxels are not
        known; nor are they in the unit of an image, so that tSNR and percent change are not either.
    known : mapping, optional
        Numbers of quality that the source states itself; they stand in for what cannot be computed here.

    Raises
    ------
    RunExcluded
        A rule of `limits` is broken, or too little is left after cleaning.
    """
    start = confounds.n_leading
    before = quality_before(confounds, t_r, settings) | dict(known or {})
    raw, censored = raw[start:].copy(), confounds.censored[start:] | ~np.isfinite(raw[start:]).any(axis=1)
    with remembered(before, lambda: motion_only(confounds, t_r)):
        quality.check(before, limits)
        if coverage is not None and limits.min_region_coverage is not None:
            raw[:, coverage < limits.min_region_coverage] = np.nan
        if not np.isfinite(raw).any():
            raise RunExcluded("no signal", "no region has signal inside the brain mask; look at the image and its mask")
    regressors, names = confounds.regressors[start:], confounds.names
    if settings.mean_signal and not censored.all():
        regressors, names = np.column_stack([regressors, mean_signal(raw, censored)]), [*names, "mean_signal"]
    in_units = n_used is not None and not censored.all()  # of an image
    tsnr = quality.tsnr(raw[~censored]) if in_units else np.full(raw.shape[1], np.nan)
    mean = raw[~censored].mean(axis=0) if in_units else None
    before |= kept_length(censored, t_r) | {
        "censored_share": float(censored.mean()),
        "mean_coverage": None if coverage is None else float(coverage.mean()),
        "tsnr_median": _median(tsnr),
    }
    seen = t_r, censored, confounds.steady_fd_mm, mean, coverage, tsnr
    with remembered(before, lambda: traces.compare(raw, None, *seen)[1]):
        cleaned = clean(raw, t_r, regressors, censored, settings, limits.min_degrees_of_freedom or 0)
    compared, over_time = traces.compare(raw, cleaned.residual, *seen)
    left, lost = cleaned.degrees_of_freedom, (cleaned.lost_to_filter, cleaned.lost_to_censoring)
    found = before | {
        "n_confounds": len(names),
        "degrees_of_freedom": left,
        **quality.lost_degrees(len(raw), left, *lost),
        "variance_retained_median": _median(cleaned.variance_retained),
        "n_missing_regions": int(np.isnan(cleaned.series).any(axis=0).sum()),
        **compared,
    }
    with remembered(found, lambda: over_time):
        quality.check(found, limits)
    unknown = np.full(raw.shape[1], np.nan)
    return CleanRun(
        series=cleaned.series.astype(np.float32),
        n_used=unknown if n_used is None else n_used,
        coverage=unknown if coverage is None else coverage,
        tsnr=tsnr,
        variance_retained=cleaned.variance_retained,
        facts=_facts(cleaned, t_r, confounds, names) | {"Quality": found},
        traces=over_time,
    )


def _facts(cleaned: Cleaned, t_r: float, confounds: Confounds, names: list[str]) -> dict[str, Any]:
    """Return what the sidecar says of a run and of what was done to it; `names` are those of its regressors."""
    return {
        "RepetitionTime": cleaned.t_r,
        "NumberOfVolumes": len(cleaned.series),
        "CensoredVolumes": np.flatnonzero(cleaned.censored).tolist(),
        "PassBand": [round(edge, 6) for edge in cleaned.pass_band],
        "Regressors": names,
        "NumberOfFilledRegressors": confounds.n_filled,
        "NonSteadyStateVolumesRemoved": confounds.n_leading,
        "Source": {"RepetitionTime": t_r, "NumberOfVolumes": len(confounds.censored)},
    }


def motion_only(confounds: Confounds, t_r: float) -> Traces:
    """Return the traces of a run whose image was not read: its displacement."""
    return traces.without_image(t_r, confounds.censored[confounds.n_leading :], confounds.steady_fd_mm)


@contextmanager
def remembered(known: dict[str, Any], look: Callable[[], Traces]) -> Iterator[None]:
    """Give what is known of a run to the reason for which it is left out; `look` is called only then."""
    try:
        yield
    except RunExcluded as reason:
        reason.quality, reason.traces = known, look()
        raise


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None

"""Numbers that say how good a run is, and the rules that leave a run out.

Where a number has a before and an after, *before* are the regional means as they came from the image,
*after* the same volumes of the same run after cleaning, before resampling and z-scoring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from neuropipe.config import Exclude
from neuropipe.errors import RunExcluded

MIN_VOLUMES = 10  # a correlation over fewer says nothing


def displacement(fd_mm: np.ndarray | None, threshold_mm: float) -> dict[str, float | None]:
    """Return mean and maximum framewise displacement in mm, and the share of volumes above a threshold.

    The first volume has none (n/a): the share, of all volumes, counts it among those that did not move.
    """
    known = fd_mm[np.isfinite(fd_mm)] if fd_mm is not None else np.empty(0)
    if not len(known):
        return {"mean_fd_mm": None, "max_fd_mm": None, "high_motion_share": None}
    share = float((known > threshold_mm).sum() / len(fd_mm))
    return {"mean_fd_mm": float(known.mean()), "max_fd_mm": float(known.max()), "high_motion_share": share}


def tsnr(series: np.ndarray) -> np.ndarray:
    """Return the temporal signal-to-noise ratio of each region: mean over standard deviation in time.

    Parameters
    ----------
    series : array (time, region)
        Regional means in the unit of the image (not z-scored); NaN for missing regions.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = series.mean(axis=0) / series.std(axis=0)
    return np.where(np.isfinite(ratio), ratio, np.nan)


def dvars_trace(series: np.ndarray, mean: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return DVARS of every volume in percent: the root mean square over regions of the change from the volume before.

    Parameters
    ----------
    series : array (time, region)
        Any series in the unit of `mean`.
    mean : array (region,)
        Mean of each region before cleaning.
    kept : bool array (time,)
        Volumes that are not censored; only changes between two of them are known.

    Returns
    -------
    float64 array (time,)
        NaN for the first volume and where a change is not known.

    Notes
    -----
    As of Power et al. 2012 (NeuroImage 59:2142), over regions instead of voxels, each in percent of its mean.
    """
    found = np.full(len(series), np.nan)
    usable = np.isfinite(series).all(axis=0) & np.isfinite(mean) & (np.abs(mean) > 0)
    pairs = np.flatnonzero(kept[1:] & kept[:-1]) + 1
    if usable.any() and len(pairs):
        change = 100 * (series[pairs][:, usable] - series[pairs - 1][:, usable]) / mean[usable]
        found[pairs] = np.sqrt((change**2).mean(axis=1))
    return found


def correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return Pearson's correlation over the volumes where both are known; None where it is not defined."""
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < MIN_VOLUMES:
        return None
    a, b = one[both] - one[both].mean(), other[both] - other[both].mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 0 else None


def edge_motion(series: np.ndarray, fd_mm: np.ndarray, kept: np.ndarray) -> float | None:
    """Return the mean absolute correlation of framewise displacement with the co-fluctuation of two regions.

    The co-fluctuation of an edge is the product over time of its two z-scored series, whose mean is
    their correlation (Zamani Esfahlani et al. 2020, PNAS 117:28393). Its absolute correlation with
    framewise displacement, averaged over all edges, says how much the run's connectivity comes and
    goes with motion. Without any relation its expectation is about sqrt(2 / (pi n_volumes)).

    Parameters
    ----------
    series : array (time, region)
        NaN columns are missing regions.
    fd_mm : array (time,)
        NaN where unknown.
    kept : bool array (time,)
        Volumes that are not censored; only they count.

    Notes
    -----
    With f of mean zero, sum(f z_i z_j) and sum((z_i z_j)^2) are matrix products, so that the series
    of the 100,000 edges of 457 regions are never written down.
    """
    used = kept & np.isfinite(fd_mm)
    if used.sum() < MIN_VOLUMES:
        return None
    motion = fd_mm[used] - fd_mm[used].mean()
    values = series[used]
    varying = np.isfinite(values).all(axis=0)
    # What is left of a constant region is rounding.
    varying[varying] = values[:, varying].std(axis=0) > 1e-9 * np.abs(values[:, varying]).max(axis=0)
    if varying.sum() < 2 or not np.ptp(motion) > 0:
        return None
    values = values[:, varying]
    z = ((values - values.mean(axis=0)) / values.std(axis=0)).astype(np.float32)
    motion = (motion / np.sqrt(motion @ motion)).astype(np.float32)
    cross, total, squares = (motion[:, None] * z).T @ z, z.T @ z, (z**2).T @ z**2
    spread = np.maximum(squares - total**2 / len(z), np.finfo(np.float32).eps * squares)
    strength = np.abs(cross) / np.sqrt(spread)
    np.fill_diagonal(strength, 0)
    n_regions = len(strength)
    return float(strength.sum(dtype=np.float64) / (n_regions * (n_regions - 1)))


def lost_degrees(n_volumes: int, n_left: int, to_filter: int, to_censoring: int) -> dict[str, int]:
    """Return the degrees of freedom that cleaning took, in total and by cause.

    Of a run of `n_volumes`, the frequencies outside the pass-band (the mean among them) go first, then the
    censored volumes, then the confounds, each counted only for what was left to take.
    """
    total = n_volumes - n_left
    return {
        "lost_degrees_of_freedom": total,
        "lost_to_filter": to_filter,
        "lost_to_censoring": to_censoring,
        "lost_to_confounds": total - to_filter - to_censoring,
    }


# --- exclusion rules ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """One exclusion rule.

    Attributes
    ----------
    limit : str
        Key of the configuration's section ``exclude``; ``min_...`` is a lower limit, ``max_...`` an upper.
    number : str
        Key of a run's quality.
    reason, what : str
        Short reason for tables; what the number is, in words.
    """

    limit: str
    number: str
    reason: str
    what: str

    def check(self, quality: dict[str, Any], limits: Exclude) -> None:
        """Raise where the run's number is beyond the limit; a limit or a number that is null switches the rule off."""
        limit, found = getattr(limits, self.limit), quality.get(self.number)
        if limit is None or found is None:
            return
        lower = self.limit.startswith("min_")
        if found < limit if lower else found > limit:
            word = "at least" if lower else "at most"
            detail = f"{self.what}: expected {word} {limit:g}, found {found:.4g} (exclude.{self.limit})"
            raise RunExcluded(self.reason, detail)


RULES = (
    Rule("min_duration_s", "duration_s", "short run", "duration_s"),
    Rule("min_kept_duration_s", "kept_duration_s", "short after censoring", "seconds that are not censored"),
    Rule("min_volumes", "n_kept_volumes", "too few volumes", "after censoring"),
    Rule("max_mean_fd_mm", "mean_fd_mm", "motion", "mean_fd_mm"),
    Rule("max_fd_mm", "max_fd_mm", "motion peak", "max_fd_mm"),
    Rule("max_censored_share", "flagged_share", "censored volumes", "share of volumes"),
    Rule("min_degrees_of_freedom", "degrees_of_freedom", "degrees of freedom", "left after cleaning"),
    Rule("max_missing_regions", "n_missing_regions", "missing regions", "regions"),
    Rule("min_mean_coverage", "mean_coverage", "low coverage", "mean coverage of the regions"),
    Rule("min_tsnr", "tsnr_median", "low tSNR", "median over regions, before cleaning"),
    Rule("max_dvars_percent", "dvars_after_percent", "DVARS", "percent, after cleaning"),
    Rule("min_variance_retained", "variance_retained_median", "over-fitted", "share of the pass-band's variance left"),
    Rule("max_iqr_grade", "iqr_grade", "image quality", "CAT12's grade (1 excellent, 6 unacceptable)"),
    Rule("max_edge_motion", "edge_motion_after", "edges follow motion", "mean absolute correlation, after cleaning"),
)


def check(quality: dict[str, Any], limits: Exclude) -> None:
    """Apply the exclusion rules to what is known of a run's quality.

    Volumes above the displacement threshold count as censored whether or not the strategy scrubs.

    Raises
    ------
    RunExcluded
        A limit is passed; the detail has the number and the limit.
    """
    shares = [quality[key] for key in ("censored_share", "high_motion_share") if quality.get(key) is not None]
    known = quality | {"flagged_share": max(shares, default=None)}
    for rule in RULES:
        rule.check(known, limits)


def check_by_hand(participant_id: str, run_id: str, limits: Exclude) -> None:
    """Raise where the study names this run, or this person, in ``exclude.runs``."""
    if named := {participant_id, run_id} & set(limits.runs or ()):
        raise RunExcluded("by hand", f"{', '.join(sorted(named))} is listed in exclude.runs")

"""Numbers that say how good a run is, and the rules that leave a run out."""

from __future__ import annotations

from typing import Any

import numpy as np

from neuropipe.config import Exclude
from neuropipe.errors import RunExcluded


def displacement(fd_mm: np.ndarray | None, threshold_mm: float) -> dict[str, float | None]:
    """Return mean and maximum framewise displacement in mm, and the share of volumes above a threshold.

    The first volume has none (n/a) and does not count.
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


def dvars(series: np.ndarray, mean: np.ndarray, kept: np.ndarray) -> float | None:
    """Return DVARS over regions in percent: the root mean square of changes between volumes, averaged in time.

    Parameters
    ----------
    series : array (time, region)
        Any series in the unit of `mean`.
    mean : array (region,)
        Mean of each region before cleaning.
    kept : bool array (time,)
        Volumes that are not censored; only changes between two of them count.
    """
    usable = np.isfinite(series).all(axis=0) & np.isfinite(mean) & (np.abs(mean) > 0)
    pairs = kept[1:] & kept[:-1]
    if not usable.any() or not pairs.any():
        return None
    change = np.diff(100 * series[:, usable] / mean[usable], axis=0)[pairs]
    return float(np.sqrt((change**2).mean(axis=1)).mean())


def check(quality: dict[str, Any], limits: Exclude) -> None:
    """Apply the exclusion rules to a run's quality; a rule whose limit or number is null is off.

    Volumes above the displacement threshold count as censored whether or not the strategy scrubs.

    Raises
    ------
    RunExcluded
        A limit is passed; the detail has the number and the limit.
    """
    shares = [quality["censored_share"], quality["high_motion_share"]]
    flagged = max((share for share in shares if share is not None), default=None)
    rules = [
        ("short run", "duration_s", quality["duration_s"], limits.min_duration_s, "min_duration_s", -1),
        ("too few volumes", "after censoring", quality.get("n_kept_volumes"), limits.min_volumes, "min_volumes", -1),
        ("motion", "mean_fd_mm", quality["mean_fd_mm"], limits.max_mean_fd_mm, "max_mean_fd_mm", 1),
        ("censored volumes", "share of volumes", flagged, limits.max_censored_share, "max_censored_share", 1),
        (
            "missing regions",
            "regions",
            quality["n_missing_regions"],
            limits.max_missing_regions,
            "max_missing_regions",
            1,
        ),
    ]
    for reason, what, found, limit, rule, sign in rules:
        if limit is not None and found is not None and sign * found > sign * limit:
            word = "at most" if sign > 0 else "at least"
            raise RunExcluded(reason, f"{what}: expected {word} {limit:g}, found {found:.4g} (exclude.{rule})")

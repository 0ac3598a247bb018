"""What only many runs together show: motion in connectivity, sites, and runs unlike the others.

QC-FC is the correlation over people between mean framewise displacement and the strength of an
edge (Ciric et al. 2017, NeuroImage 154:174; Parkes et al. 2018, NeuroImage 171:415). Connectivity
is streamed: one run at a time in float32, five sums per edge in float64, whatever the number of runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.spatial.distance import pdist

MAX_CORRELATION = 1 - 1e-6  # Fisher's z of a perfect correlation would be infinite
MIN_PEOPLE = 10  # fewer give no QC-FC and no outliers
ALPHA = 0.05  # of the false discovery rate, and of a single edge
OUTLIER_Z = 3.5  # Iglewicz & Hoaglin 1993, How to Detect and Handle Outliers
MAD_TO_SD = 0.6745  # a normal distribution's median absolute deviation in standard deviations
# The measures in which a run may be an outlier; columns of qc/<dataset>/runs.parquet.
MAIN_MEASURES = (
    "mean_fd_mm",
    "dvars_after_percent",
    "tsnr_median",
    "mean_coverage",
    "variance_retained_median",
    "edge_motion_after",
)
SITE_MEASURES = ("mean_fd_mm", "tsnr_median", "dvars_before_percent", "dvars_after_percent", "mean_coverage")


def connectivity(series: np.ndarray, kept: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return Fisher's z of the correlation of every two regions.

    Parameters
    ----------
    series : array (time, region)
        Finite; values of regions that are missing do not matter.
    kept : bool array (time,)
        Samples that count.
    valid : bool array (region,)
        False where a region is missing.

    Returns
    -------
    float32 array (edge,)
        The upper triangle, row by row; NaN for edges of a region that is missing or constant.
    """
    values = np.asarray(series[kept], dtype=np.float32)
    values = values - values.mean(axis=0)
    length = np.sqrt((values**2).sum(axis=0))
    known = valid & (length > 0)
    values = values / np.where(known, length, 1)
    correlation = np.clip(values.T @ values, -MAX_CORRELATION, MAX_CORRELATION)
    correlation[~known] = np.nan
    correlation[:, ~known] = np.nan
    return np.arctanh(correlation[_upper(len(known))])


def _upper(n_regions: int) -> np.ndarray:
    """Return the upper triangle as a bool array, which selects in the order of `scipy`'s ``pdist``."""
    return ~np.tri(n_regions, dtype=bool)


@dataclass(frozen=True, eq=False)
class EdgeMotion:
    """QC-FC of every edge, in the order of `connectivity`.

    Attributes
    ----------
    r : float32 array (edge,)
        Correlation over people of mean displacement and Fisher's z; NaN where it is not defined.
    p : float64 array (edge,)
        Two-sided, of Student's t with n - 2 degrees of freedom.
    n_people : int64 array (edge,)
        People who have the edge.
    """

    r: np.ndarray
    p: np.ndarray
    n_people: np.ndarray


def qc_fc(people: Iterable[tuple[float, np.ndarray]]) -> EdgeMotion | None:
    """Return QC-FC from a stream of people; None without any.

    Parameters
    ----------
    people : iterable of (float, float32 array (edge,))
        Mean displacement in mm and Fisher's z of the edges (NaN where missing) of one person at a time.
    """
    n: Any = 0
    x = xx = z = zz = xz = n
    for fd_mm, edges in people:
        known = np.isfinite(edges)
        edge = np.where(known, edges, 0).astype(np.float64)
        n, x, xx = n + known, x + fd_mm * known, xx + fd_mm**2 * known
        z, zz, xz = z + edge, zz + edge**2, xz + fd_mm * edge
    if not np.any(n):
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        n = np.asarray(n, dtype=np.int64)
        vary_x, vary_z = n * xx - x**2, n * zz - z**2
        defined = (n >= MIN_PEOPLE) & (vary_x > 1e-9 * n * xx) & (vary_z > 1e-9 * n * zz)
        r = np.where(defined, np.clip((n * xz - x * z) / np.sqrt(vary_x * vary_z), -1, 1), np.nan)
        t = np.abs(r) * np.sqrt((n - 2) / (1 - r**2))
    return EdgeMotion(r.astype(np.float32), 2 * stats.t.sf(t, np.maximum(n - 2, 1)), n)


def distances(centres: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance in mm of every two regions; NaN where a centre (region, 3) is not known."""
    return pdist(centres)


def expected_median(n_people: int) -> float:
    """Return the median |r| of edges that have nothing to do with motion, from Student's t."""
    t = stats.t.ppf(0.75, n_people - 2)
    return float(t / np.sqrt(t**2 + n_people - 2))


def summary(found: EdgeMotion, distance: np.ndarray) -> dict[str, Any]:
    """Return what the field reports of QC-FC.

    Returns
    -------
    dict
        ``n_people`` and ``n_edges``; ``median_abs_r`` and its ``expected_median_abs_r`` without motion;
        ``share_significant`` (false discovery rate below 5 %, Benjamini & Hochberg 1995) and
        ``share_significant_uncorrected``; ``distance_rho``, Spearman's correlation over edges of QC-FC with
        the distance of the regions (None where centres are unknown). It has no p-value: edges that share
        a region are not independent. None where no edge has enough people.
    """
    known = np.isfinite(found.r)
    if not known.any():
        return dict.fromkeys(SUMMARY) | {"n_people": int(found.n_people.max()), "n_edges": 0}
    r, p, n_people = found.r[known], found.p[known], int(found.n_people.max())
    with_distance = np.isfinite(distance[known])
    rho = None
    if with_distance.sum() > 2:
        rho = float(stats.spearmanr(r[with_distance], distance[known][with_distance]).statistic)
    return {
        "n_people": n_people,
        "n_edges": int(known.sum()),
        "median_abs_r": float(np.median(np.abs(r))),
        "expected_median_abs_r": expected_median(n_people),
        "share_significant": float((stats.false_discovery_control(p) < ALPHA).mean()),
        "share_significant_uncorrected": float((p < ALPHA).mean()),
        "distance_rho": None if rho is None or np.isnan(rho) else rho,
    }


SUMMARY = (
    "n_people",
    "n_edges",
    "median_abs_r",
    "expected_median_abs_r",
    "share_significant",
    "share_significant_uncorrected",
    "distance_rho",
)


def site_means(runs: pd.DataFrame, measures: Iterable[str] = SITE_MEASURES) -> pd.DataFrame:
    """Return one row per site: runs, people, and the means of some measures over its runs.

    Parameters
    ----------
    runs : DataFrame
        One row per run: ``site`` (missing values count as one site without a name), ``participant_id`` and measures.
    measures : iterable of str
        Columns; those that are not there are passed over.
    """
    groups = runs.assign(site=runs["site"].fillna("")).groupby("site", sort=True)
    counts = groups["participant_id"].agg(n_runs="size", n_people="nunique")
    measures = [name for name in measures if name in runs]
    means = groups[measures].mean() if measures else pd.DataFrame(index=counts.index)
    return counts.join(means).reset_index()


def robust_z(values: np.ndarray) -> np.ndarray:
    """Return 0.6745 times the distance from the median in median absolute deviations; NaN where that is zero.

    For a normal distribution this is a z-score that outliers themselves do not widen.
    """
    known = values[np.isfinite(values)]
    if len(known) < MIN_PEOPLE:
        return np.full(len(values), np.nan)
    median = np.median(known)
    deviation = np.median(np.abs(known - median))
    return MAD_TO_SD * (values - median) / deviation if deviation > 0 else np.full(len(values), np.nan)


def outliers(runs: pd.DataFrame, measures: Iterable[str] = MAIN_MEASURES, limit: float = OUTLIER_Z) -> pd.DataFrame:
    """Return the runs whose robust z in one of some measures is beyond `limit` on either side, the farthest first.

    Parameters
    ----------
    runs : DataFrame
        One row per run: run_id, participant_id and measures.
    measures : iterable of str
        Columns; those that are not there are passed over.
    limit : float
        In robust standard deviations.

    Returns
    -------
    DataFrame
        run_id, participant_id, measure, value, median (of all runs), robust_z; one row per run and measure.
    """
    columns = ["run_id", "participant_id", "measure", "value", "median", "robust_z"]
    parts = []
    for measure in measures:
        if measure not in runs:
            continue
        values = runs[measure].to_numpy(dtype=float, na_value=np.nan)
        z = robust_z(values)
        far = np.flatnonzero(np.abs(z) > limit)
        part = runs.iloc[far][["run_id", "participant_id"]].assign(measure=measure, value=values[far])
        parts.append(part.assign(median=np.nanmedian(values) if len(far) else np.nan, robust_z=z[far]))
    if not any(map(len, parts)):
        return pd.DataFrame(columns=columns)
    found = pd.concat([part for part in parts if len(part)], ignore_index=True)
    order = found["robust_z"].abs().sort_values(ascending=False, kind="stable").index
    return found.loc[order, columns].reset_index(drop=True)

"""Cleaning of regional series: filter, regression and censoring as one projection, then resampling.

A run of T volumes is written in the T discrete cosines of its length, whose frequencies are
k / (2 T t_r). Constant, the cosines outside the pass-band (the stop-band), confounds and one spike
per censored volume are regressed together, by one least squares fit; with a spike per censored
volume the fit is that of the kept volumes. Slow cosines take the place of a linear trend, as in SPM
and fMRIPrep; where no high-pass is asked for, the trend is regressed itself. Because all of it is
one projection, filtering cannot bring back what regression took out, nor the reverse (Lindquist et
al. 2019, Human Brain Mapping 40:2358). AFNI's 3dTproject does the same with a Fourier basis.

What remains is a sum of pass-band cosines, hence known at any time, so that resampling to a common
repetition time is exact and free of aliasing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import dct

from neuropipe.errors import RunExcluded

# Regressors have length one over all frequencies; what lies below this in the pass-band is rounding.
RANK_TOLERANCE = 1e-7
# Share of a region's energy below which its residual is rounding, not signal.
CONSTANT_TOLERANCE = 1e-12
MAX_UPSAMPLING = 2.0


@dataclass(frozen=True, eq=False)
class Cleaned:
    """A clean run.

    Attributes
    ----------
    series : float64 array (sample, region)
        Resampled, and z-scored where asked; NaN for missing regions.
    residual : float64 array (time, region)
        The same before resampling and z-scoring, in the unit of the input.
    censored : bool array (sample,)
        Samples that lie within half a sampling interval of a censored volume.
    t_r : float
        Seconds between samples.
    degrees_of_freedom : int
        Pass-band cosines minus independent regressors (confounds and spikes) among them.
    pass_band : tuple of float
        Lowest and highest frequency kept, in Hz.
    variance_retained : float64 array (region,)
        Share of the pass-band variance that the regressors left; NaN for missing regions.
    """

    series: np.ndarray
    residual: np.ndarray
    censored: np.ndarray
    t_r: float
    degrees_of_freedom: int
    pass_band: tuple[float, float]
    variance_retained: np.ndarray


def pass_band(
    n_volumes: int, t_r: float, high_pass: float | None, low_pass: float | None, target_t_r: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers k of the cosines that are kept, and their frequencies in Hz.

    Above, the band ends at `low_pass`, and never beyond what the run's own and the wanted sampling
    can carry, so that resampling cannot alias.
    """
    k = np.arange(1, n_volumes)
    frequency = k / (2 * n_volumes * t_r)
    nyquist = 0.5 / max(t_r, target_t_r)
    top = min(low_pass or np.inf, nyquist)
    kept = (frequency >= (high_pass or 0) - 1e-12) & (frequency <= top + 1e-12)
    return k[kept], frequency[kept]


def cosines(k: np.ndarray, position: np.ndarray, n_volumes: int) -> np.ndarray:
    """Return orthonormal cosines (sample, k) at positions counted in volumes, which need not be whole."""
    return np.sqrt(2 / n_volumes) * np.cos(np.pi / (2 * n_volumes) * np.outer(2 * position + 1, k))


def clean(
    series: np.ndarray,
    t_r: float,
    regressors: np.ndarray,
    censored: np.ndarray,
    *,
    high_pass: float | None,
    low_pass: float | None,
    target_t_r: float | None,
    standardize: bool,
    min_degrees_of_freedom: float,
) -> Cleaned:
    """Clean the regional series of one run.

    Parameters
    ----------
    series : float64 array (time, region)
        NaN columns are missing regions; values at censored volumes do not matter.
    t_r : float
        Seconds between volumes.
    regressors : float64 array (time, regressor)
        Finite.
    censored : bool array (time,)
        Volumes that are not to be believed.
    high_pass, low_pass : float or None
        Edges of the pass-band in Hz.
    target_t_r : float or None
        Seconds between samples of the result; None keeps `t_r`.
    standardize : bool
        Z-score each region over the samples that are not censored (mean 0, population variance 1).
    min_degrees_of_freedom : float
        Fewer than these, or than one, exclude the run.

    Raises
    ------
    RunExcluded
        Too few volumes or degrees of freedom remain, or the wanted sampling is more than twice as
        fine as the run's.
    """
    n_volumes, target = len(series), target_t_r or t_r
    _check_length(n_volumes - int(censored.sum()), t_r, high_pass)
    if t_r / target > MAX_UPSAMPLING + 1e-9:
        raise RunExcluded(
            "up-sampling",
            f"expected a repetition time up to {MAX_UPSAMPLING * target:g} s for samples every {target:g} s, found "
            f"{t_r:g} s; resampling would invent data: choose a longer clean.t_r",
        )
    k, frequency = pass_band(n_volumes, t_r, high_pass, low_pass, target)
    basis = cosines(k, np.arange(n_volumes), n_volumes)
    noise = _noise_space(n_volumes, k, regressors, basis[censored].T, trend=high_pass is None)
    degrees = len(k) - noise.shape[1]
    if degrees < max(min_degrees_of_freedom, 1):
        raise RunExcluded(
            "degrees of freedom",
            f"expected at least {max(min_degrees_of_freedom, 1):g}, found {degrees} of {n_volumes}: the pass-band has "
            f"{len(k)}, {regressors.shape[1]} confounds and {int(censored.sum())} censored volumes take "
            f"{noise.shape[1]} of them; choose a leaner clean.strategy, a wider band, or lower the limit",
        )
    valid = _varying(series, censored)
    values = np.where(censored[:, None], 0.0, series[:, valid] - series[~censored][:, valid].mean(axis=0))
    in_band = dct(values, axis=0, norm="ortho")[k]  # (k, region)
    kept = in_band - noise @ (noise.T @ in_band)
    # Energies are compared with the spikes taken out of both, or censored volumes would count as variance.
    spikes = _noise_space(n_volumes, k, regressors[:, :0], basis[censored].T, trend=False)
    before = in_band - spikes @ (spikes.T @ in_band)
    energy, total = (kept**2).sum(axis=0), (values**2).sum(axis=0)
    alive = energy > CONSTANT_TOLERANCE * total
    n_samples = int(np.floor((n_volumes - 1) * t_r / target + 1e-6)) + 1
    position = np.arange(n_samples) * target / t_r
    where = np.flatnonzero(valid)[alive]
    out_censored = _near(position, censored, max(1.0, target / t_r) / 2)
    resampled = cosines(k, position, n_volumes) @ kept[:, alive]
    if standardize:
        resampled = zscore(resampled, ~out_censored)
    return Cleaned(
        series=_spread(resampled, where, series.shape[1]),
        residual=_spread(basis @ kept[:, alive], where, series.shape[1]),
        censored=out_censored,
        t_r=target,
        degrees_of_freedom=degrees,
        pass_band=(float(frequency[0]), float(frequency[-1])),
        variance_retained=_spread((energy / (before**2).sum(axis=0))[None, alive], where, series.shape[1])[0],
    )


def _check_length(n_kept: int, t_r: float, high_pass: float | None) -> None:
    """Refuse a run that is shorter than one period of the slowest frequency kept."""
    needed = int(np.ceil(1 / (high_pass * t_r) - 1e-9)) if high_pass else 3
    if n_kept < needed:
        why = (
            f" for one period of high_pass {high_pass:g} Hz; raise high_pass, or leave the run out" if high_pass else ""
        )
        raise RunExcluded(
            "too few volumes", f"expected at least {needed} usable volumes of {t_r:g} s{why}, found {n_kept}"
        )


def _noise_space(
    n_volumes: int, k: np.ndarray, regressors: np.ndarray, spikes: np.ndarray, *, trend: bool
) -> np.ndarray:
    """Return an orthonormal basis (k, rank) of what trend, regressors and spikes are in the pass-band."""
    line = np.arange(n_volumes, dtype=np.float64)[:, None]
    columns = np.concatenate([line, regressors], axis=1) if trend else regressors
    columns = columns - columns.mean(axis=0)
    length = np.linalg.norm(columns, axis=0)
    columns = columns[:, length > 0] / length[length > 0]
    in_band = np.concatenate([dct(columns, axis=0, norm="ortho")[k], spikes], axis=1)
    left, singular, _ = np.linalg.svd(in_band, full_matrices=False)
    return left[:, singular > RANK_TOLERANCE]


def _varying(series: np.ndarray, censored: np.ndarray) -> np.ndarray:
    """Return which regions have finite values that are not all the same on the kept volumes."""
    kept = series[~censored]
    finite = np.isfinite(kept).all(axis=0)
    spread = np.ptp(np.where(finite, kept, 0.0), axis=0)
    return finite & (spread > 1e-9 * np.abs(np.where(finite, kept, 0.0)).max(axis=0))


def _near(position: np.ndarray, censored: np.ndarray, distance: float) -> np.ndarray:
    """Return which positions (in volumes) lie within `distance` volumes of a censored volume."""
    bad = np.flatnonzero(censored)
    if not len(bad):
        return np.zeros(len(position), dtype=bool)
    return (np.abs(position[:, None] - bad) <= distance + 1e-9).any(axis=1)


def _spread(values: np.ndarray, where: np.ndarray, n_regions: int) -> np.ndarray:
    """Put columns at the places of their regions; the others are NaN."""
    out = np.full((len(values), n_regions), np.nan)
    out[:, where] = values
    return out


def zscore(series: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return series (time, region) with mean 0 and population variance 1 over the `kept` samples."""
    return (series - series[kept].mean(axis=0)) / series[kept].std(axis=0)

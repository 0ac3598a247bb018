"""Cleaning in nilearn's sequence of steps: interpolate, detrend, Butterworth filter, censor, regress.

Equal to `nilearn.signal.clean` on the volumes that are kept, without importing it (which takes
seconds), and with two things that it does not do. Values are returned for the censored volumes too,
so that time goes on evenly. And every censored volume is interpolated: nilearn 0.14 forgets those
whose mirror image (volume n - 1 - i of n) is censored as well, and filters what they held.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.linalg import qr, solve_triangular
from scipy.signal import butter, detrend, sosfiltfilt

from neuropipe.errors import RunExcluded

# Below this share of the largest diagonal element a confound is a sum of others.
RANK_TOLERANCE = 1e-10


def sections(t_r: float, high_pass: float | None, low_pass: float | None, order: int) -> np.ndarray | None:
    """Return the filter's second-order sections, or None where there is nothing to filter.

    A low-pass at or beyond the run's own Nyquist frequency is none.
    """
    low_pass = low_pass if low_pass and low_pass < 0.5 / t_r * (1 - 1e-6) else None
    if high_pass and low_pass:
        return butter(order, [high_pass, low_pass], "bandpass", output="sos", fs=1 / t_r)
    if high_pass or low_pass:
        return butter(order, high_pass or low_pass, "highpass" if high_pass else "lowpass", output="sos", fs=1 / t_r)
    return None


def padding(sos: np.ndarray) -> int:
    """Return how many volumes `scipy.signal.sosfiltfilt` adds at each end, by its documented default."""
    at_origin = min((sos[:, 2] == 0).sum(), (sos[:, 5] == 0).sum())
    return 3 * (2 * len(sos) + 1 - int(at_origin))


def filter_and_regress(
    series: np.ndarray, regressors: np.ndarray, censored: np.ndarray, sos: np.ndarray, *, linear_trend: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Filter series and confounds alike and regress the one on the other.

    Parameters
    ----------
    series : float64 array (time, region)
        Values at censored volumes do not matter.
    regressors : float64 array (time, regressor)
        Confounds.
    censored : bool array (time,)
        Volumes that are interpolated by a cubic spline before filtering, and left out of the regression. Those
        before the first and after the last usable volume are not filtered.
    sos : array (section, 6)
        The filter.
    linear_trend : bool
        Take a linear trend out first.

    Returns
    -------
    residual : float64 array (time, region)
        Clean series; beyond the first and the last usable volume it holds the values of these.
    filtered : float64 array (time, region)
        The same without the regression.
    mean : float64 array (region,)
        Mean before filtering, with interpolated volumes.

    Raises
    ------
    RunExcluded
        The run is too short to be continued at its ends, as forward and backward filtering needs.
    """
    usable = np.flatnonzero(~censored)
    span = slice(usable[0], usable[-1] + 1)
    n_volumes, needed = span.stop - span.start, padding(sos)
    if n_volumes <= needed:
        raise RunExcluded(
            "too few volumes",
            f"expected more than {needed} volumes from the first usable to the last for this Butterworth filter, found "
            f"{n_volumes}; lower clean.filter_order, take clean.filter: projection, or leave the run out",
        )
    n_regions = series.shape[1]
    signals = _interpolated(np.concatenate([series, regressors], axis=1), censored)[span]
    mean = signals[:, :n_regions].mean(axis=0)
    if linear_trend:
        signals = detrend(signals, axis=0)
    signals, confounds = np.split(sosfiltfilt(sos, signals, axis=0), [n_regions], axis=1)
    residual = _regress(signals, confounds, ~censored[span])
    ends = ((span.start, len(series) - span.stop), (0, 0))
    return np.pad(residual, ends, mode="edge"), np.pad(signals, ends, mode="edge"), mean


def _interpolated(values: np.ndarray, censored: np.ndarray) -> np.ndarray:
    """Return values (time, column) with those at censored volumes from a cubic spline through the others."""
    if not censored.any():
        return values
    kept = np.flatnonzero(~censored)
    out = values.copy()
    out[censored] = CubicSpline(kept, values[kept])(np.flatnonzero(censored))
    return out


def _regress(signals: np.ndarray, confounds: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return what standardised confounds, fitted on the kept volumes, leave of the signals at all volumes."""
    spread = confounds[kept].std(axis=0, ddof=1)
    usable = spread > np.finfo(np.float64).eps
    confounds = (confounds[:, usable] - confounds[kept][:, usable].mean(axis=0)) / spread[usable]
    if not confounds.shape[1]:
        return signals
    q, r, order = qr(confounds[kept], mode="economic", pivoting=True)
    diagonal = np.abs(np.diag(r))
    rank = int((diagonal > RANK_TOLERANCE * diagonal[0]).sum())
    weights = solve_triangular(r[:rank, :rank], q[:, :rank].T @ signals[kept])
    return signals - confounds[:, order[:rank]] @ weights

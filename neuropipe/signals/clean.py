"""Cleaning of regional series: filter, regression and censoring, then resampling and standardising.

By default constant, stop-band (see `band`), confounds and one spike per censored volume are
regressed together, by one least squares fit; with a spike per censored volume the fit is that of the
kept volumes. Slow cosines take the place of a linear trend, as in SPM and fMRIPrep; where no
high-pass is asked for, the trend is regressed itself. Because all of it is one projection, filtering
cannot bring back what regression took out, nor the reverse (Lindquist et al. 2019, Human Brain
Mapping 40:2358). AFNI's 3dTproject does the same with a Fourier basis. What remains is a sum of
pass-band cosines, hence known at any time: resampling is exact and free of aliasing.

`butterworth` does it in nilearn's sequence of steps instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import dct, idct

from neuropipe.config import Clean
from neuropipe.errors import RunExcluded
from neuropipe.signals.band import Freedom, noise_spaces, pass_band, resample

# Share of a region's energy below which its residual is rounding, not signal.
CONSTANT_TOLERANCE = 1e-12
MAX_UPSAMPLING = 2.0


@dataclass(frozen=True, eq=False)
class Cleaned:
    """A clean run.

    Attributes
    ----------
    series : float64 array (sample, region)
        Resampled, and standardised where asked; NaN for missing regions.
    residual : float64 array (time, region)
        The same before resampling and standardising, in the unit of the input.
    censored : bool array (sample,)
        Samples that lie within half a sampling interval of a censored volume.
    t_r : float
        Seconds between samples.
    freedom : Freedom
        What censoring, confounds and stop-band took of the volumes.
    pass_band : tuple of float
        Lowest and highest frequency kept, in Hz.
    variance_retained : float64 array (region,)
        Share of the pass-band variance that the regressors left; NaN for missing regions.
    """

    series: np.ndarray
    residual: np.ndarray
    censored: np.ndarray
    t_r: float
    freedom: Freedom
    pass_band: tuple[float, float]
    variance_retained: np.ndarray

    @property
    def degrees_of_freedom(self) -> int:
        """Degrees of freedom left."""
        return self.freedom.left

    @property
    def lost_to_filter(self) -> int:
        """Degrees of freedom that the stop-band took, with the mean, and the trend where it is regressed."""
        return self.freedom.n_stop_band

    @property
    def lost_to_censoring(self) -> int:
        """Degrees of freedom that censored volumes took; what else is missing went to the confounds."""
        return self.freedom.n_censored


@dataclass(frozen=True, eq=False)
class _Fit:
    """What filter and regression leave.

    Attributes
    ----------
    residual : float64 array (time, region)
        Clean series.
    before, after : float64 arrays (region,)
        Energy within the pass-band before and after confounds were regressed.
    mean : float64 array (region,)
        Mean before cleaning.
    """

    residual: np.ndarray
    before: np.ndarray
    after: np.ndarray
    mean: np.ndarray


def clean(
    series: np.ndarray,
    t_r: float,
    regressors: np.ndarray,
    censored: np.ndarray,
    settings: Clean,
    min_degrees_of_freedom: float = 0,
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
    settings : Clean
        Filter, pass-band, sampling and standardising.
    min_degrees_of_freedom : float
        Fewer than these, or than one, exclude the run.

    Raises
    ------
    RunExcluded
        Too few volumes or degrees of freedom remain, or the wanted sampling is more than twice as
        fine as the run's.
    """
    n_volumes, target = len(series), settings.t_r or t_r
    _check_length(n_volumes - int(censored.sum()), t_r, settings.high_pass)
    _check_sampling(t_r, target)
    k, frequency = pass_band(n_volumes, t_r, settings.high_pass, settings.low_pass, target)
    trend = settings.detrend and settings.high_pass is None
    lost, confounds, freedom = noise_spaces(n_volumes, k, regressors, censored, trend=trend)
    freedom.check(min_degrees_of_freedom)
    where = np.flatnonzero(_varying(series, censored))
    values = series[:, where]
    if (sos := _sections(settings, t_r, target)) is None:
        fit = _projected(values, censored, k, lost, confounds)
    else:
        fit = _filtered(values, regressors, censored, sos, linear_trend=settings.detrend)
    total = ((values[~censored] - fit.mean) ** 2).sum(axis=0)
    alive = fit.after > CONSTANT_TOLERANCE * total
    out = resample(fit.residual, t_r, target)
    near = _near(np.arange(len(out)) * target / t_r, censored, max(1.0, target / t_r) / 2)
    if settings.standardize == "psc":
        level = fit.mean + fit.residual[~censored].mean(axis=0)
        alive &= _has_baseline(level, values[~censored])
        out = percent_change(out, level, ~near)
    elif settings.standardize != "none":
        out = zscore(out, ~near, ddof=int(settings.standardize == "zscore_sample"))
    n_regions, where = series.shape[1], where[alive]
    return Cleaned(
        series=_spread(out[:, alive], where, n_regions),
        residual=_spread(fit.residual[:, alive], where, n_regions),
        censored=near,
        t_r=target,
        freedom=freedom,
        pass_band=(float(frequency[0]), float(frequency[-1])),
        variance_retained=_spread((fit.after[alive] / fit.before[alive])[None], where, n_regions)[0],
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


def _check_sampling(t_r: float, target: float) -> None:
    """Refuse a sampling that is much finer than the run's own."""
    if t_r / target > MAX_UPSAMPLING + 1e-9:
        raise RunExcluded(
            "up-sampling",
            f"expected a repetition time up to {MAX_UPSAMPLING * target:g} s for samples every {target:g} s, found "
            f"{t_r:g} s; resampling would invent data: choose a longer clean.t_r",
        )


def _projected(
    values: np.ndarray, censored: np.ndarray, k: np.ndarray, lost: np.ndarray, confounds: np.ndarray
) -> _Fit:
    """Project onto the pass-band, away from what is lost and from confounds; both are bases (k, rank)."""
    mean = values[~censored].mean(axis=0)
    in_band = dct(np.where(censored[:, None], 0.0, values - mean), axis=0, norm="ortho")[k]  # (k, region)
    # Energies are compared with the spikes taken out of both, or censored volumes would count as variance.
    before = in_band - lost @ (lost.T @ in_band)
    after = before - confounds @ (confounds.T @ before)
    coefficients = np.zeros_like(values)
    coefficients[k] = after
    residual = idct(coefficients, axis=0, norm="ortho")
    return _Fit(residual, (before**2).sum(axis=0), (after**2).sum(axis=0), mean)


def _sections(settings: Clean, t_r: float, target: float) -> np.ndarray | None:
    """Return the Butterworth filter, or None where none is asked for.

    Before samples are drawn apart the low-pass ends at their Nyquist frequency at the latest, for confounds too: what
    resampling cannot carry is taken out together with them.
    """
    if settings.filter != "butterworth":
        return None
    from neuropipe.signals import butterworth  # scipy.signal takes half a second that the projection need not spend

    low_pass = settings.low_pass
    if target > t_r * (1 + 1e-9):
        low_pass = min(low_pass or np.inf, 0.5 / target)
    return butterworth.sections(t_r, settings.high_pass, low_pass, settings.filter_order)


def _filtered(
    values: np.ndarray, regressors: np.ndarray, censored: np.ndarray, sos: np.ndarray, *, linear_trend: bool
) -> _Fit:
    """Filter and regress in nilearn's sequence of steps."""
    from neuropipe.signals import butterworth

    residual, filtered, mean = butterworth.filter_and_regress(
        values, regressors, censored, sos, linear_trend=linear_trend
    )
    before, after = (
        ((part - part.mean(axis=0)) ** 2).sum(axis=0) for part in (filtered[~censored], residual[~censored])
    )
    return _Fit(residual, before, after, mean)


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


def zscore(series: np.ndarray, kept: np.ndarray, ddof: int = 0) -> np.ndarray:
    """Return series (time, region) with mean 0 and variance 1 over the `kept` samples."""
    with np.errstate(invalid="ignore", divide="ignore"):  # regions of which nothing is left are dropped later
        return (series - series[kept].mean(axis=0)) / series[kept].std(axis=0, ddof=ddof)


def percent_change(series: np.ndarray, level: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return series (time, region) in percent of each region's `level`, with mean 0 over the `kept` samples."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * (series - series[kept].mean(axis=0)) / np.abs(level)


def _has_baseline(level: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return which regions have a level above their own fluctuation, of which percents can be taken."""
    found = np.abs(level) > kept.std(axis=0)
    if len(found) and not found.any():
        raise RunExcluded(
            "no baseline",
            "percent signal change needs series with a mean above their standard deviation, found none; series that "
            "were centred or standardised before take clean.standardize: zscore",
        )
    return found

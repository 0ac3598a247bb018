"""The pass-band of a run in discrete cosines: what it holds, what noise takes of it, and its value at other times.

A run of T volumes is written in the T discrete cosines of its length, whose frequencies are
k / (2 T t_r). Those outside the pass-band are the stop-band. What confounds and censored volumes
take of the pass-band is counted here, whichever filter is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import dct

from neuropipe.errors import RunExcluded

# Regressors have length one over all frequencies; what lies below this in the pass-band is rounding.
RANK_TOLERANCE = 1e-7


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


@dataclass(frozen=True)
class Freedom:
    """Where a run's degrees of freedom go.

    Attributes
    ----------
    n_volumes : int
        Volumes after non-steady ones were cut off.
    n_stop_band : int
        Cosines outside the pass-band, with the constant, and the linear trend where it is regressed.
    n_censored, n_confounds : int
        What censored volumes and confounds take beyond that: directions of the pass-band that are independent.
    named : tuple of int
        How many volumes are censored, and how many confounds are named.
    """

    n_volumes: int
    n_stop_band: int
    n_censored: int
    n_confounds: int
    named: tuple[int, int]

    @property
    def left(self) -> int:
        """Degrees of freedom of the clean series."""
        return self.n_volumes - self.n_censored - self.n_confounds - self.n_stop_band

    def __str__(self) -> str:
        counts = (self.n_censored, self.n_confounds)
        censored, confounds = (
            f"{n} {what}" + (f" (of {of}; the others add nothing)" if of > n else "")
            for n, of, what in zip(counts, self.named, ("censored", "confounds"), strict=True)
        )
        return f"{self.n_volumes} volumes - {censored} - {confounds} - {self.n_stop_band} stop-band = {self.left}"

    def check(self, at_least: float) -> None:
        """Raise `RunExcluded` where fewer than `at_least`, or than one, are left."""
        if self.left < max(at_least, 1):
            raise RunExcluded(
                "degrees of freedom",
                f"expected at least {max(at_least, 1):g}, found {self}; choose a leaner clean.strategy, a wider band, "
                "or a lower exclude.min_degrees_of_freedom",
            )


def noise_spaces(
    n_volumes: int, k: np.ndarray, regressors: np.ndarray, censored: np.ndarray, *, trend: bool
) -> tuple[np.ndarray, np.ndarray, Freedom]:
    """Return what is noise within the pass-band.

    Parameters
    ----------
    n_volumes : int
        Length of the run.
    k : int array
        The cosines of the pass-band.
    regressors : float64 array (time, regressor)
        Confounds.
    censored : bool array (time,)
        Volumes that are not to be believed; each is a regressor of its own (a spike).
    trend : bool
        Regress a linear trend.

    Returns
    -------
    lost, confounds : arrays (k, rank)
        Orthonormal bases of trend and spikes, and of what regressors add to them.
    freedom : Freedom
        The count.
    """
    spikes = cosines(k, np.flatnonzero(censored), n_volumes).T
    line = _in_band(np.arange(n_volumes, dtype=np.float64)[:, None], k) if trend else spikes[:, :0]
    lost = _orthonormal(np.concatenate([line, spikes], axis=1))
    columns = _in_band(regressors, k)
    confounds = _orthonormal(columns - lost @ (lost.T @ columns))
    n_trend = _orthonormal(line).shape[1]
    freedom = Freedom(
        n_volumes=n_volumes,
        n_stop_band=n_volumes - len(k) + n_trend,
        n_censored=lost.shape[1] - n_trend,
        n_confounds=confounds.shape[1],
        named=(int(censored.sum()), regressors.shape[1]),
    )
    return lost, confounds, freedom


def _in_band(columns: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return the cosine coefficients (k, column) of columns that were centred and brought to length one."""
    columns = columns - columns.mean(axis=0)
    length = np.linalg.norm(columns, axis=0)
    return dct(columns[:, length > 0] / length[length > 0], axis=0, norm="ortho")[k]


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, singular > RANK_TOLERANCE]


def resample(series: np.ndarray, t_r: float, target_t_r: float) -> np.ndarray:
    """Return series (time, region) at new times, from the first volume to the last.

    The series is continued as the sum of its cosines, without those that the new sampling cannot
    carry: nothing above the new Nyquist frequency comes back as something slower, and a series that
    lies within a pass-band below it is met exactly.
    """
    n_volumes = len(series)
    if abs(target_t_r - t_r) < 1e-9 * t_r:
        return series
    k, _ = pass_band(n_volumes, t_r, None, None, target_t_r)
    n_samples = int(np.floor((n_volumes - 1) * t_r / target_t_r + 1e-6)) + 1
    position = np.arange(n_samples) * target_t_r / t_r
    return series.mean(axis=0) + cosines(k, position, n_volumes) @ dct(series, axis=0, norm="ortho")[k]

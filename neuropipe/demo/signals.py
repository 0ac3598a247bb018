"""Regional series of simulated people: one spectrum for all, variance one, coupling between networks as given."""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft, next_fast_len, rfftfreq

BAND_HZ = (0.01, 0.1)
LOADING = 0.65**0.5  # correlation of every region with its network's signal; squared = FC within a network


def band_limited(n_samples: int, n_signals: int, t_r: float, rng: np.random.Generator) -> np.ndarray:
    """Return independent Gaussian signals, (n_samples, n_signals), with a flat spectrum over `BAND_HZ`, variance one.

    The spectrum in Hz does not depend on `t_r` (seconds). The signals are cut from a longer period, so that their
    ends do not join.
    """
    n_period = next_fast_len(int(1.5 * n_samples), real=True)
    frequencies = rfftfreq(n_period, t_r)
    inside = np.flatnonzero((frequencies >= BAND_HZ[0]) & (frequencies <= BAND_HZ[1]))
    spectrum = np.zeros((len(frequencies), n_signals), dtype=np.complex128)
    spectrum[inside] = rng.normal(size=(len(inside), n_signals)) + 1j * rng.normal(size=(len(inside), n_signals))
    return irfft(spectrum, n_period, axis=0)[:n_samples] * (n_period / (4 * len(inside)) ** 0.5)


def regional_series(
    couplings: np.ndarray,
    network_ids: np.ndarray,
    *,
    n_samples: int,
    t_r: float,
    rng: np.random.Generator,
    loading: float = LOADING,
) -> np.ndarray:
    """Simulate the neural part of recordings: no motion, no scanner, no noise of voxels.

    A region is ``loading`` times its network's signal plus a signal of its own with the same spectrum, so variance,
    spectrum and mean are the same for every region and person; people differ in ``couplings`` only.

    Parameters
    ----------
    couplings : ndarray of shape (n_people, n_networks, n_networks)
        Each person's correlation matrix of network signals.
    network_ids : ndarray of int, shape (n_regions,)
        Network of each region, from 0.
    n_samples : int
        Length of a recording.
    t_r : float
        Time between samples, s.
    rng : numpy Generator
    loading : float
        Correlation of a region with its network's signal, 0 to 1.

    Returns
    -------
    ndarray of float32, shape (n_people, n_samples, n_regions)
        In expectation of mean 0 and variance 1.
    """
    n_networks = couplings.shape[-1]
    series = np.empty((len(couplings), n_samples, len(network_ids)), dtype=np.float32)
    for person, mixing in enumerate(np.linalg.cholesky(couplings)):
        networks = band_limited(n_samples, n_networks, t_r, rng) @ mixing.T
        own = band_limited(n_samples, len(network_ids), t_r, rng)
        series[person] = loading * networks[:, network_ids] + (1 - loading**2) ** 0.5 * own
    return series

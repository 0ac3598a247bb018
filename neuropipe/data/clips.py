"""From a recording to clips: z-score, resample, choose starts, cut and pad. Pure numpy, (time, region) throughout."""

from __future__ import annotations

from typing import Literal

import numpy as np

EPS = 1e-8  # added to the standard deviation, as in Brain-Semantoks


def zscore(series: np.ndarray) -> np.ndarray:
    """Return `series` (time, region) as float32 with mean 0 and population standard deviation 1 per region.

    NaN is ignored and stays; a constant region becomes 0.
    """
    series = np.asarray(series, dtype=np.float32)
    mean = np.nanmean(series, axis=0, keepdims=True)
    return (series - mean) / (np.nanstd(series, axis=0, keepdims=True) + EPS)


def resample_linear(series: np.ndarray, t_r: float, target_t_r: float) -> np.ndarray:
    """Return `series` (time, region) at `target_t_r` seconds by linear interpolation.

    No filter is applied before, so a target longer than `t_r` folds fast fluctuations into slow ones:
    this is the published resampling; the pipeline's own is in `neuropipe.signals`. The new length is
    ``floor(time * t_r / target_t_r)``; a position on a sample uses the interval to its left.
    """
    n = len(series)
    factor = t_r / target_t_r
    position = np.arange(int(n * factor)) / factor  # in old samples
    left = np.clip(np.ceil(position).astype(int) - 1, 0, n - 2)
    share = (position - left)[:, None]
    return (series[left] + share * (series[left + 1] - series[left])).astype(series.dtype)


def length_before_nan(series: np.ndarray, region: int = 0) -> int:
    """Return how many samples of `series` (time, region) come before the first NaN of one region."""
    missing = np.isnan(series[:, region])
    return int(missing.argmax()) if missing.any() else len(series)


def clip_starts(
    length: int,
    n_samples: int,
    n_clips: int,
    how: Literal["uniform", "regular"],
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Return the first samples of `n_clips` clips, int64.

    Parameters
    ----------
    length, n_samples : int
        Samples of the recording and of a clip; a recording that is not longer gives zeros.
    how : {"uniform", "regular"}
        Every start drawn on its own from all that are possible, or evenly spaced, first to last.
    rng : numpy Generator, optional
        Needed for ``"uniform"`` only.
    """
    last = max(0, length - n_samples)
    if how == "regular":
        return np.floor(np.linspace(0, last, n_clips)).astype(np.int64)
    return rng.integers(0, last, n_clips, endpoint=True)


def cut(series: np.ndarray, starts: np.ndarray, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut clips of `n_samples` out of `series` (time, region).

    Returns
    -------
    clips : float32 array (clip, n_samples, region)
        Zero beyond the end of the recording.
    valid : bool array (clip, n_samples)
        False there.
    """
    index = np.asarray(starts)[:, None] + np.arange(n_samples)
    valid = index < len(series)
    clips = series[np.minimum(index, len(series) - 1)].astype(np.float32)
    clips[~valid] = 0
    return clips, valid

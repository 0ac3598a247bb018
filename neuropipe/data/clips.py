"""From a recording to clips: z-score, resample, choose starts, cut and pad. Pure numpy, (time, region) throughout."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.shards.read import Shards

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


@dataclass(frozen=True, eq=False)
class LabelledClips:
    """Labelled clips as arrays, ready for a decoder.

    Attributes
    ----------
    series : float32 array (clip, n_samples, region)
        Zero where `valid_time` or `valid_region` is False.
    valid_time : bool array (clip, n_samples)
        False beyond a clip's end and at censored samples.
    valid_region : bool array (clip, region)
        False where the recording lacks the region.
    label : int64 array (clip,)
        Place in the label map.
    person : str array (clip,)
        participant_id.
    table : DataFrame
        The rows of ``clips.parquet``, one per clip.
    """

    series: np.ndarray
    valid_time: np.ndarray
    valid_region: np.ndarray
    label: np.ndarray
    person: np.ndarray
    table: pd.DataFrame


def labelled_clips(shards: Shards, n_samples: int, people: Collection[str] | None = None) -> LabelledClips:
    """Cut the labelled clips of a dataset out of its shards, each from its first sample on.

    Parameters
    ----------
    shards : Shards
        With ``clips.parquet`` beside the manifest.
    n_samples : int
        Samples of every clip: longer ones are cut at their end, shorter ones padded.
    people : collection of str, optional
        participant_id of whom to take; default everyone.

    Raises
    ------
    InputError
        There are no clips of these people, or the clips belong to other shards.
    """
    table = shards.clips
    if people is not None:
        table = table[table["participant_id"].isin(set(people))].reset_index(drop=True)
    if table.empty:
        raise InputError(f"None of the chosen people has a labelled clip in {shards.folder}; choose others.")
    places = pd.Series(np.arange(len(shards)), index=shards.manifest["key"]).reindex(table["sample"])
    lengths = shards.manifest["n_timepoints"].reindex(places.to_numpy()).to_numpy()
    if not (table["first_sample"] + table["n_samples"] <= lengths).all():
        raise InputError(f"{shards.folder / 'clips.parquet'} was made from other shards; run `neuropipe clips` again.")
    place = places.to_numpy(np.int64)
    offset = np.arange(n_samples)
    series = np.zeros((len(table), n_samples, len(shards.regions)), dtype=np.float32)
    valid_time = offset < table["n_samples"].to_numpy()[:, None]  # (clip, time)
    for k, (i, first, n) in enumerate(zip(place, table["first_sample"], table["n_samples"], strict=True)):
        valid_time[k] &= ~np.isin(first + offset, shards.censored(i))
        held = shards.series(i)[first : first + min(n, n_samples)]
        series[k, : len(held)] = held * valid_time[k, : len(held), None]
    return LabelledClips(
        series=series,
        valid_time=valid_time,
        valid_region=np.stack([shards.valid_regions(i) for i in place]),
        label=table["label_id"].to_numpy(np.int64),
        person=table["participant_id"].to_numpy(str),
        table=table,
    )

"""Features of labelled clips for linear readouts: mean pattern, connectivity, confounds, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from neuropipe.data.batch import Batch
from neuropipe.evaluate.features import Features, confound_design, fisher_z
from neuropipe.evaluate.trials import Trials
from neuropipe.models.base import ClipSpec

MOST_ROWS = 64  # clips that go through a network at once
FEWEST_SAMPLES = 3  # of a correlation
PLACE = ("source", "position", "first_sample", "n_samples")  # where a clip lies


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip as it was recorded: series (time, region), and which samples and regions are valid (bool)."""

    series: np.ndarray
    valid_time: np.ndarray
    valid_region: np.ndarray


def read_clip(trials: Trials, i: int) -> Clip:
    """Return clip `i` out of its memory-mapped recording, float32; censored samples are marked."""
    number, position, first, n = (trials.table[name].iat[i] for name in PLACE)
    source = trials.sources[number]
    valid = ~np.isin(np.arange(first, first + n), source.censored(position))
    series = np.asarray(source.series(position)[first : first + n], dtype=np.float32)
    return Clip(series, valid, source.valid_regions(position))


def per_clip(trials: Trials, measure: Callable[[Clip], np.ndarray]) -> Features:
    """Return what `measure` says of every clip, one row each; its features share one unit."""
    return Features(np.stack([measure(read_clip(trials, i)) for i in range(len(trials))]), scaled=False)


def mean_pattern(clip: Clip) -> np.ndarray:
    """Return each region's mean over the valid samples, float32 (region,); NaN where it is missing."""
    known = clip.valid_region & clip.valid_time.any()
    total = clip.series[clip.valid_time].sum(axis=0, dtype=np.float64)
    return np.where(known, total / max(clip.valid_time.sum(), 1), np.nan).astype(np.float32)


def connectivity(clip: Clip) -> np.ndarray:
    """Return Fisher's z of all pairs of regions over the valid samples, float32; NaN in clips that are too short."""
    series = clip.series[clip.valid_time]
    if len(series) < FEWEST_SAMPLES:
        n = series.shape[1]
        return np.full(n * (n - 1) // 2, np.nan, dtype=np.float32)
    return fisher_z(series, clip.valid_region).astype(np.float32)


def confounds(trials: Trials, names: list[str]) -> Features:
    """Return what may tell a clip's label without its values: length, share censored, motion of its recording.

    Parameters
    ----------
    names : list of str
        The task's own confounds of persons (see `features.confound_names`).
    """
    table, people = trials.table, trials.question.people
    columns = [table["n_samples"] * trials.t_r(), table["censored_share"], trials.of_recording("mean_fd")]
    design = np.stack([np.asarray(column, dtype=float) for column in columns], axis=1)
    if names:
        design = np.concatenate([design, confound_design(people, names).values[table["row"]]], axis=1)
    return Features(design)


@torch.inference_mode()
def embeddings(model: nn.Module, trials: Trials, spec: ClipSpec, device: torch.device) -> Features:
    """Return a network's embedding of every clip.

    A clip that is shorter than what the family reads is padded at its end, and the padding is marked; a longer one is
    read in windows that share it evenly, and their embeddings are averaged.

    Parameters
    ----------
    model : Module
        A family's model; it is put into evaluation mode.
    """
    model.eval().to(device)
    of_clip, parts = [], []
    for batch, numbers in _batches(trials, spec.n_samples):
        parts.append(model.embed(batch.to(device)).float().cpu().numpy())
        of_clip.append(numbers)
    rows = pd.DataFrame(np.concatenate(parts)).groupby(np.concatenate(of_clip), sort=True).mean()
    return Features(rows.to_numpy(np.float64))


def _batches(trials: Trials, n_samples: int) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yield batches of windows of `n_samples` with the number of each window's clip, in the order of clips."""
    held: list[tuple[int, Clip]] = []
    for i in range(len(trials)):
        held += [(i, window) for window in windows(read_clip(trials, i), n_samples)]
        while len(held) >= MOST_ROWS or (held and i == len(trials) - 1):
            part, held = held[:MOST_ROWS], held[MOST_ROWS:]
            numbers = np.array([number for number, _ in part])
            yield batch_of([clip for _, clip in part], trials.t_r(numbers), n_samples), numbers


def windows(clip: Clip, n_samples: int) -> list[Clip]:
    """Cut a clip into the fewest windows of at most `n_samples` that cover it, evenly spaced."""
    n = len(clip.series)
    starts = np.floor(np.linspace(0, max(0, n - n_samples), -(-n // n_samples))).astype(int)
    cuts = [slice(start, start + n_samples) for start in starts]
    return [Clip(clip.series[cut], clip.valid_time[cut], clip.valid_region) for cut in cuts]


def batch_of(
    clips: list[Clip], t_r: np.ndarray, n_samples: int, labels: dict[str, torch.Tensor] | None = None
) -> Batch:
    """Return clips of at most `n_samples` as one batch, padded at their ends with zeros that are marked.

    Parameters
    ----------
    t_r : ndarray (n_clips,)
        Repetition times, s.
    labels : dict of str to tensor (n_clips,), optional
    """
    series = np.zeros((len(clips), n_samples, clips[0].series.shape[1]), dtype=np.float32)
    valid_time = np.zeros((len(clips), n_samples), dtype=bool)
    for k, clip in enumerate(clips):
        series[k, : len(clip.series)] = clip.series * clip.valid_time[:, None]
        valid_time[k, : len(clip.series)] = clip.valid_time
    zeros = torch.zeros(len(clips), dtype=torch.int64)
    return Batch(
        person=zeros,
        dataset=zeros,
        site=zeros - 1,
        series=torch.from_numpy(series),
        valid_time=torch.from_numpy(valid_time),
        valid_region=torch.from_numpy(np.stack([clip.valid_region for clip in clips])),
        t_r=torch.from_numpy(t_r.astype(np.float32)),
        labels=labels or {},
    )

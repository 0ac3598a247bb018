"""Embeddings of people: clips and slices averaged to recordings and scans, and these to persons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import nn

from neuropipe.data.batch import Batch
from neuropipe.data.source import Source
from neuropipe.models.base import Spec

MOST_ROWS = 64  # clips or slices that go through a network at once


@torch.inference_mode()
def embed_people(model: nn.Module, source: Source, spec: Spec, n_clips: int | None) -> pd.DataFrame:
    """Return one row per person: ``dataset, participant_id, n_recordings, e0, e1, ...`` (float32).

    Parameters
    ----------
    model : Module
        A family's model; it is put into evaluation mode.
    source : Source
        The people to embed. One sample after the other is read, so that memory is bounded.
    spec : Spec
        What the family reads.
    n_clips : int or None
        Clips per recording, or slices per scan, evenly spaced; fewer where there are not as many, None for all.
        Every recording or scan of a person weighs the same.
    """
    return mean_of_people(embed_recordings(model, source, spec, n_clips))


@torch.inference_mode()
def embed_recordings(model: nn.Module, source: Source, spec: Spec, n_clips: int | None) -> pd.DataFrame:
    """Return one row per recording or scan: ``dataset, participant_id, key, e0, e1, ...``; see `embed_people`."""
    model.eval()
    values = np.stack([_embed(model, source.evaluation_batch(i, spec, n_clips)) for i in source])
    about = source.table[["dataset", "participant_id", "key"]]
    return pd.concat([about, pd.DataFrame(values).add_prefix("e")], axis=1)


def mean_of_people(recordings: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each person's rows of `embed_recordings`, float32, with ``n_recordings``."""
    grouped = recordings.drop(columns="key").groupby(["dataset", "participant_id"], sort=True)
    means = grouped.mean().astype(np.float32)
    means.insert(0, "n_recordings", grouped.size())
    return means.reset_index()


def with_several(recordings: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `embed_recordings` of people who have several."""
    several = recordings.duplicated(["participant_id"], keep=False)
    return recordings[several].reset_index(drop=True)


@torch.inference_mode()
def tokens_of_people(model: nn.Module, source: Source, spec: Spec, n_clips: int | None) -> np.ndarray:
    """Return everyone's mean tokens, float16 (person, token, dim), in the order of `embed_people`.

    Clips are averaged to recordings and these to persons, token by token, as far as a token is there; NaN where it
    never is. Arguments as in `embed_people`; the family offers ``tokens(batch)``.
    """
    model.eval()
    people = source.table.groupby(["dataset", "participant_id"], sort=True).indices
    return np.stack(
        [
            _mean([_tokens(model, source.evaluation_batch(int(i), spec, n_clips)) for i in rows])
            for rows in people.values()
        ]
    ).astype(np.float16)


def _tokens(model: nn.Module, batch: Batch) -> np.ndarray:
    """Return the mean tokens (token, dim) of the rows of `batch`."""
    parts = [model.tokens(batch.rows(rows)) for rows in torch.arange(len(batch), device=batch.device).split(MOST_ROWS)]
    tokens, present = (torch.cat(values) for values in zip(*parts, strict=True))
    return _mean(list(tokens.float().masked_fill(~present[:, :, None], torch.nan).cpu().numpy()))


def _mean(values: list[np.ndarray]) -> np.ndarray:
    """Return the mean of arrays where they are known; NaN where none is."""
    known = [np.isfinite(value) for value in values]
    total = np.sum([np.where(k, v, 0) for k, v in zip(known, values, strict=True)], axis=0)
    count = np.sum(known, axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _embed(model: nn.Module, batch: Batch) -> np.ndarray:
    """Return the mean embedding of the rows of `batch`."""
    rows = torch.arange(len(batch), device=batch.device).split(MOST_ROWS)
    parts = [batch] if len(rows) == 1 else [batch.rows(part) for part in rows]
    return torch.cat([model.embed(part).float() for part in parts]).mean(0).cpu().numpy()

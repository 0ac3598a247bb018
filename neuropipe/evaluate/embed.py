"""Embeddings of people: evenly spaced clips, averaged to recordings, then to persons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import nn

from neuropipe.data.source import Source


@torch.inference_mode()
def embed_people(model: nn.Module, source: Source, n_samples: int, n_clips: int) -> pd.DataFrame:
    """Return one row per person: ``dataset, participant_id, n_recordings, e0, e1, ...`` (float32).

    Parameters
    ----------
    model : Module
        A family's model; it is put into evaluation mode.
    source : Source
        The people to embed.
    n_samples : int
        Length of a clip, in samples.
    n_clips : int
        Clips per recording, evenly spaced; fewer where it is short. Every recording of a person
        weighs the same.
    """
    model.eval()
    recordings = [
        model.embed(source.evaluation_clips(i, n_samples, n_clips)).float().mean(0).cpu().numpy() for i in source
    ]
    values = pd.DataFrame(np.stack(recordings)).add_prefix("e")
    table = pd.concat([source.table[["dataset", "participant_id"]], values], axis=1)
    grouped = table.groupby(["dataset", "participant_id"], sort=True)
    means = grouped.mean().astype(np.float32)
    means.insert(0, "n_recordings", grouped.size())
    return means.reset_index()

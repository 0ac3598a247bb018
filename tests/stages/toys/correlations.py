"""A family of one's own, outside the package: how regions correlate, seen through one linear map."""

from __future__ import annotations

import torch
from torch import nn

from neuropipe.models.base import ClipSpec, ModelConfig


class Config(ModelConfig):
    """Two clips of a recording per person."""

    n_samples: int = 60
    """Length of a clip in samples."""

    def reads(self) -> ClipSpec:
        return ClipSpec(self.n_samples, n_views=2)


class Model(nn.Module):
    def __init__(self, config, regions):
        super().__init__()
        self.config, self.embed_dim = config, 8
        self.register_buffer("pairs", torch.triu_indices(len(regions), len(regions), 1), persistent=False)
        self.map = nn.Linear(self.pairs.shape[1], self.embed_dim)

    def embed(self, batch):
        products = batch.series.transpose(1, 2) @ batch.series / batch.series.shape[1]
        return self.map(products[:, self.pairs[0], self.pairs[1]])

    def loss(self, batch, generator, progress):
        first, second = self.embed(batch).unflatten(0, (2, -1))
        return {"loss": (first - second).square().mean()}

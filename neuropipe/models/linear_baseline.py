"""The linear baseline of learning-from-brains: one weight per sample for all regions, then a linear layer.

In the release it is trained with labels only (`Model.classifier`). Here it can be pretrained too, so that it stands
beside the networks under the same protocol: the same weights over time predict the sample that follows, an
autoregression shared by all regions. What `embed` returns is the weighted sum over time, one number per region.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from neuropipe.data import chance
from neuropipe.data.batch import Batch
from neuropipe.models.base import ClipSpec, ModelConfig
from neuropipe.models.embedder import mean_error
from neuropipe.models.network import OnEmbedding
from neuropipe.signals.regions import Regions


class Config(ModelConfig):
    """Sizes of the linear baseline."""

    n_samples: int = Field(50, ge=2)
    """Length of a clip in samples, one weight for each."""
    align: Literal["end", "start"] = "end"
    """What a clip that is shorter has in common with a longer one: its last sample, so that a weight belongs to a
    distance in time, or (release) its first."""

    @classmethod
    def published(cls) -> Config:
        """Return the settings of the release."""
        return cls(align="start")

    def reads(self) -> ClipSpec:
        """One clip."""
        return ClipSpec(n_samples=self.n_samples)


class Model(nn.Module):
    """Weights over time.

    Parameters
    ----------
    config : Config
    regions : Regions
        What the columns of the series are.
    """

    def __init__(self, config: Config, regions: Regions) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = len(regions)
        self.over_time = nn.Linear(config.n_samples, 1)

    def weighted(self, series: Tensor, end: Tensor) -> Tensor:
        """Return the weighted sum over the samples before `end`, (batch, region).

        Parameters
        ----------
        series : Tensor (batch, time, region)
            Zero where nothing was measured.
        end : int64 Tensor (batch,)
        """
        n = self.config.n_samples
        position = torch.arange(series.shape[1], device=series.device)
        weight = position + (n - end[:, None] if self.config.align == "end" else 0 * end[:, None])  # (batch, time)
        there = (position < end[:, None]) & (weight >= 0) & (weight < n)
        weights = self.over_time.weight[0][weight.clamp(0, n - 1)] * there
        return torch.einsum("bt,btr->br", weights, series) + self.over_time.bias

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Return the mean absolute error of one sample of each clip, predicted from those before it."""
        series, length = batch.measured(), lengths(batch)
        share = chance.rand((len(batch),), generator)
        chosen = (1 + (share * (length - 1)).long()).clamp(max=series.shape[1] - 1)  # never the first sample
        row = torch.arange(len(batch), device=batch.device)
        counted = batch.valid_region & batch.valid_time[row, chosen, None]
        loss = mean_error(self.weighted(series, chosen), series[row, chosen], counted)
        return {"loss": loss, "prediction": loss.detach(), "weight": counted.sum()}

    def embed(self, batch: Batch) -> Tensor:
        """Return the weighted sum over each clip, (batch, region); zero where a region is missing."""
        return self.weighted(batch.measured(), lengths(batch)) * batch.valid_region

    def classifier(self, n_outputs: int, drop_rate: float | None = None) -> OnEmbedding:
        """Return the released model: a linear layer behind the weighted sum, and nothing between."""
        network = OnEmbedding(self, n_outputs, drop_rate or 0.0)
        network.norm = nn.Identity()
        return network


def lengths(batch: Batch) -> Tensor:
    """Return where the last valid sample of every clip ends, int64 (batch,)."""
    end = torch.arange(1, batch.valid_time.shape[1] + 1, device=batch.device)
    return (end * batch.valid_time).amax(1)

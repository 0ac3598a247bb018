"""Network-BERT: Sequence-BERT with whole regions hidden instead of time points (learning-from-brains).

The same regions are hidden in all samples of a window, and rebuilt from the others.

Defaults are corrected where the release has a defect; `Config.published` reproduces the release.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from neuropipe.models import sequence_bert


class Config(sequence_bert.Config):
    """As in `sequence_bert`, for regions."""

    mask_share: float = Field(0.1, gt=0, lt=1)
    """Odds of a region to be hidden."""
    at_least_one: bool = True
    """Hide the likeliest region where chance hides none; in the release such a batch has no loss."""


class Model(sequence_bert.Model):
    """The family `network_bert`; parameters and attributes as in `sequence_bert.Model`."""

    def mask_shape(self, n_regions: int) -> tuple[int, ...]:
        """Return the shape of what stands for hidden entries: one number, or one per sample (release)."""
        return (1, self.config.n_positions if self.config.time_embedding == "table" else 1, 1)

    def draw_mask(self, attend: Tensor, region: Tensor, generator: torch.Generator) -> Tensor:
        """Return what is hidden, bool (batch, 1, region): regions among those that a recording has."""
        config = self.config
        return sequence_bert.draw_hidden(region, config.mask_share, config.at_least_one, generator)[:, None, :]

    def mask_values(self, joined: sequence_bert.Joined) -> Tensor:
        """Return what stands for hidden entries, by the place among the samples of both parts where it counts.

        It is zero where nothing was measured: there a region is hidden too, but nothing is to be rebuilt.
        """
        values = self.embedder.tokens["mask"]
        values = values if values.shape[1] == 1 else values[0, joined.order]
        return values * joined.attend[:, :, None]

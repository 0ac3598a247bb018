"""Checkpoints of CSM; see `learning_from_brains`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from neuropipe.hub.layouts import learning_from_brains as shared
from neuropipe.hub.layouts.learning_from_brains import SECTION, released_regions
from neuropipe.models.csm import Config, Model
from neuropipe.models.embedder import DecodingNetwork
from neuropipe.signals.regions import Regions

__all__ = ["SECTION", "decoder", "read", "released_regions"]


def read(weights: Mapping[str, Tensor], regions: Regions | None, config: Config | None) -> Model:
    """Return the pretrained model; see `learning_from_brains.read`."""
    return shared.read(Model(config or Config.published(), regions or released_regions()), weights)


def decoder(weights: Mapping[str, Tensor], regions: Regions | None, config: Config | None) -> DecodingNetwork:
    """Return the model with the head that it was trained to decode with; see `learning_from_brains.decoder`."""
    return shared.decoder(Model(config or Config.published(), regions or released_regions()), weights)

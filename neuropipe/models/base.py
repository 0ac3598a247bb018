"""The contract that every family keeps: a frozen config, a loss to train by, an embedding to judge by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from neuropipe.data.batch import Batch


@dataclass(frozen=True)
class ClipSpec:
    """How `neuropipe.data.clips` cuts recordings for a family.

    Attributes
    ----------
    n_samples : int
        Length of a clip in samples of the data's repetition time.
    n_views : int
        Clips drawn from one recording per training sample.
    starts : {"uniform", "regular"}
        Each start drawn on its own from all possible ones, or evenly spaced over the recording.
    """

    n_samples: int
    n_views: int = 1
    starts: Literal["uniform", "regular"] = "uniform"


class ModelConfig(BaseModel, ABC):
    """Base of every family's ``Config``: frozen, unknown keys refused, units in attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @abstractmethod
    def clips(self) -> ClipSpec:
        """Return how recordings are cut for training."""


@runtime_checkable
class Family(Protocol):
    """What the loop and the evaluation call; ``models/<name>.py`` has a ``Config`` and such a ``Model``."""

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Return ``"loss"`` and its named parts; `progress` runs from 0 to 1 over training."""

    def embed(self, batch: Batch) -> Tensor:
        """Return a tensor (batch, embed_dim): deterministic, blind to padding."""

"""The contract that every family keeps: a frozen config, a loss to train by, an embedding to judge by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

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
    n_copies : int
        Augmented copies of every row that the loss makes, one after the other.
    """

    content: ClassVar[str] = "series"
    n_samples: int
    n_views: int = 1
    starts: Literal["uniform", "regular"] = "uniform"
    n_copies: int = 1


@dataclass(frozen=True)
class VolumeSpec:
    """What volumes a family reads.

    Attributes
    ----------
    shape : tuple of int, optional
        The only size (x, y, z) that it accepts; None where any will do.
    n_views : int
        Scans of one person per training sample.
    n_copies : int
        Augmented copies of every scan that the loss makes, one after the other.
    """

    content: ClassVar[str] = "volume"
    shape: tuple[int, int, int] | None = None
    n_views: int = 1
    n_copies: int = 1


@dataclass(frozen=True)
class ImageSpec:
    """What images a family reads; attributes as in `VolumeSpec`, `shape` is (row, column)."""

    content: ClassVar[str] = "image"
    shape: tuple[int, int] | None = None
    n_views: int = 1
    n_copies: int = 1


Spec = ClipSpec | VolumeSpec | ImageSpec  # `content` names the field of `Batch` that is filled


class ModelConfig(BaseModel, ABC):
    """Base of every family's ``Config``: frozen, unknown keys refused, units in attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @abstractmethod
    def reads(self) -> Spec:
        """Return what a batch holds for training: clips of series, volumes, or images."""

    def labels(self) -> dict[str, Literal["number", "category"]]:
        """Return the columns of participants.tsv that the training loss needs in ``Batch.labels``, by kind."""
        return {}


@runtime_checkable
class Family(Protocol):
    """What the loop and the evaluation call; ``models/<name>.py`` has a ``Config`` and such a ``Model``.

    A family may offer more: ``parts()``, the parameters that `embed` reads by name, for freezing; ``classifier``, a
    network for tasks of its own; ``tokens(batch)``, frozen tokens (batch, n_tokens, dim) for the attentive readout
    with a bool tensor (batch, n_tokens) that is False where a token has no data, of equal numbers for every batch.
    """

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Return ``"loss"`` and its named parts; `progress` runs from 0 to 1 over training.

        Rows are drawn for with `neuropipe.data.chance`, and compared with those of other processes with
        `neuropipe.models.together`. Where the loss is a mean over a number that is not that of people, it may return
        this number as ``"weight"``: pieces of a batch are then averaged by it.
        """

    def embed(self, batch: Batch) -> Tensor:
        """Return a tensor (batch, embed_dim): deterministic, blind to padding and to ``train()``."""

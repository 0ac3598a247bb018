"""Augmentations of clips on the device: regions and a block of time set to zero, a common scale, noise.

What is drawn and what is done with it are separate, so that `apply` can be checked against draws
made elsewhere. The strengths are those of Brain-Semantoks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from neuropipe.data import chance

# Ranges of the share that is drawn per clip; index = level - 1.
REGION_SHARE = ((0.0, 0.1), (0.1, 0.3), (0.25, 0.5))
TIME_SHARE = ((0.0, 0.3), (0.2, 0.4), (0.3, 0.6))
SCALE = ((0.8, 1.2), (0.6, 1.4), (0.4, 1.6))
NOISE_SD = (0.1, 0.2, 0.4)


class Levels(BaseModel):
    """Strength of each augmentation, 0 (off) to 3."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    spatial: int = Field(1, ge=0, le=3)
    """Regions set to zero over the whole clip."""
    temporal: int = Field(1, ge=0, le=3)
    """One block of time set to zero in all regions."""
    scale: int = Field(1, ge=0, le=3)
    """One factor for the whole clip."""
    noise: int = Field(1, ge=0, le=3)
    """White noise, added last and everywhere; its standard deviation is 0.1, 0.2 or 0.4 z-units."""


@dataclass(frozen=True)
class Draws:
    """What was drawn for a batch of clips; None where an augmentation is off.

    Attributes
    ----------
    drop_region : bool tensor (batch, region)
    drop_time : bool tensor (batch, time)
    scale : float tensor (batch,)
    noise : float tensor (batch, time, region)
    """

    drop_region: Tensor | None = None
    drop_time: Tensor | None = None
    scale: Tensor | None = None
    noise: Tensor | None = None


def apply(series: Tensor, draws: Draws) -> Tensor:
    """Return the augmented `series` (batch, time, region): regions, block of time, scale, noise, in this order."""
    if draws.drop_region is not None:
        series = series.masked_fill(draws.drop_region[:, None, :], 0)
    if draws.drop_time is not None:
        series = series.masked_fill(draws.drop_time[:, :, None], 0)
    if draws.scale is not None:
        series = series * draws.scale[:, None, None]
    if draws.noise is not None:
        series = series + draws.noise
    return series


def draw(shape: tuple[int, int, int], levels: Levels, generator: torch.Generator) -> Draws:
    """Draw for clips of `shape` (batch, time, region), each clip on its own, on the generator's device."""
    batch, time, region = shape

    def uniform(interval: tuple[float, float], *size: int) -> Tensor:
        low, high = interval
        return low + (high - low) * chance.rand(size, generator)

    drop_region = drop_time = scale = noise = None
    if levels.spatial:
        n_dropped = (uniform(REGION_SHARE[levels.spatial - 1], batch) * region).floor().clamp(min=1)
        drop_region = random_ranks(batch, region, generator) < n_dropped[:, None]
    if levels.temporal:
        length = (uniform(TIME_SHARE[levels.temporal - 1], batch) * time).floor().clamp(min=1)
        drop_time = random_block(length, time, generator)
    if levels.scale:
        scale = uniform(SCALE[levels.scale - 1], batch)
    if levels.noise:
        noise = NOISE_SD[levels.noise - 1] * chance.randn(shape, generator)
    return Draws(drop_region, drop_time, scale, noise)


def random_ranks(batch: int, n: int, generator: torch.Generator) -> Tensor:
    """Return a random permutation of 0..n-1 in each row, int64 (batch, n)."""
    return chance.rand((batch, n), generator).argsort(dim=1).argsort(dim=1)


def random_block(length: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return a bool tensor (batch, n) that is True on one block of `length` (batch,) per row.

    The start is uniform over all places where the block fits.
    """
    share = chance.rand(length.shape, generator)
    start = (share * (n - length + 1)).floor().clamp(max=n - length)
    position = torch.arange(n, device=generator.device)
    return (position >= start[:, None]) & (position < (start + length)[:, None])

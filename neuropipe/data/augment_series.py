"""Augmentations of the contrast between recordings: scale, noise in a band, a gap in time, a gap in frequency.

Everything is drawn on the device from the generator that is passed in, for every clip and region on its own.
"""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from neuropipe.data import chance
from neuropipe.data.augment import random_block


class Policy(BaseModel):
    """What may happen to a view; series are in z-units."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    scale: tuple[float, float] = (0.8, 1.2)
    """Range of the factor on a region's series; equal ends fix it."""
    noise_sd: float = Field(0.1, ge=0)
    """Standard deviation of the noise in z-units; 0 adds none."""
    noise_band_hz: tuple[float, float] | None = (0.01, 0.1)
    """Band of the noise; null is white."""
    time_mask: float = Field(0.2, ge=0, lt=1)
    """Largest share of a clip that one block of zeros, the same in all regions, covers; 0 hides nothing."""
    frequency_mask_hz: float = Field(0.01, ge=0)
    """Width of the band that is removed, somewhere between 0 and the Nyquist frequency; 0 removes none."""
    surrogate: bool = False
    """Negative control: the phases of every region are drawn anew, each for itself. Spectra stay, how regions go
    together does not; a model that learns as well from surrogates has learned spectra."""


def apply(series: Tensor, t_r: Tensor, policy: Policy, generator: torch.Generator) -> Tensor:
    """Return augmented clips.

    Parameters
    ----------
    series : float tensor (batch, time, region)
    t_r : float tensor (batch,)
        Repetition times in seconds.
    policy : Policy
    generator : torch.Generator
        On the device of `series`.
    """
    batch, time, region = series.shape
    if policy.surrogate:
        series = surrogate(series, generator)
    if policy.frequency_mask_hz:
        series = without_band(series, t_r, policy.frequency_mask_hz, generator)
    if policy.scale != (1.0, 1.0):
        low, high = policy.scale
        series = series * (low + (high - low) * _uniform(series, generator, batch, 1, region))
    if policy.noise_sd:
        series = series + policy.noise_sd * noise(series, t_r, policy.noise_band_hz, generator)
    if policy.time_mask:
        length = (_uniform(series, generator, batch) * policy.time_mask * time).floor()
        series = series.masked_fill(random_block(length, time, generator)[:, :, None], 0)
    return series


def noise(like: Tensor, t_r: Tensor, band_hz: tuple[float, float] | None, generator: torch.Generator) -> Tensor:
    """Return Gaussian noise of unit variance as `like` (batch, time, region), within a band where one is given.

    A clip that is too short to have a frequency in the band gets none.
    """
    white = chance.randn(like.shape, generator, dtype=like.dtype)
    if band_hz is None:
        return white
    frequency = frequencies(like.shape[1], t_r)
    inside = (frequency >= band_hz[0]) & (frequency <= band_hz[1])
    banded = torch.fft.irfft(torch.fft.rfft(white, dim=1) * inside[:, :, None], n=like.shape[1], dim=1)
    return banded / banded.std(1, correction=0, keepdim=True).clamp(min=1e-6)


def without_band(series: Tensor, t_r: Tensor, width_hz: float, generator: torch.Generator) -> Tensor:
    """Remove a band of `width_hz` from every clip; its lower end is uniform over what leaves it below Nyquist."""
    nyquist = 0.5 / t_r
    low = (_uniform(series, generator, len(series)) * (nyquist - width_hz).clamp(min=0))[:, None]
    frequency = frequencies(series.shape[1], t_r)
    removed = (frequency >= low) & (frequency < low + width_hz) & (frequency > 0)
    return torch.fft.irfft(torch.fft.rfft(series, dim=1) * ~removed[:, :, None], n=series.shape[1], dim=1)


def surrogate(series: Tensor, generator: torch.Generator) -> Tensor:
    """Return series with the same amplitude at every frequency and phases drawn anew (Theiler 1992).

    The mean, and at an even length the Nyquist frequency, have no phase to draw and stay.
    """
    spectrum = torch.fft.rfft(series, dim=1)
    turn = torch.exp(2j * math.pi * _uniform(series, generator, *spectrum.shape))
    turn[:, 0] = 1
    if series.shape[1] % 2 == 0:
        turn[:, -1] = 1
    return torch.fft.irfft(spectrum * turn, n=series.shape[1], dim=1)


def frequencies(n_samples: int, t_r: Tensor) -> Tensor:
    """Return the frequencies of a real Fourier transform in Hz, (batch, n_samples // 2 + 1)."""
    return torch.arange(n_samples // 2 + 1, device=t_r.device) / (n_samples * t_r[:, None])


def _uniform(like: Tensor, generator: torch.Generator, *shape: int) -> Tensor:
    return chance.rand(shape, generator, dtype=like.dtype)

"""2-D images: read at their own depth, fitted without stretching, z-scored, flipped and cropped on the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neuropipe.data import chance
from neuropipe.volumes import pictures

EPS = 1e-8  # added to the standard deviation
FOREGROUND_SHARE = 0.05  # of the range of an image: what is brighter than this above its darkest pixel is no background


def read(source: Path | bytes) -> Tensor:
    """Return the brightness of an image file, float32 (row, column); see `pictures.read`."""
    return torch.from_numpy(pictures.read(source))


def read_published(source: Path | bytes, shape: tuple[int, int]) -> Tensor:
    """Return an image file as NeuroSSL reads it: 8-bit luma stretched to `shape`, uint8 (row, column).

    Deeper greys are clipped at 255 and the aspect is lost; `read` and `fit` do neither.
    """
    from PIL import Image

    image = pictures.decoded(source).convert("L").resize(shape[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))


def fit(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return `image` (..., row, column) at `shape`: scaled without stretching, the rest filled with its minimum.

    Scaling is linear with a filter as wide as a pixel of the result, so that nothing aliases.
    """
    found = image.shape[-2:]
    scale = min(new / old for new, old in zip(shape, found, strict=True))
    inner = [min(new, max(1, round(scale * old))) for new, old in zip(shape, found, strict=True)]
    planes = image.reshape(-1, 1, *found).to(torch.get_default_dtype())
    if tuple(found) != tuple(inner):
        planes = F.interpolate(planes, inner, mode="bilinear", antialias=True)
    out = planes.amin((-2, -1), keepdim=True).repeat(1, 1, *shape)
    top, left = ((new - own) // 2 for new, own in zip(shape, inner, strict=True))
    out[..., top : top + inner[0], left : left + inner[1]] = planes
    return out.view(*image.shape[:-2], *shape)


def zscore(images: Tensor, foreground: bool = True, eps: float = EPS) -> Tensor:
    """Return `images` (batch, channel, row, column), each less its mean and over its unbiased standard deviation.

    With `foreground` both are taken over what is brighter than background; the whole image is mapped
    either way. A constant image becomes 0.
    """
    rows = images.flatten(1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    inside = rows > low + FOREGROUND_SHARE * (high - low) if foreground else torch.ones_like(rows, dtype=torch.bool)
    n = inside.sum(1, keepdim=True)
    centred = rows - (rows * inside).sum(1, keepdim=True) / n.clamp(min=1)
    sd = ((centred.square() * inside).sum(1, keepdim=True) / (n - 1).clamp(min=1)).sqrt()
    sd = torch.where(sd > 1e-6 * (high - low), sd, high - low)  # a foreground of one value has no deviation
    return (centred / (sd + eps)).masked_fill(high <= low, 0).view(images.shape)


def augment(images: Tensor, flip: float, crop_area: Sequence[float], generator: torch.Generator) -> Tensor:
    """Return a mirrored and cropped copy of `images` (batch, channel, row, column), each drawn on its own.

    Parameters
    ----------
    images : tensor
    flip : float
        Probability that columns are reversed.
    crop_area : (float, float)
        Range of the share of the image's area that is cut out, with its aspect, and enlarged to the whole.
    generator : torch.Generator
        On the device of `images`.
    """
    coin, area, *place = chance.rand((4, len(images)), generator, axis=1)
    edge = (crop_area[0] + (crop_area[1] - crop_area[0]) * area).sqrt()
    shift_row, shift_column = ((1 - edge) * (2 * u - 1) for u in place)  # in halves of the image
    mirror = torch.where(coin < flip, -edge, edge)
    zero = torch.zeros_like(edge)
    theta = torch.stack([mirror, zero, shift_column, zero, edge, shift_row], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

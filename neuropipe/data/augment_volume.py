"""Augmentations of volumes on the device: flip, rotation, blur, noise, cutout, crop and resize.

Every function takes one volume (channel, x, y, z) and treats its channels alike without mixing them.
What is drawn (`draw`) and what is done with it (`apply`) are separate, so that the latter can be
checked against draws made elsewhere. Blur and resize are small matrix products along each axis, which
is fastest on a processor and on a GPU alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from neuropipe.data import chance

EPS = 1e-8  # added to the standard deviation, as in y-Aware
SPATIAL = (-3, -2, -1)
AXES = {"x": -3, "y": -2, "z": -1}

Axis = Literal["x", "y", "z"]
Box = tuple[slice, ...]
Share = Field(0.0, ge=0, le=1)


class Policy(BaseModel):
    """Which augmentations a view gets, each with its own probability, in the order of the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    flip: float = Share
    """Probability that one axis is reversed."""
    flip_axes: tuple[Axis, ...] = Field(("x",), min_length=1)
    """Axes to choose from; x alone is the anatomical mirror, left to right."""
    rotation: float = Share
    """Probability of a rotation about each axis."""
    rotation_deg: float = Field(10.0, ge=0)
    """Largest angle, in degrees, either way."""
    blur: float = Share
    """Probability of a Gaussian blur."""
    blur_sigma_voxels: tuple[float, float] = (0.1, 1.0)
    """Range of its standard deviation, in voxels."""
    noise: float = Share
    """Probability of white noise."""
    noise_sd: tuple[float, float] = (0.1, 1.0)
    """Range of its standard deviation, in units of the volume's own."""
    cutout: float = Share
    """Probability that a box is set to the volume's mean."""
    cutout_share: float = Field(0.25, ge=0, le=1)
    """Edge of the box over the edge of the volume."""
    crop: float = Share
    """Probability that a box is cut out and enlarged to the volume's size."""
    crop_share: float = Field(0.75, gt=0, le=1)
    """Edge of that box over the edge of the volume."""


# The recipes of the paper, with the flip from left to right only.
POLICIES = {
    "none": Policy(),
    "all": Policy(flip=0.5, blur=0.5, noise=0.5, cutout=0.5, crop=0.5),
    "cutout": Policy(cutout=1.0),
    "crop": Policy(crop=1.0),
}


@dataclass(frozen=True)
class Draws:
    """What was drawn for one view; None where an augmentation is left out.

    Attributes
    ----------
    flip : int
        Axis, -3 to -1.
    angles_deg : tuple of float
        Rotation about x, y, z.
    blur_sigma_voxels, noise_sd : float
    noise_seed : int
        Of the noise, so that no view's depends on who else has any.
    cutout, crop : tuple of slice
        Boxes of the three spatial axes.
    """

    flip: int | None = None
    angles_deg: tuple[float, ...] | None = None
    blur_sigma_voxels: float | None = None
    noise_sd: float | None = None
    noise_seed: int = 0
    cutout: Box | None = None
    crop: Box | None = None


N_NUMBERS = 19  # uniform numbers that one view consumes


def draw(policy: Policy, shape: Sequence[int], n: int, generator: torch.Generator) -> list[Draws]:
    """Draw for `n` views of spatial `shape`, each on its own; waits for the device once."""
    numbers = chance.rand((n, N_NUMBERS), generator).tolist()
    return [_draws(policy, tuple(shape), row) for row in numbers]


def _draws(policy: Policy, shape: tuple[int, ...], numbers: list[float]) -> Draws:
    """Turn one row of uniform numbers into draws; every field always consumes the same numbers."""
    coins, which, angles, sigma, sd = numbers[:6], numbers[6], numbers[7:10], numbers[10], numbers[11]
    flip, rotation, blur, noise, cut, crop = coins
    axes, most = policy.flip_axes, policy.rotation_deg
    boxes = [
        random_box(shape, box_size(shape, share), at)
        for share, at in ((policy.cutout_share, numbers[12:15]), (policy.crop_share, numbers[15:18]))
    ]
    return Draws(
        flip=AXES[axes[int(which * len(axes))]] if flip < policy.flip else None,
        angles_deg=tuple(most * (2 * u - 1) for u in angles) if rotation < policy.rotation else None,
        blur_sigma_voxels=_between(policy.blur_sigma_voxels, sigma) if blur < policy.blur else None,
        noise_sd=_between(policy.noise_sd, sd) if noise < policy.noise else None,
        noise_seed=int(numbers[18] * 2**24),
        cutout=boxes[0] if cut < policy.cutout else None,
        crop=boxes[1] if crop < policy.crop else None,
    )


def _between(interval: tuple[float, float], share: float) -> float:
    return interval[0] + (interval[1] - interval[0]) * share


def box_size(shape: Sequence[int], share: float) -> tuple[int, ...]:
    """Return the edges of a box whose share of every axis is `share`, rounded up."""
    return tuple(math.ceil(share * n) for n in shape)


def random_box(shape: Sequence[int], size: Sequence[int], numbers: Sequence[float]) -> Box:
    """Return a box of `size`, uniform over all places where it fits; `numbers` in [0, 1) choose the place."""
    starts = [int(u * (n - s + 1)) for n, s, u in zip(shape, size, numbers, strict=True)]
    return tuple(slice(start, start + s) for start, s in zip(starts, size, strict=True))


def apply(volume: Tensor, draws: Draws) -> Tensor:
    """Return a z-scored `volume` (channel, x, y, z) augmented, or itself."""
    if draws.flip is not None:
        volume = volume.flip(draws.flip)
    if draws.angles_deg is not None:
        volume = rotate(volume, draws.angles_deg)
    if draws.blur_sigma_voxels is not None:
        volume = blur(volume, draws.blur_sigma_voxels)
    if draws.noise_sd is not None:
        generator = torch.Generator(device=volume.device).manual_seed(draws.noise_seed)
        field = torch.empty_like(volume).normal_(std=draws.noise_sd, generator=generator)
        volume = field.add_(volume)
    if draws.cutout is not None:
        volume = volume.clone()
        volume[:, *draws.cutout] = 0
    if draws.crop is not None:
        volume = resize(volume[:, *draws.crop], volume.shape[1:])
    return volume


def views(volumes: Tensor, policy: Policy, n_views: int, generator: torch.Generator) -> Tensor:
    """Return `n_views` augmented copies of z-scored `volumes` (batch, channel, x, y, z), view by view.

    Returns
    -------
    tensor (n_views * batch, channel, x, y, z)
    """
    n = len(volumes)
    out = volumes.new_empty(n_views * n, *volumes.shape[1:])
    for i, draws in enumerate(draw(policy, volumes.shape[2:], n_views * n, generator)):
        out[i] = apply(volumes[i % n], draws)
    return out


# ------------------------------------------------------------------ what is done to one volume


def zscore(volume: Tensor, per_channel: bool = True, eps: float = EPS) -> Tensor:
    """Return `volume` (channel, ...) with mean 0 and population standard deviation 1, background included.

    With ``per_channel=False`` all channels share one mean and deviation, as in y-Aware. A constant
    volume becomes 0.
    """
    rows = volume.flatten(1) if per_channel else volume.reshape(1, -1)
    centred = rows - rows.mean(1, keepdim=True)
    sd = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / math.sqrt(rows.shape[1])
    return (centred / (sd + eps)).view(volume.shape)


def crop_or_pad(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the centre of `volume` (..., x, y, z) at `shape`: longer axes cropped, shorter ones filled with 0.

    Where a difference is odd, the crop starts and the padding ends one voxel later (121 to 128: 3
    before, 4 after).
    """
    found = volume.shape[-len(shape) :]
    volume = volume[..., *(centre(n, wanted) for n, wanted in zip(found, shape, strict=True))]
    missing = [wanted - n for n, wanted in zip(volume.shape[-len(shape) :], shape, strict=True)]
    sides = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
    return F.pad(volume, sides) if any(sides) else volume


def centre(n: int, size: int) -> slice:
    """Return the central `size` entries of an axis of `n`, all of it where it is shorter."""
    start = max(0, n - size) // 2
    return slice(start, start + min(n, size))


def along(volume: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply `volume` by `matrix` (new, old) along a negative `axis`."""
    if axis == -1:
        return volume @ matrix.T
    rest = volume.shape[axis + 1 :]
    return (matrix @ volume.flatten(axis + 1)).unflatten(-1, rest)


def blur(volume: Tensor, sigma_voxels: float, axes: Sequence[int] = SPATIAL, truncate: float = 4.0) -> Tensor:
    """Return `volume` under a Gaussian of `sigma_voxels` along `axes` (negative).

    The kernel ends at `truncate` standard deviations; beyond its ends an axis is mirrored, the last
    voxel repeated (scipy's ``reflect``).
    """
    for axis in axes:
        matrix = gaussian_matrix(volume.shape[axis], sigma_voxels, truncate, volume.device)
        volume = along(volume, matrix.to(volume.dtype), axis)
    return volume


def gaussian_matrix(n: int, sigma: float, truncate: float, device: torch.device | None = None) -> Tensor:
    """Return the blur along an axis of `n` as a matrix, float64 (n, n)."""
    radius = int(truncate * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1, device=device)
    weight = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    position = (torch.arange(n, device=device)[:, None] + offset) % (2 * n)  # a mirrored axis repeats after 2 n
    position = torch.where(position < n, position, 2 * n - 1 - position)
    spread = (weight / weight.sum()).expand(n, -1)
    return torch.zeros(n, n, dtype=torch.float64, device=device).scatter_add_(1, position, spread)


def resize(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Return `volume` with its last axes at `shape` by linear interpolation between voxel centres, without a filter."""
    for back, n in enumerate(reversed(shape), 1):
        if volume.shape[-back] != n:
            matrix = resize_matrix(volume.shape[-back], n, device=volume.device)
            volume = along(volume, matrix.to(volume.dtype), -back)
    return volume


@functools.lru_cache(maxsize=64)  # a policy always asks for the same three
def resize_matrix(n: int, new: int, device: torch.device | None = None) -> Tensor:
    """Return linear interpolation from `n` to `new` voxels as a matrix, float64 (new, n).

    Beyond the outermost centres the axis is mirrored about them (scikit-image's ``resize``).
    """
    centre_of = (torch.arange(new, dtype=torch.float64, device=device) + 0.5) * n / new - 0.5
    centre_of = (n - 1) - ((n - 1) - centre_of.abs()).abs()
    left = centre_of.floor().clamp(0, max(n - 2, 0)).long()
    share = centre_of - left
    matrix = torch.zeros(new, n, dtype=torch.float64, device=device)
    matrix.scatter_add_(1, left[:, None], (1 - share)[:, None])
    return matrix.scatter_add_(1, (left + 1).clamp(max=n - 1)[:, None], share[:, None])


def rician(volume: Tensor, real: Tensor, imaginary: Tensor) -> Tensor:
    """Return the magnitude of `volume` with noise in both parts of the complex signal."""
    return ((volume + real).square() + imaginary.square()).sqrt()


def rotate(volume: Tensor, angles_deg: Sequence[float]) -> Tensor:
    """Return `volume` (channel, x, y, z) turned by `angles_deg` about x, then y, then z, about its centre.

    A positive angle about z turns x towards y (and so on, cyclically). Linear interpolation; the
    outermost voxels are repeated beyond the volume.
    """
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(angles_deg):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3, dtype=torch.float64)
        turn[a, a] = turn[b, b] = math.cos(math.radians(angle))
        turn[b, a] = math.sin(math.radians(angle))
        turn[a, b] = -turn[b, a]
        matrix = turn @ matrix
    half = torch.tensor([(n - 1) / 2 for n in volume.shape[1:]], dtype=torch.float64)
    # From a voxel of the result back to the volume, in units of half an axis; grid_sample counts axes from z to x.
    back = matrix.T * half / half[:, None]
    theta = F.pad(back.flip(0, 1), (0, 1))[None].to(volume)
    grid = F.affine_grid(theta, [1, *volume.shape], align_corners=True)
    return F.grid_sample(volume[None], grid, padding_mode="border", align_corners=True)[0]

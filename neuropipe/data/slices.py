"""2-D slices: cut from volumes when they are read, or taken from stored stacks, fitted to the family's size.

A slice is drawn as in a neurological view: the first row is the most superior (of an axial slice the most anterior),
columns run from left to right (of a sagittal slice from posterior to anterior).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from neuropipe.data import image
from neuropipe.data.batch import Batch
from neuropipe.data.labels import LabelKind
from neuropipe.data.samples import Samples, scaling, torch_dtype
from neuropipe.data.volumes import common_grid
from neuropipe.errors import InputError
from neuropipe.models.base import ImageSpec
from neuropipe.shards.read import Shards

NORMALS = {"sagittal": 0, "coronal": 1, "axial": 2}  # axis of a volume in RAS order that a plane is perpendicular to
Part = Annotated[float, Field(ge=0, le=1)]


class Slicing(BaseModel):
    """How slices are cut from volumes; stored stacks (kind ``images``) are taken as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    """Plane of a slice."""
    range: tuple[Part, Part] = (0.3, 0.7)
    """First and last slice, as shares of the field of view from inferior (posterior, left) on."""
    step: Annotated[int, Field(ge=1)] = 1
    """Voxels from one slice to the next."""

    @field_validator("range")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"the first share must not be larger than the last, found {value}")
        return value

    def positions(self, n: int) -> np.ndarray:
        """Return the positions (int64) of the slices of a field of view of `n` voxels."""
        first, last = (round(share * (n - 1)) for share in self.range)
        return np.arange(first, last + 1, self.step)


def stack(volume: np.ndarray, plane: str) -> np.ndarray:
    """Return a view of `volume` (x, y, z in RAS order) as slices of a plane, (slice, row, column).

    Slices are in the order of their axis; see the module for rows and columns.
    """
    return np.moveaxis(volume, NORMALS[plane], 0).transpose(0, 2, 1)[:, ::-1]


class Slices(Samples):
    """Slices of the chosen people; slices without any contrast are left out.

    Slices travel and rest as they are stored (float16, uint8), and become float32 and fit on the device.

    Parameters
    ----------
    datasets, people, sites, device, labels
        See `Samples`; volumes lie on the same grid, stacks have the same rows and columns.
    residence : {"device", "mapped"}
        ``device``: the wanted slices in the device's memory; ``mapped``: read from memory-mapped shards batch by
        batch, for data that do not fit.
    slicing : Slicing, optional
        How volumes are cut.
    """

    content = "image"

    def __init__(
        self,
        datasets: Sequence[Shards],
        people: pd.DataFrame | None = None,
        sites: dict[str, str | None] | None = None,
        device: torch.device | str = "cpu",
        residence: Literal["device", "mapped"] = "device",
        labels: Mapping[str, LabelKind] | None = None,
        slicing: Slicing | None = None,
    ) -> None:
        super().__init__(datasets, people, sites, device, labels)
        self.slicing: Slicing | None = None
        self.pixel_mm = (1.0, 1.0)  # height and width of a pixel; of stacks only their ratio is known, and it is one
        if self.datasets[0].content == "volume":
            self.slicing = slicing or Slicing()
            self.grid = common_grid(self.datasets, self.table)
            x, y, z = self.grid.voxel_mm
            self.pixel_mm = {"sagittal": (z, y), "coronal": (z, x), "axial": (y, x)}[self.slicing.plane]
        self.scale, self.shift = (values.to(self.device) for values in scaling(self.table))
        self.dtype = torch_dtype(self.table)
        self.shape = self._common_shape()
        self._usable: dict[int, np.ndarray] = {}
        self.bank: Tensor | None = None
        if residence == "device":
            self.bank = self._load()

    def _common_shape(self) -> tuple[int, int]:
        """Return the rows and columns that all stored slices have."""
        if self.slicing is not None:
            return self._slices(0).shape[1:]
        shapes = {
            tuple(map(int, shape[1:])): key for key, shape in zip(self.table["key"], self.table["shape"], strict=True)
        }
        if len(shapes) > 1:
            found = "; ".join(f"{shape} ({key})" for shape, key in shapes.items())
            raise InputError(f"Expected slices of one size (row, column), found {found}. Use one volumes: image_size:.")
        return next(iter(shapes))

    def _slices(self, i: int) -> np.ndarray:
        """Return all slices of scan `i` as stored, a view (slice, row, column)."""
        return self.stored(i) if self.slicing is None else stack(self.stored(i), self.slicing.plane)

    def _wanted(self, i: int) -> np.ndarray:
        """Return the positions of the slices of scan `i` that are asked for, empty ones too."""
        shape = self.table["shape"].iat[i]
        return (
            np.arange(shape[0]) if self.slicing is None else self.slicing.positions(shape[NORMALS[self.slicing.plane]])
        )

    def usable(self, i: int) -> np.ndarray:
        """Return the positions (int64) of the slices of scan `i` that are asked for and not empty.

        Raises
        ------
        InputError
            There is none.
        """
        if i not in self._usable:
            wanted, slices = self._wanted(i), self._slices(i)
            there = np.array([bool((slices[k] != slices[k, 0, 0]).any()) for k in wanted])
            if not there.any():
                raise InputError(
                    f"{self.table['key'].iat[i]}: expected at least one slice with contrast among {len(wanted)}, found "
                    "none. Widen slices: range: in the recipe, or exclude the scan."
                )
            self._usable[i] = wanted[there]
        return self._usable[i]

    def _load(self) -> Tensor:
        """Return the usable slices of all scans one after the other, (slice, row, column), on the device."""
        most = sum(len(self._wanted(i)) for i in self)
        bank = torch.empty((most, *self.shape), dtype=self.dtype, device=self.device)
        self._first = np.zeros(len(self), dtype=np.int64)  # of each scan in the bank
        n = 0
        for i in self:
            slices = np.ascontiguousarray(self._slices(i)[self.usable(i)])
            bank[n : n + len(slices)] = torch.from_numpy(slices)
            self._first[i], n = n, n + len(slices)
        return bank[:n]

    def batch(self, chosen: np.ndarray, places: np.ndarray, spec: ImageSpec, n_views: int = 1) -> Batch:
        """Return slice ``usable(i)[place]`` of each scan `i` in `chosen`, float32 (slice, 1, row, column)."""
        if self.bank is not None:
            stored = self.bank[torch.from_numpy(self._first[chosen] + places).to(self.device)]
        else:
            stored = torch.empty((len(chosen), *self.shape), dtype=self.dtype)
            for k, (i, place) in enumerate(zip(chosen, places, strict=True)):
                stored[k] = torch.from_numpy(self._slices(i)[self.usable(i)[place]].copy())
            stored = stored.to(self.device)
        rows = torch.from_numpy(chosen).to(self.device)
        scale, shift = (values[rows].view(-1, 1, 1) for values in (self.scale, self.shift))
        images = square((stored.float() * scale + shift)[:, None], self.pixel_mm)
        images = images if spec.shape is None else image.fit(images, spec.shape)
        return Batch(image=images, n_views=n_views, **self.facts(chosen))

    def training_batch(self, spec: ImageSpec, batch_size: int, seed: int, step: int) -> Batch:
        """Return the batch of `step`: `spec.n_views` slices of one scan of each of its people."""
        chosen, rng = self.drawn(batch_size, seed, step)
        places = np.stack([rng.integers(len(self.usable(i)), size=spec.n_views) for i in chosen], axis=1)
        return self.batch(np.tile(chosen, spec.n_views), places.reshape(-1), spec, spec.n_views)

    def evaluation_batch(self, i: int, spec: ImageSpec, n_clips: int | None = None) -> Batch:
        """Return `n_clips` evenly spaced slices of scan `i`: the middle ones of as many equal parts.

        All of them where there are not more, or where `n_clips` is None.
        """
        n = len(self.usable(i))
        n_clips = min(n_clips or n, n)
        places = ((np.arange(n_clips) + 0.5) * n / n_clips).astype(np.int64)
        return self.batch(np.full(n_clips, i), places, spec)


def square(images: Tensor, pixel_mm: tuple[float, float]) -> Tensor:
    """Return `images` (batch, channel, row, column) with pixels as wide as they are high, the finer edge kept."""
    edge = min(pixel_mm)
    shape = [round(n * own / edge) for n, own in zip(images.shape[-2:], pixel_mm, strict=True)]
    return images if shape == list(images.shape[-2:]) else F.interpolate(images, shape, mode="bilinear", antialias=True)

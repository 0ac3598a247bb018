"""Whole maps of anatomy: a bank in the device's memory, or memory-mapped shards, with one face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuropipe.data.batch import Batch
from neuropipe.data.labels import LabelKind
from neuropipe.data.samples import Samples, scaling, torch_dtype
from neuropipe.errors import InputError
from neuropipe.models.base import VolumeSpec
from neuropipe.shards.read import Grid, Shards


class Volumes(Samples):
    """Maps of the chosen people, all on one grid.

    Maps travel and rest as they are stored (float16, uint8) and become float32 on the device.

    Parameters
    ----------
    datasets, people, sites, device, labels
        See `Samples`; all datasets lie on the same grid.
    residence : {"device", "mapped"}
        ``device``: every map in the device's memory (4 MB each in float16 at 1.5 mm); ``mapped``: read from
        memory-mapped shards batch by batch, for data that do not fit.
    """

    content = "volume"

    def __init__(
        self,
        datasets: Sequence[Shards],
        people: pd.DataFrame | None = None,
        sites: dict[str, str | None] | None = None,
        device: torch.device | str = "cpu",
        residence: Literal["device", "mapped"] = "device",
        labels: Mapping[str, LabelKind] | None = None,
    ) -> None:
        super().__init__(datasets, people, sites, device, labels)
        self.grid = common_grid(self.datasets, self.table)
        self.scale, self.shift = (values.to(self.device) for values in scaling(self.table))
        self.dtype = torch_dtype(self.table)
        self.bank = self._stack(np.arange(len(self)), self.device) if residence == "device" else None

    def _stack(self, chosen: np.ndarray, device: torch.device | str) -> Tensor:
        """Return maps as they are stored, (map, x, y, z), read one after the other."""
        maps = torch.empty((len(chosen), *self.grid.shape), dtype=self.dtype, device=device)
        for k, i in enumerate(chosen):
            maps[k] = torch.from_numpy(np.array(self.stored(i)))
        return maps

    def batch(self, chosen: np.ndarray, spec: VolumeSpec, n_views: int = 1) -> Batch:
        """Return the maps `chosen` as one batch, float32 (map, 1, x, y, z).

        Raises
        ------
        InputError
            The family reads another size.
        """
        if spec.shape is not None and tuple(spec.shape) != tuple(self.grid.shape):
            raise InputError(
                f"Expected volumes of {tuple(spec.shape)} voxels, which the family reads, found {self.grid}. Set "
                "volumes: size: in the study's configuration, or the family's own size in the recipe."
            )
        rows = torch.from_numpy(chosen).to(self.device)
        stored = self._stack(chosen, "cpu").to(self.device) if self.bank is None else self.bank[rows]
        scale, shift = (values[rows].view(-1, 1, 1, 1) for values in (self.scale, self.shift))
        return Batch(volume=(stored.float() * scale + shift)[:, None], n_views=n_views, **self.facts(chosen))

    def training_batch(self, spec: VolumeSpec, batch_size: int, seed: int, step: int) -> Batch:
        """Return the batch of `step`: `spec.n_views` scans of each of its people.

        They are different scans, as long as the person has as many.
        """
        chosen, rng = self.drawn(batch_size, seed, step)
        views = [chosen]
        for _ in range(1, spec.n_views):
            views.append(np.array([self._another(person, rng) for person in zip(*views, strict=True)]))
        return self.batch(np.concatenate(views), spec, spec.n_views)

    def _another(self, seen: tuple[int, ...], rng: np.random.Generator) -> int:
        """Return a scan of the person whose scans `seen` are, one that is not seen yet where there is one."""
        own = self.of_person[self.table["person"].iat[seen[0]]]
        fresh = np.setdiff1d(own, seen)
        return int(rng.choice(fresh if len(fresh) else own))

    def evaluation_batch(self, i: int, spec: VolumeSpec, n_clips: int | None = None) -> Batch:
        """Return map `i` alone; it has no clips, `n_clips` says nothing here."""
        return self.batch(np.array([i]), spec)


def common_grid(datasets: Sequence[Shards], table: pd.DataFrame) -> Grid:
    """Return the grid that all volumes lie on.

    Raises
    ------
    InputError
        Datasets lie on different grids, or a volume has another shape than its grid.
    """
    grid = datasets[0].grid
    for shards in datasets[1:]:
        grid.check_same(shards.grid, f"{shards.dataset} beside {datasets[0].dataset}")
    for key, shape in zip(table["key"], table["shape"], strict=True):
        if (found := tuple(map(int, shape))) != tuple(grid.shape):
            raise InputError(f"{key}: expected the shape {tuple(grid.shape)} of grid.json, found {found}; shard again.")
    return grid

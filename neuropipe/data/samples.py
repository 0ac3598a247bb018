"""What recordings, volumes and slices have in common: whose they are, and what is known of these people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuropipe.data import order
from neuropipe.data.labels import LabelKind, label_values, samples
from neuropipe.shards.read import Grid, Shards
from neuropipe.signals.regions import Regions

Mixture = Literal["proportional", "balanced"]


class Samples:
    """The samples of the chosen people; a subclass makes batches of them.

    Parameters
    ----------
    datasets : sequence of Shards
        Folders of shards of one content.
    people : DataFrame with ``dataset`` and ``participant_id``, optional
        Whom to keep; default everyone.
    sites : dict of str to str, optional
        Site column per dataset.
    device : torch.device or str
        Where batches are made.
    labels : mapping of str to {"number", "category"}, optional
        Columns of participants.tsv that ``Batch.labels`` holds.

    Attributes
    ----------
    table : DataFrame
        One row per sample, sorted by person; see `neuropipe.data.labels.samples`.
    of_person : list of int array
        Rows of `table` of each person.
    labels : dict of str to tensor (sample,)
    regions : Regions, optional
        What the columns of series are.
    grid : Grid, optional
        Where the voxels of volumes lie.
    mixture : {"proportional", "balanced"}
        Whether every person makes as much of the batches, or every dataset; see `neuropipe.data.order`.
    """

    content: ClassVar[str]  # the field of `Batch` that is filled
    regions: Regions | None = None
    grid: Grid | None = None
    mixture: Mixture = "proportional"

    def __init__(
        self,
        datasets: Sequence[Shards],
        people: pd.DataFrame | None = None,
        sites: dict[str, str | None] | None = None,
        device: torch.device | str = "cpu",
        labels: Mapping[str, LabelKind] | None = None,
    ) -> None:
        self.datasets = list(datasets)
        self.table = samples(self.datasets, people, sites)
        self.device = torch.device(device)
        of_person = self.table.groupby("person").indices
        self.of_person = [of_person[code] for code in sorted(of_person)]
        self.labels = label_values(self.datasets, self.table, labels)
        self._codes = {
            name: torch.tensor(self.table[column].to_numpy())
            for name, column in (("person", "person"), ("dataset", "dataset_code"), ("site", "site"))
        }

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    @property
    def n_people(self) -> int:
        """Number of distinct people."""
        return len(self.of_person)

    @cached_property
    def of_dataset(self) -> list[np.ndarray]:
        """The people (int64) of every dataset that has any, by name."""
        code = self.table["dataset_code"].to_numpy()[[rows[0] for rows in self.of_person]]
        return [np.flatnonzero(code == one) for one in np.unique(code)]

    def shards(self, i: int) -> Shards:
        """Return the dataset of sample `i`."""
        return self.datasets[self.table["source"].iat[i]]

    def row(self, i: int) -> int:
        """Return the row of sample `i` in the manifest of its dataset."""
        return int(self.table["position"].iat[i])

    def stored(self, i: int) -> np.ndarray:
        """Return sample `i` as it lies in its shard, a read-only memory map."""
        return self.shards(i).array(self.row(i))

    def facts(self, chosen: np.ndarray) -> dict[str, Any]:
        """Return codes and labels of the samples `chosen`, on the device, as `Batch` takes them."""
        found: dict[str, Any] = {name: values[chosen].to(self.device) for name, values in self._codes.items()}
        return found | {"labels": {name: values[chosen].to(self.device) for name, values in self.labels.items()}}

    def drawn(self, batch_size: int, seed: int, step: int) -> tuple[np.ndarray, np.random.Generator]:
        """Return one sample (int64) of each person of the batch of `step`, and the generator of all further draws."""
        if self.mixture == "balanced":
            people = order.balanced_people(self.of_dataset, batch_size, seed, step)
        else:
            people = order.batch_people(self.n_people, batch_size, seed, step)
        rng = order.step_rng(seed, step)
        of_person = [self.of_person[person] for person in people]
        return np.array([rows[rng.integers(len(rows))] for rows in of_person]), rng


class Decoder:
    """From stored numbers to what was measured, on the device: float32, times scale plus shift.

    Parameters
    ----------
    table : DataFrame
        Of `Samples`.
    device : torch.device
    """

    def __init__(self, table: pd.DataFrame, device: torch.device) -> None:
        stored = np.result_type(*map(np.dtype, table["dtype"].unique()))
        self.dtype = torch.from_numpy(np.empty(0, stored)).dtype  # holds the values of every sample
        scale, shift = (table[name].to_numpy(np.float32) for name in ("scale", "shift"))
        self.plain = bool((scale == 1).all() and (shift == 0).all())
        self.scale, self.shift = torch.tensor(scale, device=device), torch.tensor(shift, device=device)

    def __call__(self, stored: Tensor, chosen: np.ndarray) -> Tensor:
        """Return the values of `stored` (row, ...), of which row ``k`` is of sample ``chosen[k]``."""
        values = stored.to(torch.float32, copy=True)
        if self.plain:
            return values
        rows = torch.from_numpy(chosen).to(self.scale.device)
        scale, shift = (numbers[rows].view(-1, *[1] * (stored.dim() - 1)) for numbers in (self.scale, self.shift))
        return values.mul_(scale).add_(shift)

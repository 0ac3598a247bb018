"""What a model sees: one minibatch of series, volumes or images, with what it may ignore at its peril marked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A minibatch; exactly one of `series`, `volume` and `image` is there.

    Views are stacked along the first axis, view by view: with ``n_views=2`` row ``i`` and row
    ``batch + i`` are two clips (scans, slices) of the same person; ``series.unflatten(0, (n_views, -1))``
    gives ``(view, batch, time, region)``.

    Attributes
    ----------
    person, dataset, site : int64 tensor (n_views * batch,)
        Codes; -1 where unknown.
    series : float tensor (n_views * batch, time, region), optional
        Z-scored series; padding and missing regions are zero *and* marked in `valid_*`.
    valid_time : bool tensor (n_views * batch, time)
        Beside `series`: False at padding and censored volumes.
    valid_region : bool tensor (n_views * batch, region)
        Beside `series`: False where a recording lacks the region.
    t_r : float tensor (n_views * batch,)
        Beside `series`: repetition time in seconds.
    volume : float tensor (n_views * batch, 1, x, y, z), optional
        Maps in RAS order: the first spatial axis runs from left to right.
    image : float tensor (n_views * batch, 1, row, column), optional
        Slices.
    labels : dict of str to tensor (n_views * batch,)
        What the task or the family's ``Config.labels()`` asks for: float with NaN, or int64 codes
        with -1, where unknown.
    n_views : int
        Rows per person in this batch.
    whole : Batch, optional
        The batch that these people were taken from, where it was cut in pieces.
    """

    person: Tensor
    dataset: Tensor
    site: Tensor
    series: Tensor | None = None
    valid_time: Tensor | None = None
    valid_region: Tensor | None = None
    t_r: Tensor | None = None
    volume: Tensor | None = None
    image: Tensor | None = None
    labels: dict[str, Tensor] = field(default_factory=dict)
    n_views: int = 1
    whole: Batch | None = None

    def __len__(self) -> int:
        """Return the number of rows, all views counted."""
        return len(self.person)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.person.device

    @property
    def n_people(self) -> int:
        """Number of rows of one view."""
        return len(self) // self.n_views

    def measured(self) -> Tensor:
        """Return `series` with zeros wherever it is marked as not measured, whatever stands there.

        It is the series itself, not a copy, where everything was measured (see `throughout`).
        """
        if throughout(self.valid_time) and throughout(self.valid_region):
            return self.series
        return self.series.masked_fill(~(self.valid_time[:, :, None] & self.valid_region[:, None, :]), 0)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, chosen: Tensor) -> Batch:
        """Return the rows `chosen` (int64, on the batch's device) of every tensor."""
        return self._each(lambda tensor: tensor[chosen])

    def people(self, mine: slice) -> Batch:
        """Return the rows of some people, all views of each; it remembers the whole."""
        cut = self._each(lambda tensor: tensor.unflatten(0, (self.n_views, -1))[:, mine].flatten(0, 1))
        return replace(cut, whole=self)

    def _each(self, change) -> Batch:
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: change(v) for name, v in own.items() if isinstance(v, Tensor)}
        return replace(self, **changed, labels={name: change(v) for name, v in self.labels.items()})

    @classmethod
    def of_series(cls, series: Tensor, t_r: float = 2.0, n_views: int = 1) -> Batch:
        """Wrap plain series of shape (batch, time, region), all valid, people numbered from 0."""
        n, time, region = series.shape
        return cls(
            **_codes(series, n_views),
            series=series,
            valid_time=torch.ones(n, time, dtype=torch.bool, device=series.device),
            valid_region=torch.ones(n, region, dtype=torch.bool, device=series.device),
            t_r=torch.full((n,), t_r, device=series.device),
            n_views=n_views,
        )

    @classmethod
    def of_volumes(cls, volume: Tensor, labels: dict[str, Tensor] | None = None, n_views: int = 1) -> Batch:
        """Wrap plain volumes of shape (batch, 1, x, y, z), people numbered from 0."""
        return cls(**_codes(volume, n_views), volume=volume, labels=labels or {}, n_views=n_views)

    @classmethod
    def of_images(cls, image: Tensor, labels: dict[str, Tensor] | None = None, n_views: int = 1) -> Batch:
        """Wrap plain images of shape (batch, 1, row, column), people numbered from 0."""
        return cls(**_codes(image, n_views), image=image, labels=labels or {}, n_views=n_views)


def throughout(mask: Tensor) -> bool:
    """Return whether a bool mask on the processor holds everywhere; of one on a GPU, which would be waited for, False.

    Where it holds, what it would leave out need not be copied.
    """
    return mask.device.type == "cpu" and bool(mask.numpy().all())


def _codes(content: Tensor, n_views: int) -> dict[str, Tensor]:
    """Return the codes of people who are known by their position only."""
    person = torch.arange(len(content), device=content.device) % (len(content) // n_views)
    return {"person": person, "dataset": torch.zeros_like(person), "site": torch.full_like(person, -1)}

"""What a model sees: one minibatch of clips with everything it may ignore at its peril marked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A minibatch of series.

    Views are stacked along the first axis, view by view: with ``n_views=2`` row ``i`` and row
    ``batch + i`` are two clips of the same recording; ``series.unflatten(0, (n_views, -1))``
    gives ``(view, batch, time, region)``.

    Attributes
    ----------
    series : float tensor (n_views * batch, time, region)
        Z-scored series; padding and missing regions are zero *and* marked in `valid_*`.
    valid_time : bool tensor (n_views * batch, time)
        False at padding and censored volumes.
    valid_region : bool tensor (n_views * batch, region)
        False where a recording lacks the region.
    t_r : float tensor (n_views * batch,)
        Repetition time in seconds.
    person, dataset, site : int64 tensor (n_views * batch,)
        Codes; -1 where unknown.
    labels : dict of str to tensor
        Targets, where a task asks for them.
    n_views : int
        Clips per recording in this batch.
    """

    series: Tensor
    valid_time: Tensor
    valid_region: Tensor
    t_r: Tensor
    person: Tensor
    dataset: Tensor
    site: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)
    n_views: int = 1

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {k: v.to(device, non_blocking=True) for k, v in moved.items() if isinstance(v, Tensor)}
        return replace(self, **tensors, labels={k: v.to(device) for k, v in self.labels.items()})

    @classmethod
    def of_series(cls, series: Tensor, t_r: float = 2.0, n_views: int = 1) -> Batch:
        """Wrap plain series of shape (batch, time, region), all valid, people numbered from 0."""
        n, time, region = series.shape
        code = torch.arange(n, device=series.device) % (n // n_views)
        return cls(
            series=series,
            valid_time=torch.ones(n, time, dtype=torch.bool, device=series.device),
            valid_region=torch.ones(n, region, dtype=torch.bool, device=series.device),
            t_r=torch.full((n,), t_r, device=series.device),
            person=code,
            dataset=torch.zeros_like(code),
            site=torch.full_like(code, -1),
            n_views=n_views,
        )

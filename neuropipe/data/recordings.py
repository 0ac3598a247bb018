"""Clips of series: all recordings resident on the device, or memory-mapped on the host, with one face.

Which clips are cut does not depend on where the recordings lie.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuropipe.data.batch import Batch
from neuropipe.data.clips import clip_starts
from neuropipe.data.labels import LabelKind
from neuropipe.data.samples import Samples
from neuropipe.models.base import ClipSpec
from neuropipe.shards.read import Shards


class Recordings(Samples):
    """Recordings of the chosen people, ready to be cut into clips.

    Parameters
    ----------
    datasets, people, sites, device, labels
        See `Samples`; all datasets have the same regions.
    residence : {"device", "mapped"}
        ``device``: every recording in the device's memory, cut there; ``mapped``: memory-mapped
        shards, cut on the host and copied, for data that do not fit.
    """

    content = "series"

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
        self.regions = self.datasets[0].regions
        for shards in self.datasets[1:]:
            self.regions.check_same(shards.regions, f"{shards.dataset} beside {self.datasets[0].dataset}")
        self.lengths = self.table["n_timepoints"].to_numpy(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.valid_regions = torch.from_numpy(np.stack([self.shards(i).valid_regions(self.row(i)) for i in self]))
        self.valid_time = torch.from_numpy(np.concatenate([self._valid_time(i) for i in self]))
        self.t_r = torch.tensor(self.table["t_r"].to_numpy(np.float32))
        self.bank: Tensor | None = None
        if residence == "device":
            self.bank = torch.from_numpy(np.concatenate([self.stored(i) for i in self])).to(self.device)

    def _valid_time(self, i: int) -> np.ndarray:
        valid = np.ones(self.lengths[i], dtype=bool)
        valid[self.shards(i).censored(self.row(i))] = False
        return valid

    def cut(self, chosen: np.ndarray, starts: np.ndarray, n_samples: int, n_views: int = 1) -> Batch:
        """Return the clips ``chosen[k]`` from ``starts[k]`` on as one batch of `n_samples` samples each.

        What lies beyond a recording's end is padding: zero and marked invalid.
        """
        within = starts[:, None] + np.arange(n_samples)  # (clip, time) position in its recording
        inside = within < self.lengths[chosen][:, None]
        rows = self.offsets[chosen][:, None] + np.minimum(within, self.lengths[chosen][:, None] - 1)
        rows = torch.from_numpy(rows)
        valid_time = torch.from_numpy(inside) & self.valid_time[rows]
        valid_region = self.valid_regions[chosen]
        all_valid, valid_time = bool(valid_time.all()), valid_time.to(self.device)
        series = self._mapped(chosen, starts, n_samples) if self.bank is None else self.bank[rows.to(self.device)]
        series = series.to(self.device).float()
        return Batch(
            series=series if all_valid else series.mul_(valid_time[:, :, None]),
            valid_time=valid_time,
            valid_region=valid_region.to(self.device),
            t_r=self.t_r[chosen].to(self.device),
            n_views=n_views,
            **self.facts(chosen),
        )

    @cached_property
    def _arrays(self) -> list[Tensor]:
        """All recordings as they lie in their shards, views of memory maps, which nothing writes to."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return [torch.from_numpy(np.asarray(self.stored(i))) for i in self]

    def _mapped(self, chosen: np.ndarray, starts: np.ndarray, n_samples: int) -> Tensor:
        """Return clips (clip, time, region) out of the memory maps: as stored for a GPU, else float32 in one pass."""
        stored = {self._arrays[i].dtype for i in chosen}
        dtype = torch.float32 if self.device.type == "cpu" else reduce(torch.promote_types, stored)
        clips = torch.empty((len(chosen), n_samples, len(self.regions)), dtype=dtype)
        for clip, i, start in zip(clips, chosen, starts, strict=True):
            held = self._arrays[i][start : start + n_samples]
            if len(held) == n_samples:
                clip.copy_(held)
            else:
                clip[: len(held)] = held
                clip[len(held) :] = 0
        return clips

    def training_batch(self, spec: ClipSpec, batch_size: int, seed: int, step: int) -> Batch:
        """Return the batch of `step`: `spec.n_views` clips of one recording of each of its people."""
        chosen, rng = self.drawn(batch_size, seed, step)
        starts = np.stack(
            [clip_starts(self.lengths[i], spec.n_samples, spec.n_views, spec.starts, rng) for i in chosen], axis=1
        )  # (view, person)
        return self.cut(np.tile(chosen, spec.n_views), starts.reshape(-1), spec.n_samples, spec.n_views)

    def evaluation_batch(self, i: int, spec: ClipSpec, n_clips: int | None) -> Batch:
        """Return at most `n_clips` evenly spaced clips of recording `i`, fewer where it is short.

        None gives as many as fit in side by side.
        """
        n_clips = n_clips or max(1, int(self.lengths[i]) // spec.n_samples)
        starts = np.unique(clip_starts(self.lengths[i], spec.n_samples, n_clips, "regular"))
        return self.cut(np.full(len(starts), i), starts, spec.n_samples)

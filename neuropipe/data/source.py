"""Clips from shards: all recordings resident on the device, or memory-mapped on the host, with one face.

`Source.training_batch` is a pure function of (seed, step); `Source.evaluation_clips` cuts evenly
spaced clips for embeddings. Which clips are cut does not depend on where the recordings lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuropipe.data import order
from neuropipe.data.batch import Batch
from neuropipe.data.clips import clip_starts
from neuropipe.data.labels import recordings
from neuropipe.models.base import ClipSpec
from neuropipe.shards.read import Shards


class Source:
    """Recordings of the chosen people, ready to be cut into clips.

    Parameters
    ----------
    datasets : sequence of Shards
        Folders of shards with the same regions.
    people : DataFrame with ``dataset`` and ``participant_id``, optional
        Whom to keep; default everyone.
    sites : dict of str to str, optional
        Site column per dataset.
    device : torch.device or str
        Where batches are made.
    residence : {"device", "mapped"}
        ``device``: every recording in the device's memory, cut there; ``mapped``: memory-mapped
        shards, cut on the host and copied, for data that do not fit.
    """

    def __init__(
        self,
        datasets: Sequence[Shards],
        people: pd.DataFrame | None = None,
        sites: dict[str, str | None] | None = None,
        device: torch.device | str = "cpu",
        residence: Literal["device", "mapped"] = "device",
    ) -> None:
        self.datasets = list(datasets)
        self.regions = self.datasets[0].regions
        self.table = recordings(self.datasets, people, sites)
        self.device = torch.device(device)
        self.lengths = self.table["n_timepoints"].to_numpy(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        of_person = self.table.groupby("person").indices
        self.of_person = [of_person[code] for code in sorted(of_person)]
        self.valid_regions = torch.from_numpy(np.stack([self._shards(i).valid_regions(self._row(i)) for i in self]))
        self.valid_time = torch.from_numpy(np.concatenate([self._valid_time(i) for i in self]))
        self.facts = {
            "t_r": torch.tensor(self.table["t_r"].to_numpy(np.float32)),
            "person": torch.tensor(self.table["person"].to_numpy()),
            "dataset": torch.tensor(self.table["dataset_code"].to_numpy()),
            "site": torch.tensor(self.table["site"].to_numpy()),
        }
        self.bank: Tensor | None = None
        if residence == "device":
            self.bank = torch.from_numpy(np.concatenate([self.series(i) for i in self])).to(self.device)

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self):
        return iter(range(len(self)))

    @property
    def n_people(self) -> int:
        """Number of distinct people."""
        return len(self.of_person)

    def _row(self, i: int) -> int:
        return int(self.table["position"].iat[i])

    def _shards(self, i: int) -> Shards:
        return self.datasets[self.table["source"].iat[i]]

    def _valid_time(self, i: int) -> np.ndarray:
        valid = np.ones(self.lengths[i], dtype=bool)
        valid[self._shards(i).censored(self._row(i))] = False
        return valid

    def series(self, i: int) -> np.ndarray:
        """Return recording `i` as stored, (time, region)."""
        return self._shards(i).series(self._row(i))

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
        series = self._gather(rows, chosen, within) * valid_time[:, :, None].to(self.device)
        facts = {name: values[chosen].to(self.device) for name, values in self.facts.items()}
        return Batch(
            series=series,
            valid_time=valid_time.to(self.device),
            valid_region=valid_region.to(self.device),
            n_views=n_views,
            **facts,
        )

    def _gather(self, rows: Tensor, chosen: np.ndarray, within: np.ndarray) -> Tensor:
        """Return float32 (clip, time, region) for rows of the bank, or from the memory maps."""
        if self.bank is not None:
            return self.bank[rows.to(self.device)].float()
        clips = [self.series(i)[np.minimum(w, self.lengths[i] - 1)] for i, w in zip(chosen, within, strict=True)]
        return torch.from_numpy(np.stack(clips)).to(self.device).float()

    def training_batch(self, spec: ClipSpec, batch_size: int, seed: int, step: int) -> Batch:
        """Return the batch of `step`: `spec.n_views` clips of one recording of each of its people."""
        people = order.batch_people(self.n_people, batch_size, seed, step)
        rng = order.step_rng(seed, step)
        chosen = np.array([rng.choice(self.of_person[person]) for person in people])
        starts = np.stack(
            [clip_starts(self.lengths[i], spec.n_samples, spec.n_views, spec.starts, rng) for i in chosen], axis=1
        )  # (view, person)
        return self.cut(np.tile(chosen, spec.n_views), starts.reshape(-1), spec.n_samples, spec.n_views)

    def evaluation_clips(self, i: int, n_samples: int, n_clips: int) -> Batch:
        """Return at most `n_clips` evenly spaced clips of recording `i`, fewer where it is short."""
        starts = np.unique(clip_starts(self.lengths[i], n_samples, n_clips, "regular"))
        return self.cut(np.full(len(starts), i), starts, n_samples)

"""From shards to batches: clips of recordings, whole volumes, or slices, all with one face.

A batch of training is a pure function of (seed, step), and does not depend on where the samples lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import torch

from neuropipe.data.batch import Batch
from neuropipe.data.labels import LabelKind
from neuropipe.data.recordings import Recordings
from neuropipe.data.samples import Mixture
from neuropipe.data.slices import Slices, Slicing
from neuropipe.data.volumes import Volumes
from neuropipe.errors import InputError
from neuropipe.models.base import Spec
from neuropipe.shards.read import Grid, Shards
from neuropipe.signals.regions import Regions

WORDS = {"series": "series", "volume": "volumes", "image": "images"}


class Source(Protocol):
    """What training and evaluation ask of `Recordings`, `Volumes` and `Slices`."""

    content: str
    datasets: list[Shards]
    table: pd.DataFrame
    of_person: list[np.ndarray]
    device: torch.device
    regions: Regions | None
    grid: Grid | None

    def __len__(self) -> int:
        """Return the number of samples: recordings, maps, stacks."""

    def __iter__(self) -> Iterator[int]:
        """Yield the number of every sample, a row of `table`."""

    @property
    def n_people(self) -> int:
        """Number of distinct people."""

    def training_batch(self, spec: Spec, batch_size: int, seed: int, step: int) -> Batch:
        """Return the batch of `step`, ``spec.n_views`` rows of each of its people."""

    def evaluation_batch(self, i: int, spec: Spec, n_clips: int | None) -> Batch:
        """Return sample `i`: the volume, or at most `n_clips` evenly spaced clips or slices of it."""


def open_source(
    datasets: Sequence[Shards],
    people: pd.DataFrame | None = None,
    sites: dict[str, str | None] | None = None,
    device: torch.device | str = "cpu",
    residence: Literal["device", "mapped"] = "device",
    *,
    labels: Mapping[str, LabelKind] | None = None,
    slices: Slicing | None = None,
    mixture: Mixture = "proportional",
) -> Source:
    """Return the samples of the chosen people, ready to be made into batches.

    Parameters
    ----------
    datasets : sequence of Shards
        Folders of shards of one content: series with the same regions, volumes on the same grid, or stacks.
    people : DataFrame with ``dataset`` and ``participant_id``, optional
        Whom to keep; default everyone.
    sites : dict of str to str, optional
        Site column per dataset.
    device : torch.device or str
        Where batches are made.
    residence : {"device", "mapped"}
        All samples in the device's memory, or memory-mapped on the host.
    labels : mapping of str to {"number", "category"}, optional
        Columns of participants.tsv that ``Batch.labels`` holds.
    slices : Slicing, optional
        Cut volumes into slices, and how; stacks of slices are taken as they are.
    mixture : {"proportional", "balanced"}
        Whether every person makes as much of the batches of training, or every dataset.

    Raises
    ------
    InputError
        The datasets hold different things.
    """
    contents = {shards.dataset: shards.content for shards in datasets}
    if len(set(contents.values())) != 1:
        found = ", ".join(f"{name}: {content}" for name, content in contents.items()) or "none"
        raise InputError(f"Expected datasets of one content, found {found}; name others.")
    content = next(iter(contents.values()))
    source: Recordings | Volumes | Slices
    if content == "series":
        source = Recordings(datasets, people, sites, device, residence, labels)
    elif content == "volume" and slices is None:
        source = Volumes(datasets, people, sites, device, residence, labels)
    else:
        source = Slices(datasets, people, sites, device, residence, labels, slices)
    source.mixture = mixture
    return source


def check_reads(spec: Spec, datasets: Sequence[Shards], what: str) -> None:
    """Raise where a family that reads `spec` cannot be fed by `datasets`; `what` names the recipe or the model."""
    for shards in datasets:
        if spec.content != shards.content and (spec.content, shards.content) != ("image", "volume"):
            raise InputError(
                f"{what}: the family reads {WORDS[spec.content]}, but the shards of {shards.dataset} hold "
                f"{WORDS[shards.content]}. Choose another recipe, or datasets of another kind."
            )

"""Samples held in memory with the face of `neuropipe.data.source`, and a network small enough to train in a moment."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import torch

from neuropipe.data import order
from neuropipe.data.batch import Batch
from neuropipe.models.network import LinearNetwork


class Held:
    """Images (sample, slice, row, column) of people who have one scan each, or two where ids repeat."""

    content, grid, regions = "image", None, None
    device = torch.device("cpu")

    def __init__(self, ids: list[str], images: torch.Tensor) -> None:
        self.images = images
        self.table = pd.DataFrame({"dataset": "toy", "participant_id": ids})
        self.table["person"] = self.table["participant_id"].astype("category").cat.codes.astype("int64")
        self.table["key"] = [f"toy_{name}_{i}" for i, name in enumerate(ids)]
        self.table["sha256"] = self.table["key"]
        self.of_person = list(self.table.groupby("person").indices.values())

    def _batch(self, rows: np.ndarray, slices: np.ndarray) -> Batch:
        batch = Batch.of_images(self.images[rows, slices][:, None])
        return dataclasses.replace(batch, person=torch.tensor(self.table["person"].to_numpy()[rows]))

    def training_batch(self, spec, batch_size, seed, step):
        people = order.batch_people(len(self.of_person), batch_size, seed, step)
        rng = order.step_rng(seed, step)
        rows = np.array([rng.choice(self.of_person[person]) for person in people])
        return self._batch(rows, rng.integers(self.images.shape[1], size=len(rows)))

    def evaluation_batch(self, i, spec, n_clips):
        n = min(n_clips, self.images.shape[1])
        return self._batch(np.full(n, i), np.arange(n))


class Pixels(LinearNetwork):
    """A hidden layer on pixels, with dropout."""

    def __init__(self, n_pixels: int = 16) -> None:
        super().__init__(8, 1, drop_rate=0.2)
        self.hidden = torch.nn.Linear(n_pixels, 8)

    def encode(self, batch, generator=None):
        return torch.tanh(self.hidden(batch.image.flatten(1)))

    def param_groups(self, weight_decay, layer_decay):
        own = {"params": list(self.hidden.parameters()), "lr_scale": layer_decay}
        return [own | {"weight_decay": weight_decay, "weight_decay_scale": 1.0}, *self.head_groups(weight_decay)]


def cohort(n: int, kind: str, seed: int, share: float = 0.5, strength: float = 2.0):
    """Return a source of `n` people and their targets; the target moves the first four pixels of every slice."""
    rng = np.random.default_rng(seed)
    if kind == "binary":
        y = (rng.random(n) < share).astype(float)
        effect = y - 0.5
    else:
        y = rng.uniform(20, 80, n)
        effect = (y - 50) / 17
    images = rng.standard_normal((n, 3, 4, 4))
    images[:, :, 0] += strength * effect[:, None, None]
    ids = [f"sub-{seed}{i:03d}" for i in range(n)]
    source = Held(ids, torch.tensor(images, dtype=torch.float32))
    return source, dict(zip([("toy", name) for name in ids], y.tolist(), strict=True))

"""Maps and slices in memory behind the interface of shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from neuropipe.config import Roles
from neuropipe.shards.read import Grid
from neuropipe.splits.people import People, gather

AFFINE = np.diag([6.0, 6.0, 6.0, 1.0])


@dataclass
class Stored:
    """Arrays as they lie in shards: integers or halves with a scale and a shift."""

    dataset: str
    participants: pd.DataFrame
    manifest: pd.DataFrame
    arrays: list[np.ndarray]
    grid: Grid | None = None
    regional: pd.DataFrame | None = None

    def array(self, i: int) -> np.ndarray:
        return self.arrays[i]


def stored(
    arrays: list[np.ndarray], owners: list[str] | None = None, *, dataset: str = "toy", content: str = "volume",
    scale: float = 1.0, shift: float = 0.0,
) -> Stored:  # fmt: skip
    """Arrays of `owners` (default: one each), people of two sites with age and diagnosis."""
    owners = owners or [f"sub-{i:03d}" for i in range(len(arrays))]
    names = sorted(set(owners))
    number = np.arange(len(names))
    rng = np.random.default_rng(0)
    people = pd.DataFrame(
        {
            "site": np.where(number % 2 == 0, "A", "B"),
            "diagnosis": np.where((number // 2) % 2 == 0, "control", "patient"),
            "age": rng.uniform(20, 80, len(names)),
            "sex": rng.choice(["F", "M"], len(names)),
        },
        index=pd.Index(names, name="participant_id"),
    )
    manifest = pd.DataFrame({"participant_id": owners, "key": [f"{dataset}_{i}" for i in range(len(arrays))]})
    manifest = manifest.assign(content=content, scale=scale, shift=shift, n_timepoints=0, n_regions=0)
    manifest = manifest.assign(t_r=np.nan, mean_fd=np.nan, tiv_ml=np.linspace(1300, 1700, len(arrays)))
    manifest["shape"] = [a.shape for a in arrays]
    manifest["sha256"] = [f"{dataset} {i}" for i in range(len(arrays))]
    grid = Grid("MNI152NLin2009cAsym", arrays[0].shape, AFFINE) if content == "volume" else None
    return Stored(dataset, people, manifest, arrays, grid)


def people_of(*sources: Stored) -> People:
    return gather(sources, {source.dataset: Roles() for source in sources})


def brains(n: int, shape: tuple[int, ...] = (9, 10, 8), seed: int = 0) -> list[np.ndarray]:
    """Grey matter inside a ball, nothing outside, each map with noise of its own."""
    rng = np.random.default_rng(seed)
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1, 1, k) for k in shape), indexing="ij")))
    inside = np.clip(1.3 - distance, 0, 1)
    return [np.clip(inside + 0.15 * rng.standard_normal(shape), 0, None) * (distance < 1.1) for _ in range(n)]

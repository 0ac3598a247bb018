"""Shards of small maps and of stacks of slices, as `collect` leaves them, and a study around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.paths import Study
from neuropipe.provenance import write_json
from neuropipe.shards import manifest
from neuropipe.shards.read import Grid, Shards
from neuropipe.shards.sample import Sample
from neuropipe.shards.write import write_tar

AFFINE = np.array([[12.0, 0, 0, -80], [0, 12.0, 0, -110], [0, 0, 12.0, -60], [0, 0, 0, 1]])


def write_volume_shards(
    root: Path,
    maps: dict[tuple[str, str], np.ndarray],
    people: pd.DataFrame,
    *,
    dataset: str = "vbm",
    content: str = "volume",
    dtype: str = "float16",
    space: str = "MNI152NLin2009cAsym",
    affine: np.ndarray = AFFINE,
    per_tar: int = 3,
) -> Shards:
    """Write maps {(participant_id, run_id): array} below the study `root`; uint8 is stored with scale and shift."""
    study = Study(root)
    folder = study.shards(dataset)
    samples = []
    for (person, run_id), values in sorted(maps.items()):
        facts: dict[str, Any] = {"dataset": dataset, "participant_id": person, "run_id": run_id}
        if dtype == "uint8":
            facts |= {"scale": float(np.ptp(values) / 255), "shift": float(values.min())}
            values = np.round((values - facts["shift"]) / facts["scale"])
        samples.append(Sample(f"{dataset}_{run_id}", values.astype(dtype), None, facts, content))
    folder.mkdir(parents=True)
    rows = []
    for number, start in enumerate(range(0, len(samples), per_tar)):
        rows += write_tar(folder / f"chunk-00-{number:03d}.tar", samples[start : start + per_tar])
    manifest.write_parquet(folder / "manifest.parquet", manifest.from_rows(rows))
    if content == "volume":
        shape = next(iter(maps.values())).shape
        write_json(folder / "grid.json", Grid(space, shape, affine).as_json())
    study.participants(dataset).parent.mkdir(parents=True)
    people.to_csv(study.participants(dataset), sep="\t", index=False, na_rep="n/a")
    return Shards(folder)


def toy_people(n: int = 8) -> pd.DataFrame:
    """People of two sites with ages, one unknown, and sexes, one unknown."""
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{k:02d}" for k in range(n)],
            "age": [np.nan if k == 3 else 20.0 + 5 * k for k in range(n)],
            "sex": [None if k == 2 else "FM"[k % 2] for k in range(n)],
            "site": ["A", "B"] * (n // 2),
        }
    )


def toy_maps(n: int = 8, shape: tuple[int, ...] = (10, 12, 9)) -> dict[tuple[str, str], np.ndarray]:
    """Positive noise in a box with an empty rim; the first two people were scanned twice."""
    rng = np.random.default_rng(0)
    maps = {}
    for k in range(n):
        for session in range(1 + (k < 2)):
            values = np.zeros(shape)
            values[2:-2, 2:-2, 2:-2] = rng.uniform(0.1, 1, [edge - 4 for edge in shape])
            maps[f"sub-{k:02d}", f"sub-{k:02d}_ses-{session + 1}"] = values
    return maps

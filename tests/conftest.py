"""Fixtures that several folders share: small shards of known content, and where the published data lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from neuropipe.paths import Study
from neuropipe.shards import manifest
from neuropipe.shards.read import Shards
from neuropipe.shards.sample import Sample, pack
from neuropipe.shards.write import write_tar
from neuropipe.signals.regions import Regions

# Tests run side by side; threads that wait for each other on busy cores make them ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def published_data() -> Path:
    """Folder of atlases, confounds tables and ABIDE series that others published."""
    folder = Path(os.environ.get("NEUROPIPE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"published data are not at {folder}; set NEUROPIPE_DATA")
    return folder


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., Shards]:
    """Return a function that writes shards of given series, {(person, run_id): (time, region) array}."""

    def make(
        series: dict[tuple[str, str], np.ndarray],
        *,
        dataset: str = "toy",
        regions: Regions | None = None,
        people: pd.DataFrame | None = None,
        t_r: float = 2.0,
        dtype: str = "float16",
        per_tar: int = 4,
    ) -> Shards:
        study = Study(tmp_path / "study")
        folder = study.shards(dataset)
        folder.mkdir(parents=True)
        samples = []
        for (person, run_id), values in sorted(series.items()):
            packed, valid = pack(values, dtype)
            facts = {
                "dataset": dataset,
                "participant_id": person,
                "run_id": run_id,
                "t_r": t_r,
                "quality": {"mean_fd_mm": 0.1},
            }
            samples.append(Sample(f"{dataset}_{run_id}", packed, valid, facts))
        rows = []
        for number, start in enumerate(range(0, len(samples), per_tar)):
            rows += write_tar(folder / f"chunk-00-{number:03d}.tar", samples[start : start + per_tar])
        manifest.write_parquet(folder / "manifest.parquet", manifest.from_rows(rows))
        n_regions = next(iter(series.values())).shape[1]
        (regions or Regions.plain("toy", n_regions)).write(folder / "regions.tsv")
        if people is None:
            people = pd.DataFrame({"participant_id": sorted({person for person, _ in series})})
        study.participants(dataset).parent.mkdir(parents=True)
        people.to_csv(study.participants(dataset), sep="\t", index=False, na_rep="n/a")
        return Shards(folder)

    return make


@pytest.fixture
def toy_shards(make_shards: Callable[..., Shards]) -> Shards:
    """Twelve people, two of them with two runs, lengths 50-61, 9 regions in 3 networks; one lacks a region."""
    rng = np.random.default_rng(0)
    series = {}
    for n in range(12):
        person = f"sub-{n:02d}"
        for run in range(2 if n < 2 else 1):
            values = rng.normal(size=(50 + n, 9))
            if n == 3:
                values[:, 4] = np.nan
            series[person, f"{person}_task-rest_run-{run + 1}"] = values
    regions = Regions.plain("toy", 9).with_networks(np.repeat([0, 1, 2], 3))
    people = pd.DataFrame(
        {"participant_id": [f"sub-{n:02d}" for n in range(12)], "site": ["A", "B"] * 6, "age": np.arange(20, 32)}
    )
    return make_shards(series, regions=regions, people=people)

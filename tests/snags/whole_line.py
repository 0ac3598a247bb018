"""From derivatives to clean series: what became of each run of a tiny study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tiny_study import TinyStudy

from neuropipe.bids.index import read_tsv
from neuropipe.stages import index, parcellate

# Nothing is left out for being short or shaky, and nothing is regressed: what remains is the filter.
LOOSE = {"clean": {"strategy": "none"}, "exclude": {"min_degrees_of_freedom": None, "min_duration_s": None}}


@dataclass
class Indexed:
    """What an index found: runs, and what it left out."""

    runs: pd.DataFrame
    excluded: pd.DataFrame

    def images(self) -> list[str]:
        """Return the names of the images that became runs."""
        return [path.rpartition("/")[2] for path in self.runs["image"]]

    def left_out(self, subject: str) -> str:
        """Return ``<reason>: <detail>`` of the one row of a subject that was left out."""
        rows = self.excluded[self.excluded["participant_id"] == f"sub-{subject}"]
        assert len(rows) == 1, rows
        return f"{rows['reason'].iloc[0]}: {rows['detail'].iloc[0]}"


@dataclass
class Product:
    """One clean run: series (time, region), sidecar, coverage table."""

    series: np.ndarray
    about: dict[str, Any]
    coverage: pd.DataFrame


def indexed(study: TinyStudy, **sections: Any) -> Indexed:
    """Index a study, with one run of person ``good`` beside what the test added."""
    if not study.func("good").exists():
        study.add("good", n_volumes=60)
    output = study.root / "results" / "index"
    index.run(config=str(study.write(n_chunks=1, **sections)), dataset="tiny", output=str(output))
    return Indexed(read_tsv(output / "runs.tsv"), read_tsv(output / "excluded.tsv"))


class Parcellated:
    """A study that was indexed and parcellated."""

    def __init__(self, study: TinyStudy, **sections: Any) -> None:
        self.index = indexed(study, **sections)
        self.results = study.root / "results"
        receipt = self.results / "receipts" / "tiny" / "parcellate-00.json"
        parcellate.run(
            config=str(study.root / "config.yaml"),
            dataset="tiny",
            manifest=str(self.results / "index" / "chunk-00.tsv"),
            output=str(receipt),
            derivatives=None,
            workers=1,
        )
        self.receipt = json.loads(receipt.read_text())

    def product(self, run: str) -> Product:
        """Return the clean series of a run, which is named without ``sub-``."""
        paths = {entry["run_id"]: entry["path"] for entry in self.receipt["products"]}
        assert f"sub-{run}" in paths, self.receipt["excluded"]
        series = self.results / paths[f"sub-{run}"]
        stem = series.name.removesuffix("timeseries.npy")
        coverage = pd.read_csv(series.with_name(f"{stem}coverage.tsv"), sep="\t")
        return Product(np.load(series), json.loads(series.with_suffix(".json").read_text()), coverage)

    def left_out(self, run: str) -> str:
        """Return ``<reason>: <detail>`` of a run that was left out."""
        rows = [row for row in self.receipt["excluded"] if row["run_id"] == f"sub-{run}"]
        assert len(rows) == 1, self.receipt
        series = (self.results / "derivatives").rglob(f"sub-{run}_*timeseries.*")
        assert not list(series), "nothing of it may look finished"
        return f"{rows[0]['reason']}: {rows[0]['detail']}"


def companion(study: TinyStudy, image: str, ending: str) -> Path:
    """Return the file beside an image whose name ends with `ending`, e.g. ``confounds_timeseries.tsv``."""
    path = study.data / image
    space = path.name.partition("_space-")[0]
    return next(
        file for file in sorted(path.parent.iterdir()) if file.name.startswith(space) and file.name.endswith(ending)
    )

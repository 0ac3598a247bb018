"""Join the chunks of a dataset: one manifest, its region table, and the quality of every run."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.paths import Study
from neuropipe.provenance import describe, read_json, sha256, write_json
from neuropipe.shards import manifest
from neuropipe.signals.regions import Regions

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe collect``."""
    parser.add_argument("--dataset", required=True, help="name of the dataset")
    parser.add_argument("--receipts", type=Path, nargs="+", required=True, help="receipts of shard, one per chunk")
    parser.add_argument("--output", type=Path, required=True, help="manifest.parquet in shards/<dataset>")


def _quality(receipts: list[dict[str, Any]], table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per recording with everything parcellate measured."""
    measured = pd.DataFrame([row for receipt in receipts for row in receipt["quality"]])
    return table[["run_id", "participant_id", "t_r", "n_timepoints"]].merge(measured, on="run_id", how="left")


def _coverage(receipts: list[dict[str, Any]], regions: Regions, n_recordings: int) -> pd.DataFrame:
    """Return the region table with each region's mean coverage and the share of recordings that miss it."""
    filled = [receipt["regions"] for receipt in receipts if receipt["samples"]]
    coverage = np.sum([np.array(part["coverage_sum"], dtype=float) for part in filled], axis=0)
    missing = np.sum([part["missing"] for part in filled], axis=0)
    return regions.table.assign(mean_coverage=coverage / n_recordings, share_missing=missing / n_recordings)


def run(*, dataset: str, receipts: list[Path], output: Path) -> None:
    """Write ``manifest.parquet`` and ``regions.tsv`` beside the tars, and the tables of ``qc/<dataset>``.

    Raises
    ------
    InputError
        No recording is left, or two recordings have one key.
    """
    study = Study(output.parents[2])
    read = [read_json(receipt) for receipt in receipts]
    samples = [row for receipt in read for row in receipt["samples"]]
    if not samples:
        raise InputError(
            f"No recording of {dataset} is left; the reasons are in {study.index_excluded(dataset)} and in the "
            f"'excluded' lists of {receipts[0].parent}. Mend the data or loosen `exclude:` in the config."
        )
    table = manifest.from_rows(samples)
    if twice := sorted(table["key"][table["key"].duplicated()]):
        raise InputError(f"Two recordings of {dataset} have the key {twice[0]}; make their BIDS entities differ.")
    regions = Regions.read(study.derivatives(dataset) / "regions.tsv")
    with lock(output.parent / ".lock-manifest"):
        regions.write(output.parent / "regions.tsv")
        manifest.write_parquet(study.qc(dataset) / "runs.parquet", _quality(read, table))
        manifest.write_parquet(study.qc(dataset) / "regions.parquet", _coverage(read, regions, len(table)))
        inputs = {str(path.relative_to(study.root)): sha256(path) for path in receipts}
        about = {"RegionOrderHash": regions.order_hash, "Atlases": regions.atlases, "Recordings": len(table)}
        write_json(
            output.with_suffix(".json"), describe("collect", inputs=inputs, packages=("pandas", "pyarrow"), **about)
        )
        manifest.write_parquet(output, table)
    log.info("collect %s: %d recordings of %d people", dataset, len(table), table["participant_id"].nunique())

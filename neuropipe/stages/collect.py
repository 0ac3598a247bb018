"""Join the chunks of a dataset: one manifest, its region table, and the quality of every run."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.paths import Study, atomic
from neuropipe.provenance import describe, read_json, sha256, write_json
from neuropipe.shards import manifest, remote
from neuropipe.shards.read import Grid, Shards
from neuropipe.signals.regions import Regions
from neuropipe.volumes.group import combine, likeness

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe collect``."""
    parser.add_argument("--dataset", required=True, help="name of the dataset")
    parser.add_argument("--receipts", type=Path, nargs="+", required=True, help="receipts of shard, one per chunk")
    parser.add_argument("--output", type=Path, required=True, help="manifest.parquet in shards/<dataset>")


OF_A_SAMPLE = {"series": ["t_r", "n_timepoints"], "volume": ["session"], "image": ["session"]}


def _quality(receipts: list[dict[str, Any]], table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per sample with everything that its stage measured."""
    measured = pd.DataFrame([row for receipt in receipts for row in receipt["quality"]])
    own = table[["run_id", "participant_id", *OF_A_SAMPLE[table["content"].iloc[0]]]]
    return own.merge(measured, on="run_id", how="left")


def _coverage(receipts: list[dict[str, Any]], regions: Regions, n_samples: int) -> pd.DataFrame:
    """Return the region table with each region's mean coverage and the share of samples that miss it."""
    filled = [receipt["regions"] for receipt in receipts if receipt["samples"]]
    coverage = np.sum([np.array(part["coverage_sum"], dtype=float) for part in filled], axis=0)
    missing = np.sum([part["missing"] for part in filled], axis=0)
    return regions.table.assign(mean_coverage=coverage / n_samples, share_missing=missing / n_samples)


# --- maps ---------------------------------------------------------------------------------------


def _grid(receipts: list[dict[str, Any]], dataset: str) -> Grid:
    """Return the one grid of a dataset's maps."""
    first, *others = [Grid.from_json(grid) for receipt in receipts for grid in receipt["grids"]]
    for grid in others:
        if not grid.same(first):
            raise InputError(
                f"The maps of {dataset} lie on several grids: {first}; and {grid}. Run `neuropipe index` again, which "
                "leaves out those that are not on the grid of most, and then `neuropipe volumes`."
            )
    return first


def _regional(receipts: list[dict[str, Any]], table: pd.DataFrame, regions: Regions) -> pd.DataFrame:
    """Return regional volumes in mL: ``key`` and a column ``<atlas>:<label>`` per region, in the manifest's order.

    There are no columns where nothing was measured: arrays without an affine lie at no place of an atlas.
    """
    volumes = {key: row for receipt in receipts for key, row in receipt["regions"].get("volume_ml", {}).items()}
    names = [f"{row.atlas}:{row.label}" for row in regions.table.itertuples()]
    values = np.array([volumes.get(key, []) for key in table["key"]], dtype=float).reshape(len(table), len(names))
    columns = pd.DataFrame(values, columns=names) if np.isfinite(values).any() else pd.DataFrame(index=table.index)
    return pd.concat([table[["key"]], columns], axis=1)


def _group(output: Path, table: pd.DataFrame, measured: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Write the mean map and the group mask; return the quality table with each map's likeness to them."""
    shards = Shards(output.parent, manifest=table)
    thresholds = measured["mask_threshold"].to_numpy(float)

    def maps() -> Iterator[np.ndarray]:
        return (shards.values(i) for i in range(len(table)))

    group = combine(maps, thresholds)
    with atomic(path) as temporary:
        np.savez(temporary, mean=group.mean, mask=group.mask)
    return measured.assign(**likeness(maps, thresholds, group))


def run(*, dataset: str, receipts: list[Path], output: Path) -> None:
    """Write manifest, regions and ``shards.tsv`` beside the tars, and the tables of ``qc/<dataset>``.

    Raises
    ------
    InputError
        No recording is left, or two recordings have one key.
    """
    study = Study.of(output, "shards/<dataset>/manifest.parquet")
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
        tars = {Path(tar["path"]).name: tar["sha256"] for receipt in read for tar in receipt["products"]}
        remote.write_tars(output.parent, list(tars), tars)
        measured = _quality(read, table)
        if table["content"].iloc[0] == "volume":
            write_json(output.parent / "grid.json", _grid(read, dataset).as_json())
            manifest.write_parquet(output.parent / "regional.parquet", _regional(read, table, regions))
            measured = _group(output, table, measured, study.qc(dataset) / "group.npz")
        manifest.write_parquet(study.qc(dataset) / "runs.parquet", measured)
        manifest.write_parquet(study.qc(dataset) / "regions.parquet", _coverage(read, regions, len(table)))
        inputs = {study.relative(path): sha256(path) for path in receipts}
        about = {"RegionOrderHash": regions.order_hash, "Atlases": regions.atlases, "Samples": len(table)}
        write_json(
            output.with_suffix(".json"), describe("collect", inputs=inputs, packages=("pandas", "pyarrow"), **about)
        )
        manifest.write_parquet(output, table)
    log.info("collect %s: %d samples of %d people", dataset, len(table), table["participant_id"].nunique())

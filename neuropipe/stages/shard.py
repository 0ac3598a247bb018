"""Pack one chunk's clean series, maps or slices into WebDataset tars, and list them in a receipt."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe import config as configuration
from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.paths import Study
from neuropipe.provenance import describe, read_json, sha256, write_json
from neuropipe.shards.sample import Sample, pack
from neuropipe.shards.write import write_tar

log = logging.getLogger("neuropipe")

NOTHING = np.empty(0)  # in place of arrays that are packed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe shard``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--dataset", required=True, help="name of the dataset in the config")
    parser.add_argument("--receipt", type=Path, required=True, help="receipt of parcellate or volumes for this chunk")
    parser.add_argument("--output", type=Path, required=True, help="receipt of this stage; tars go to shards/<dataset>")


def entities(run_id: str) -> dict[str, str]:
    """Return the session, task and run of a run id like ``sub-01_ses-a_task-rest_run-1``; empty where absent."""
    pairs = dict(part.split("-", 1) for part in run_id.split("_") if "-" in part)
    return {"session": pairs.get("ses", ""), "task": pairs.get("task", ""), "run": pairs.get("run", "")}


def _sample(study: Study, dataset: str, product: dict[str, Any], dtype: str) -> Sample:
    path = study.root / product["path"]
    if not path.is_file():
        raise InputError(f"{path} is in the receipt of its stage but is not there; run that stage for its chunk again.")
    sidecar = read_json(path.with_suffix(".json"))
    content = sidecar.get("Content", "series")
    array, valid, own = PACKED[content](path, sidecar, dtype)
    facts = {
        "dataset": dataset,
        "participant_id": product["run_id"].partition("_")[0],
        "run_id": product["run_id"],
        **entities(product["run_id"]),
        "region_order_hash": sidecar["RegionOrderHash"],
        "quality": sidecar["Quality"],
        **own,
    }
    key = f"{dataset}_{re.sub(r'[^A-Za-z0-9_-]', '', product['run_id'])}"
    return Sample(key, array, valid, facts, content)


Packed = tuple[np.ndarray, np.ndarray | None, dict[str, Any]]


def _series(path: Path, sidecar: dict[str, Any], dtype: str) -> Packed:
    """Return a clean series as it is stored, its valid regions, and its own facts."""
    facts = {"t_r": sidecar["RepetitionTime"], "censored": sidecar["CensoredVolumes"]}
    return *pack(np.load(path, allow_pickle=False), dtype), facts


def _ready(path: Path, sidecar: dict[str, Any], dtype: str) -> Packed:
    """Return a map or slices, which lie there as they are stored, and their own facts."""
    names = {"grid": "Grid", "slices": "Slices"}
    facts = {name: sidecar[key] for name, key in names.items() if key in sidecar}
    facts |= {"scale": sidecar["Scale"], "shift": sidecar["Shift"], "t_r": None, "censored": []}
    return np.load(path, allow_pickle=False), None, facts


PACKED = {"series": _series, "volume": _ready, "image": _ready}


def _of_regions(study: Study, products: list[dict[str, Any]], samples: list[Sample]) -> dict[str, Any]:
    """Return the sums over samples of each region's coverage (NaN for ready-made series) and of where it is missing.

    Of maps also ``volume_ml``: each sample's regional volumes by key.
    """
    tables = [_region_table(study, product) for product in products]
    coverage = np.sum([table["coverage"] for table in tables], axis=0)
    if all("volume_ml" in table for table in tables):
        missing = np.sum([np.isnan(table["volume_ml"]) for table in tables], axis=0)
        volumes = {s.key: _json(table["volume_ml"]) for s, table in zip(samples, tables, strict=True)}
    else:
        missing, volumes = np.sum([~sample.valid for sample in samples], axis=0), {}
    sums = {"missing": np.asarray(missing, dtype=int).tolist(), "coverage_sum": _json(coverage)}
    return sums | ({"volume_ml": volumes} if volumes else {})


def _region_table(study: Study, product: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what was measured of each region: ``coverage``, and ``volume_ml`` of maps; empty without regions."""
    beside = product["path"].replace("_timeseries.npy", "_coverage.tsv")
    path = product.get("volumes", beside if beside != product["path"] else None)
    if path is None:
        return {"coverage": np.empty(0), "volume_ml": np.empty(0)}
    table = pd.read_csv(study.root / path, sep="\t", na_values="n/a")
    return {name: table[name].to_numpy(float) for name in ("coverage", "volume_ml") if name in table}


def _distinct(grids: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [grid for n, grid in enumerate(grids) if grid not in grids[:n]]


def _json(values: np.ndarray) -> list[float | None]:
    """Return a list for JSON, which knows no NaN."""
    return [None if np.isnan(value) else float(value) for value in np.atleast_1d(values)]


def _groups(samples: Iterator[Sample], limit: float) -> Iterator[list[Sample]]:
    """Yield lists of samples of about `limit` bytes each."""
    group, size = [], 0
    for sample in samples:
        if group and size + sample.array.nbytes > limit:
            yield group
            group, size = [], 0
        group.append(sample)
        size += sample.array.nbytes
    if group:
        yield group


def run(*, config: Path, dataset: str, receipt: Path, output: Path) -> None:
    """Write ``shards/<dataset>/chunk-NN-MMM.tar`` and the receipt that lists them.

    Parameters
    ----------
    config, dataset
        The study and the dataset.
    receipt : path
        What parcellate or volumes made of this chunk.
    output : path
        Receipt of this stage: tars with their hashes, manifest rows of their samples.
    """
    settings = configuration.load(config).shards
    study = Study.of(output, "receipts/<dataset>/shard-<chunk>.json")
    made = read_json(receipt)
    folder, chunk = study.shards(dataset), int(made["chunk"])
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / f".lock-{chunk:02d}"):
        ordered = sorted(made["products"], key=lambda product: product["run_id"])
        samples = (_sample(study, dataset, product, settings.dtype) for product in ordered)
        tars, rows, packed = [], [], []
        for number, group in enumerate(_groups(samples, settings.shard_mb * 1e6)):
            path = folder / f"chunk-{chunk:02d}-{number:03d}.tar"
            rows += write_tar(path, group)
            packed += [replace(sample, array=NOTHING) for sample in group]
            tars.append({"path": study.relative(path), "sha256": sha256(path)})
        kept = {study.root / tar["path"] for tar in tars}
        for stale in set(folder.glob(f"chunk-{chunk:02d}-*.tar")) - kept:
            stale.unlink()
        about = {
            "samples": rows,
            "quality": [{"run_id": s.facts["run_id"], **s.facts["quality"]} for s in packed],
            "regions": _of_regions(study, ordered, packed),
            "grids": _distinct([s.facts["grid"] for s in packed if "grid" in s.facts]),
        }
        sidecar = describe("shard", inputs={receipt.name: sha256(receipt)}, settings=settings.model_dump(mode="json"))
        write_json(folder / f"chunk-{chunk:02d}.json", sidecar)
        content = {"stage": "shard", "dataset": dataset, "chunk": chunk, "products": tars, "excluded": []}
        write_json(output, content | about)
    log.info("shard %s chunk %02d: %d samples in %d tars", dataset, chunk, len(rows), len(tars))

"""Pack one chunk's clean series into WebDataset tars, and list them in a receipt."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterator
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe shard``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--dataset", required=True, help="name of the dataset in the config")
    parser.add_argument("--receipt", type=Path, required=True, help="receipt of parcellate for this chunk")
    parser.add_argument("--output", type=Path, required=True, help="receipt of this stage; tars go to shards/<dataset>")


def entities(run_id: str) -> dict[str, str]:
    """Return the session, task and run of a run id like ``sub-01_ses-a_task-rest_run-1``; empty where absent."""
    pairs = dict(part.split("-", 1) for part in run_id.split("_") if "-" in part)
    return {"session": pairs.get("ses", ""), "task": pairs.get("task", ""), "run": pairs.get("run", "")}


def _sample(study: Study, dataset: str, product: dict[str, Any], dtype: str) -> Sample:
    path = study.root / product["path"]
    if not path.is_file():
        raise InputError(
            f"{path} is in the receipt of parcellate but is not there; run parcellate for its chunk again."
        )
    sidecar = read_json(path.with_suffix(".json"))
    series, valid = pack(np.load(path, allow_pickle=False), dtype)
    facts = {
        "dataset": dataset,
        "participant_id": product["run_id"].partition("_")[0],
        "run_id": product["run_id"],
        **entities(product["run_id"]),
        "t_r": sidecar["RepetitionTime"],
        "censored": sidecar["CensoredVolumes"],
        "region_order_hash": sidecar["RegionOrderHash"],
        "quality": sidecar["Quality"],
    }
    key = f"{dataset}_{re.sub(r'[^A-Za-z0-9_-]', '', product['run_id'])}"
    return Sample(key, series, valid, facts)


def _coverage(study: Study, products: list[dict[str, Any]]) -> np.ndarray:
    """Return the sum over recordings of each region's coverage; NaN for ready-made series, which have none."""
    tables = (
        pd.read_csv(study.root / product["path"].replace("_timeseries.npy", "_coverage.tsv"), sep="\t", na_values="n/a")
        for product in products
    )
    return np.sum([table["coverage"].to_numpy(float) for table in tables], axis=0)


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
        What parcellate made of this chunk.
    output : path
        Receipt of this stage: tars with their hashes, manifest rows of their samples.
    """
    settings = configuration.load(config).shards
    study = Study(output.parents[2])
    made = read_json(receipt)
    folder, chunk = study.shards(dataset), int(made["chunk"])
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / f".lock-{chunk:02d}"):
        ordered = sorted(made["products"], key=lambda product: product["run_id"])
        samples = (_sample(study, dataset, product, settings.dtype) for product in ordered)
        tars, rows, quality, missing = [], [], [], 0
        for number, group in enumerate(_groups(samples, settings.shard_mb * 1e6)):
            path = folder / f"chunk-{chunk:02d}-{number:03d}.tar"
            rows += write_tar(path, group)
            quality += [{"run_id": s.facts["run_id"], **s.facts["quality"]} for s in group]
            missing = missing + np.sum([~s.valid for s in group], axis=0)
            tars.append({"path": str(path.relative_to(study.root)), "sha256": sha256(path)})
        kept = {study.root / tar["path"] for tar in tars}
        for stale in set(folder.glob(f"chunk-{chunk:02d}-*.tar")) - kept:
            stale.unlink()
        regions = {"missing": np.asarray(missing).tolist(), "coverage_sum": _json(_coverage(study, ordered))}
        sidecar = describe("shard", inputs={receipt.name: sha256(receipt)}, settings=settings.model_dump(mode="json"))
        write_json(folder / f"chunk-{chunk:02d}.json", sidecar)
        content = {"stage": "shard", "dataset": dataset, "chunk": chunk, "products": tars, "excluded": []}
        write_json(output, content | {"samples": rows, "quality": quality, "regions": regions})
    log.info("shard %s chunk %02d: %d recordings in %d tars", dataset, chunk, len(rows), len(tars))

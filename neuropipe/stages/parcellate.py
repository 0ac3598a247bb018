"""Stage parcellate: the runs of one chunk become clean regional series with sidecars, and one receipt.

Only this process, which holds the chunk's lock, writes; its workers compute. A killed job leaves
finished runs behind (their sidecar is written last) and the next one goes on from there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from neuropipe import config as configuration
from neuropipe import provenance
from neuropipe.bids import series as ready_made
from neuropipe.bids.index import exclusion, input_fingerprints, read_tsv
from neuropipe.errors import ConfigError, RunExcluded
from neuropipe.locks import lock
from neuropipe.paths import Study, atomic, write_if_changed, write_text
from neuropipe.signals import atlases as atlas_files
from neuropipe.signals import confounds as confound_tables
from neuropipe.signals import quality
from neuropipe.signals.extract import extract, grid_of
from neuropipe.signals.regions import Regions
from neuropipe.signals.run import CleanRun, clean_run, quality_before, without_confounds
from neuropipe.train.progress import Progress

log = logging.getLogger("neuropipe")

PACKAGES = ("numpy", "scipy", "pandas", "nibabel", "isal")
ORPHAN_CHECK_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", required=True, metavar="PATH", help="the study's config.yaml")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="dataset of the manifest")
    parser.add_argument("--manifest", required=True, metavar="PATH", help="chunk-NN.tsv of the index")
    parser.add_argument("--output", required=True, metavar="PATH", help="receipt: the list of products (JSON)")
    parser.add_argument("--derivatives", metavar="DIR", help="default: derivatives/<dataset> beside receipts/")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time (default %(default)s)")


def run(*, config: str, dataset: str, manifest: str, output: str, derivatives: str | None, workers: int) -> None:
    """Work through one chunk's manifest and write its receipt."""
    receipt = Path(output)
    study = Study(receipt.absolute().parents[2])
    folder = Path(derivatives) if derivatives else study.derivatives(dataset)
    rows = read_tsv(manifest).to_dict("records")
    job = Job.load(config, dataset)
    chunk = Path(manifest).stem.rpartition("-")[2]
    with lock(folder / f".lock-chunk-{chunk}"):
        _describe_folder(job, folder)
        products, excluded = _work(job, rows, folder, workers, config)
        for product in products:
            product["path"] = os.path.relpath(folder / product["path"], study.root).replace(os.sep, "/")
        about = {"stage": "parcellate", "dataset": dataset, "chunk": chunk}
        provenance.write_json(receipt, about | {"products": products, "excluded": excluded})
    log.info("%s chunk %s: %d runs clean, %d left out", dataset, chunk, len(products), len(excluded))


@dataclass
class Job:
    """What all runs of a dataset share.

    Attributes
    ----------
    dataset : str
        Name of the dataset.
    root : Path
        Folder that the manifest's paths start from.
    config : StudyConfig
        The study.
    atlases : list of Atlas
        Loaded; empty for ready-made series.
    regions : Regions
        Columns of every product.
    settings : dict
        Everything that decides what a product looks like; its hash is part of every fingerprint.
    grids : dict
        Atlases merged on the grids seen so far.
    """

    dataset: str
    root: Path
    config: configuration.StudyConfig
    atlases: list[atlas_files.Atlas]
    regions: Regions
    settings: dict[str, Any]
    grids: dict[tuple, atlas_files.Merged] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str, dataset: str) -> Job:
        """Read the configuration and load the atlases, or the region table of ready-made series."""
        config = configuration.load(path)
        if dataset not in config.datasets:
            raise ConfigError(f"{path} has no dataset {dataset!r}; known: {', '.join(config.datasets)}.")
        section = config.datasets[dataset]
        atlases = [] if section.kind == "series" else [atlas_files.load(spec) for spec in config.atlases]
        if section.kind == "series":
            regions = atlas_files.regions_of_series(section.atlas, section.regions)
        else:
            regions = atlas_files.regions(atlases)
        settings = {
            "clean": config.clean.model_dump(),
            "exclude": config.exclude.model_dump(),
            "atlases": [{"id": a.id, "space": a.space, "sha256": a.checksum} for a in atlases],
            "regions": provenance.hash_json(
                [*(a.table.astype(str).values.tolist() for a in atlases), regions.order_hash]
            ),
        }
        root = ready_made.data_root(Path(configuration.expand(section.path)))
        return cls(dataset, root, config, atlases, regions, settings)

    def merged_on(self, image: Path) -> atlas_files.Merged:
        """Return the atlases on the grid of an image; runs of one study share a few grids."""
        shape, affine = grid_of(image)
        key = (shape[:3], affine.tobytes())
        if key not in self.grids:
            self.grids[key] = atlas_files.merge(self.atlases, shape, affine)
        return self.grids[key]

    def fingerprint(self, row: dict[str, str]) -> str:
        """Return the hash over a run's inputs, the settings and the stage's version."""
        own = [row[column] for column in ("run_id", "space", "t_r", "n_volumes", "fingerprint")]
        return provenance.hash_json([own, self.settings, provenance.STAGE_VERSIONS["parcellate"]])


# --- one run ------------------------------------------------------------------------------------


def process(job: Job, row: dict[str, str]) -> CleanRun:
    """Compute one run; threads of the linear algebra are held at one, so that bytes do not depend on the machine."""
    with threadpool_limits(limits=1):
        if job.atlases:
            return _process_images(job, row)
        return _process_series(job, row)


def _process_images(job: Job, row: dict[str, str]) -> CleanRun:
    config, t_r, n_volumes = job.config, float(row["t_r"]), int(row["n_volumes"])
    if row["space"] != job.atlases[0].space:
        raise RunExcluded(
            "wrong space",
            f"expected images in {job.atlases[0].space}, the space of the atlases, found {row['space']}; name atlases "
            "of that space, or correct select and index again",
        )
    path = job.root / row["confounds"]
    table = confound_tables.read_table(path, n_volumes)
    strategy = config.clean.strategy if isinstance(config.clean.strategy, str) else config.clean.strategy.columns
    confounds = confound_tables.prepare(
        table,
        confound_tables.read_description(path),
        strategy,
        config.clean.global_signal,
        config.clean.fd_threshold_mm,
    )
    # What motion alone rules out is not worth inflating an image for.
    quality.check(quality_before(confounds, t_r, config.clean), config.exclude)
    image = job.root / row["image"]
    merged = job.merged_on(image)
    means = extract(image, job.root / row["mask"], merged)
    if len(means.series) != n_volumes:
        raise RunExcluded("changed since index", f"{image.name} has {len(means.series)} volumes, not {n_volumes}")
    result = clean_run(
        means.series, means.n_used, means.coverage, t_r, confounds, config.clean, config.exclude, has_mean=True
    )
    result.facts["VoxelsWithoutSignal"] = means.n_without_signal
    result.facts["VoxelsOfSeveralAtlases"] = merged.n_overlapping
    return result


def _process_series(job: Job, row: dict[str, str]) -> CleanRun:
    table, names = ready_made.read_run(job.root, row)
    regions = job.regions.table
    raw = ready_made.align(table, names, regions["label"].tolist(), regions["name"].tolist())
    there = np.isfinite(raw).any(axis=0)
    none = without_confounds(len(raw))
    config = job.config
    t_r = float(row["t_r"])
    return clean_run(
        raw, there.astype(np.int64), there.astype(float), t_r, none, config.clean, config.exclude, has_mean=False
    )


# --- a chunk ------------------------------------------------------------------------------------


def _work(
    job: Job, rows: list[dict[str, str]], folder: Path, workers: int, config: str
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return products and excluded rows of a chunk, both in the manifest's order."""
    done, todo = {}, []
    for row in rows:
        finished = _finished(job, row, folder)
        if finished is None:
            todo.append(row)
        else:
            done[row["run_id"]] = finished
    excluded = {}
    progress = Progress(f"parcellate {job.dataset}", len(rows), len(done))
    for row, result in _results(job, todo, workers, config):
        if isinstance(result, RunExcluded):
            where = (job.dataset, row["participant_id"], row["run_id"], row["image"])
            excluded[row["run_id"]] = exclusion("parcellate", *where, result.reason, result.detail)
        else:
            done[row["run_id"]] = _write(job, row, result, folder)
        progress.advance()
    progress.close()
    order = [row["run_id"] for row in rows]
    return [done[key] for key in order if key in done], [excluded[key] for key in order if key in excluded]


def _results(
    job: Job, rows: list[dict[str, str]], workers: int, config: str
) -> Iterator[tuple[dict[str, str], CleanRun | RunExcluded]]:
    """Yield runs as they are finished; only what excludes a run is caught, so that bugs surface."""
    if min(workers, len(rows)) <= 1:
        for row in rows:
            yield row, _attempt(job, row)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(rows)), mp_context=get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),)
    )
    stamp = provenance.hash_json(job.settings)
    try:
        futures = {pool.submit(_attempt_in_worker, config, job.dataset, stamp, row): row for row in rows}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(job: Job, row: dict[str, str]) -> CleanRun | RunExcluded:
    try:
        found = row["fingerprint"] if row["offset"] != "n/a" else provenance.hash_json(_inputs(job, row))
        if found != row["fingerprint"]:
            raise RunExcluded("changed since index", f"the files of {row['run_id']} are not those indexed; index again")
        return process(job, row)
    except RunExcluded as error:
        return error


def _inputs(job: Job, row: dict[str, str]) -> dict[str, str]:
    try:
        return input_fingerprints(job.root, row)
    except OSError as error:
        raise RunExcluded("missing file", f"{error}; fetch or copy it, or index again") from error


def _attempt_in_worker(config: str, dataset: str, stamp: str, row: dict[str, str]) -> CleanRun | RunExcluded:
    return _attempt(_job_of_worker(config, dataset, stamp), row)


@lru_cache(maxsize=1)
def _job_of_worker(config: str, dataset: str, stamp: str) -> Job:
    """Load the job once per worker process; atlases are too large to be sent with each run."""
    job = Job.load(config, dataset)
    if provenance.hash_json(job.settings) != stamp:
        raise ConfigError(f"{config} changed while it was being worked on; start the command again.")
    return job


def _end_with(parent: int) -> None:
    """Make a worker end when the process that started it does, even one that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# --- files --------------------------------------------------------------------------------------


def _stem(job: Job, row: dict[str, str]) -> Path:
    """Return a product's path relative to the derivatives, up to its last entity."""
    session = [f"ses-{row['session']}"] if row["session"] != "n/a" else []
    name = f"{row['run_id']}_seg-{job.config.series_atlas(job.dataset)}_desc-clean"
    return Path(row["participant_id"], *session, "func", name)


def _with_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}_{suffix}")


def _finished(job: Job, row: dict[str, str], folder: Path) -> dict[str, str] | None:
    """Return the receipt entry of a run that is already there, made from the same with the same."""
    stem = _stem(job, row)
    sidecar, path = folder / _with_suffix(stem, "timeseries.json"), _with_suffix(stem, "timeseries.npy")
    try:
        about = provenance.read_json(sidecar)
        fits = about["RunFingerprint"] == job.fingerprint(row) and about["Sha256"] == provenance.sha256(folder / path)
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not whole: made again
        return None
    return _entry(row, path, about["Sha256"], about["RunFingerprint"]) if fits else None


def _entry(row: dict[str, str], path: Path, sha256: str, fingerprint: str) -> dict[str, str]:
    return {"run_id": row["run_id"], "path": path.as_posix(), "sha256": sha256, "fingerprint": fingerprint}


def _write(job: Job, row: dict[str, str], result: CleanRun, folder: Path) -> dict[str, str]:
    """Write a run's three files, the sidecar last, and return its receipt entry."""
    stem = _stem(job, row)
    path, sidecar = _with_suffix(stem, "timeseries.npy"), _with_suffix(stem, "timeseries.json")
    (folder / sidecar).unlink(missing_ok=True)  # an older run's sidecar must not vouch for new data
    with atomic(folder / path) as temporary:
        np.save(temporary, result.series)
    coverage = job.regions.table[["index", "atlas", "label", "name"]].assign(
        n_voxels=result.n_used, coverage=result.coverage.round(4)
    )
    text = coverage.to_csv(sep="\t", index=False, lineterminator="\n")
    write_text(folder / _with_suffix(stem, "coverage.tsv"), text)
    digest, fingerprint = provenance.sha256(folder / path), job.fingerprint(row)
    inputs = {row["image"]: row["fingerprint"]} if row["offset"] != "n/a" else _inputs(job, row)
    about = provenance.describe("parcellate", inputs=inputs, settings=job.settings, packages=PACKAGES, **result.facts)
    about |= {"RegionOrderHash": job.regions.order_hash, "Atlases": job.regions.atlases}
    provenance.write_json(folder / sidecar, about | {"RunFingerprint": fingerprint, "Sha256": digest})
    return _entry(row, path, digest, fingerprint)


def _describe_folder(job: Job, folder: Path) -> None:
    """Write the region table and the dataset description where they are not there or differ."""
    job.regions.write(folder / "regions.tsv")
    version = provenance.versions()["neuropipe"]
    about = {
        "Name": f"neuropipe: clean regional series of {job.dataset}",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "neuropipe", "Version": version}],
    }
    write_if_changed(folder / "dataset_description.json", json.dumps(about, indent=1) + "\n")

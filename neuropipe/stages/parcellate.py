"""Stage parcellate: the runs of one chunk become clean regional series with sidecars, and one receipt.

Only this process, which holds the chunk's lock, writes; its workers compute. A killed job leaves
finished runs behind (their sidecar is written last) and the next one goes on from there.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from neuropipe import provenance
from neuropipe.bids.index import exclusion, read_tsv
from neuropipe.errors import ConfigError, InputError, RunExcluded
from neuropipe.locks import lock
from neuropipe.paths import Study, atomic, remove_partial, write_if_changed, write_text
from neuropipe.signals import quality
from neuropipe.signals.extract import VOLUMES_PER_READ, grid_of
from neuropipe.signals.run import CleanRun, remembered
from neuropipe.signals.traces import Traces
from neuropipe.stages import pool
from neuropipe.stages.parcellate_job import Job, attempt, fingerprints_of
from neuropipe.train.progress import Progress

log = logging.getLogger("neuropipe")

PACKAGES = ("numpy", "scipy", "pandas", "nibabel", "isal")
TRACES = "traces.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", required=True, metavar="PATH", help="the study's config.yaml")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="dataset of the manifest")
    parser.add_argument("--manifest", required=True, metavar="PATH", help="chunk-NN.tsv of the index")
    parser.add_argument("--output", required=True, metavar="PATH", help="receipt: the list of products (JSON)")
    parser.add_argument("--derivatives", metavar="DIR", help="default: derivatives/<dataset> beside receipts/")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time at most; fewer where memory is short (default %(default)s)",
    )


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
        products, left_out = _work(job, rows, folder, workers, config)
        for product in products:
            for key in ("path", "traces"):
                product[key] = os.path.relpath(folder / product[key], study.root).replace(os.sep, "/")
        excluded = [_exclusion(job, row, reason, study) for row, reason in left_out]
        about = {"stage": "parcellate", "dataset": dataset, "chunk": chunk}
        provenance.write_json(receipt, about | {"products": products, "excluded": excluded})
    log.info("%s chunk %s: %d runs clean, %d left out", dataset, chunk, len(products), len(excluded))


def _work(
    job: Job, rows: list[dict[str, str]], folder: Path, workers: int, config: str
) -> tuple[list[dict[str, str]], list[tuple[dict[str, str], RunExcluded]]]:
    """Return products of a chunk, and the rows that are left out with their reasons, both in the manifest's order."""
    done, left_out, todo = {}, {}, []
    for row in rows:
        try:
            finished = _finished(job, row, folder)
            if finished is None:
                quality.check_by_hand(row["participant_id"], row["run_id"], job.config.exclude)
        except RunExcluded as reason:
            left_out[row["run_id"]] = reason
            continue
        if finished is None:
            todo.append(row)
        else:
            done[row["run_id"]] = finished
    progress = Progress(f"parcellate {job.dataset}", len(rows), len(done) + len(left_out), unit="runs", log_every_s=0)
    for row, result in _results(job, todo, workers, config):
        if isinstance(result, RunExcluded):
            left_out[row["run_id"]] = result
            progress.advance(f"{row['run_id']} left out: {result.reason}")
        else:
            done[row["run_id"]] = _write(job, row, result, folder)
            progress.advance(row["run_id"])
    progress.close()
    products = [done[row["run_id"]] for row in rows if row["run_id"] in done]
    return products, [(row, left_out[row["run_id"]]) for row in rows if row["run_id"] in left_out]


def _results(
    job: Job, rows: list[dict[str, str]], workers: int, config: str
) -> Iterator[tuple[dict[str, str], CleanRun | RunExcluded]]:
    """Yield runs as they are finished; only what excludes a run is caught, so that bugs surface."""
    n_workers = min(workers, len(rows))
    if n_workers > 1:
        run_bytes = max(pool.BASE_BYTES, pool.own_peak_bytes()) + _read_bytes(job, rows)
        n_workers = pool.width(n_workers, run_bytes, pool.free_bytes())
    if n_workers <= 1:
        for row in rows:
            yield row, attempt(job, row)
        return
    yield from pool.each(partial(_attempt_in_worker, config, job.dataset, job.stamp), rows, n_workers)


def _read_bytes(job: Job, rows: list[dict[str, str]]) -> int:
    """Return what the volumes of the largest image take that are in memory at a time, as the widest numbers.

    Surfaces add nothing: what is read of them at a time is small.
    """
    n_voxels = 0
    for row in rows if job.atlases else []:
        with suppress(RunExcluded):  # no volume, or an image that cannot be read and is left out in its turn
            n_voxels = max(n_voxels, math.prod(grid_of(job.root / row["image"])[0][:3]))
    return VOLUMES_PER_READ * n_voxels * 8


def _attempt_in_worker(config: str, dataset: str, stamp: str, row: dict[str, str]) -> CleanRun | RunExcluded:
    return attempt(_job_of_worker(config, dataset, stamp), row)


@lru_cache(maxsize=1)
def _job_of_worker(config: str, dataset: str, stamp: str) -> Job:
    """Load the job once per worker process; atlases are too large to be sent with each run."""
    job = Job.load(config, dataset)
    if job.stamp != stamp:
        raise ConfigError(f"{config} changed while it was being worked on; start the command again.")
    return job


# --- files --------------------------------------------------------------------------------------


def _stem(job: Job, row: dict[str, str]) -> Path:
    """Return a product's path relative to the derivatives, up to its last entity."""
    session = [f"ses-{row['session']}"] if row["session"] != "n/a" else []
    name = f"{row['run_id']}_seg-{job.config.series_atlas(job.dataset)}_desc-clean"
    return Path(row["participant_id"], *session, "func", name)


def _with_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}_{suffix}")


def _finished(job: Job, row: dict[str, str], folder: Path) -> dict[str, str] | None:
    """Return the receipt entry of a run that is already there, made from the same with the same.

    Raises
    ------
    RunExcluded
        It is there, but a limit of the configuration, which may have changed, leaves it out.
    """
    stem = _stem(job, row)
    sidecar, path = folder / _with_suffix(stem, "timeseries.json"), _with_suffix(stem, "timeseries.npy")
    traces = _with_suffix(stem, TRACES)
    try:
        about = provenance.read_json(sidecar)
        fits = (
            about["RunFingerprint"] == job.fingerprint(row)
            and about["Sha256"] == provenance.sha256(folder / path)
            and about["TracesSha256"] == provenance.sha256(folder / traces)
        )
        known = about["Quality"]
    except (OSError, InputError, KeyError, TypeError):  # not there, or not whole: made again
        return None
    if not fits:
        return None
    with remembered(known, lambda: Traces.read(folder / traces)):
        quality.check_by_hand(row["participant_id"], row["run_id"], job.config.exclude)
        quality.check(known, job.config.exclude)
    return _entry(row, path, traces, about["Sha256"], about["RunFingerprint"])


def _entry(row: dict[str, str], path: Path, traces: Path, sha256: str, fingerprint: str) -> dict[str, str]:
    paths = {"path": path.as_posix(), "traces": traces.as_posix()}
    return {"run_id": row["run_id"], **paths, "sha256": sha256, "fingerprint": fingerprint}


def _exclusion(job: Job, row: dict[str, str], reason: RunExcluded, study: Study) -> dict[str, Any]:
    """Return the receipt's row of a run that is left out, with what is known of it nonetheless.

    What it looked like lies under ``qc/``: nothing in the derivatives may look finished.
    """
    where = (job.dataset, row["participant_id"], row["run_id"], row["image"])
    found: dict[str, Any] = exclusion("parcellate", *where, reason.reason, reason.detail)
    if reason.traces is not None:
        path = study.qc(job.dataset) / "left_out" / f"{row['run_id']}_{TRACES}"
        _write_traces(reason.traces, path)
        found["traces"] = path.relative_to(study.root).as_posix()
    return found | ({"quality": reason.quality} if reason.quality else {})


def _write_traces(traces: Traces, path: Path) -> None:
    remove_partial(path)
    with atomic(path) as temporary:
        traces.write(temporary)


def _write(job: Job, row: dict[str, str], result: CleanRun, folder: Path) -> dict[str, str]:
    """Write a run's four files, the sidecar last, and return its receipt entry."""
    stem = _stem(job, row)
    path, sidecar = _with_suffix(stem, "timeseries.npy"), _with_suffix(stem, "timeseries.json")
    (folder / sidecar).unlink(missing_ok=True)  # an older run's sidecar must not vouch for new data
    for suffix in ("timeseries.npy", "timeseries.json", "coverage.tsv"):
        remove_partial(folder / _with_suffix(stem, suffix))
    with atomic(folder / path) as temporary:
        np.save(temporary, result.series)
    coverage = job.regions.table[["index", "atlas", "label", "name"]].assign(
        n_voxels=result.n_used, coverage=result.coverage.round(4), tsnr=result.tsnr.round(2)
    )
    text = coverage.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n")
    write_text(folder / _with_suffix(stem, "coverage.tsv"), text)
    traces = _with_suffix(stem, TRACES)
    _write_traces(result.traces, folder / traces)
    digest, fingerprint = provenance.sha256(folder / path), job.fingerprint(row)
    inputs = {row["image"]: row["fingerprint"]} if row["offset"] != "n/a" else fingerprints_of(job, row)
    about = provenance.describe("parcellate", inputs=inputs, settings=job.settings, packages=PACKAGES, **result.facts)
    about |= {"RegionOrderHash": job.regions.order_hash, "Atlases": job.regions.atlases}
    digests = {"Sha256": digest, "TracesSha256": provenance.sha256(folder / traces)}
    provenance.write_json(folder / sidecar, about | {"RunFingerprint": fingerprint} | digests)
    return _entry(row, path, traces, digest, fingerprint)


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

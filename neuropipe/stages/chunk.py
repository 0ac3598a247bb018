"""One chunk's manifest worked through, run by run: what `parcellate` and `volumes` have in common.

Only the process that holds the chunk's lock writes; its workers compute. A killed job leaves finished
runs behind (their sidecar is written last) and the next one goes on from there.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

from neuropipe import provenance
from neuropipe.bids.index import exclusion, input_fingerprints, read_tsv
from neuropipe.config import StudyConfig
from neuropipe.errors import ConfigError, InputError, RunExcluded
from neuropipe.locks import lock
from neuropipe.paths import Study, write_if_changed
from neuropipe.signals import quality
from neuropipe.stages import pool
from neuropipe.train.progress import Progress

log = logging.getLogger("neuropipe")

Row = dict[str, str]


class Job(Protocol):
    """What all runs of a dataset share; each stage has its own."""

    dataset: str
    root: Path
    config: StudyConfig

    @property
    def stamp(self) -> str:
        """Hash by which a worker knows that the configuration is still that of the job."""


@dataclass(frozen=True)
class Stage:
    """What a stage does with the runs of a chunk.

    Attributes
    ----------
    name : str
        The command.
    paths : tuple of str
        Keys of a receipt entry that name files, relative to the derivatives until the receipt is written.
    load : callable (config, dataset) -> Job
        Importable by name, as `attempt`: workers start from nothing.
    attempt : callable (job, row) -> result or RunExcluded
        Computes one run; only what excludes a run is caught, so that bugs surface.
    finished : callable (job, row, folder) -> dict or None
        The receipt entry of a run that is already there, made from the same with the same; raises RunExcluded where
        a limit of the configuration, which may have changed, leaves it out.
    write : callable (job, row, result, folder) -> dict
        Writes a run's files, the sidecar last, and returns its receipt entry.
    describe : callable (job, folder)
        Writes what says of the folder what it is.
    excluded : callable (job, row, reason, study) -> dict
        The receipt's row of a run that is left out.
    run_bytes : callable (job, rows) -> int
        What the largest run takes in memory beside the process itself.
    """

    name: str
    paths: tuple[str, ...]
    load: Callable[[str, str], Job]
    attempt: Callable[[Any, Row], Any]
    finished: Callable[[Any, Row, Path], dict[str, str] | None]
    write: Callable[[Any, Row, Any, Path], dict[str, str]]
    describe: Callable[[Any, Path], None]
    excluded: Callable[[Any, Row, RunExcluded, Study], dict[str, Any]]
    run_bytes: Callable[[Any, list[Row]], int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of a command that works through a chunk."""
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


def work_through(
    stage: Stage, *, config: str, dataset: str, manifest: str, output: str, derivatives: str | None, workers: int
) -> None:
    """Work through one chunk's manifest and write its receipt."""
    receipt = Path(output)
    study = Study(receipt.absolute().parents[2])
    folder = Path(derivatives) if derivatives else study.derivatives(dataset)
    rows = read_tsv(manifest).to_dict("records")
    job = stage.load(config, dataset)
    chunk = Path(manifest).stem.rpartition("-")[2]
    with lock(folder / f".lock-chunk-{chunk}"):
        stage.describe(job, folder)
        products, left_out = _work(stage, job, rows, folder, workers, config)
        _check_still_there(stage, products, folder)
        for product in products:
            for key in set(stage.paths) & set(product):
                product[key] = study.relative(folder / product[key])
        excluded = [stage.excluded(job, row, reason, study) for row, reason in left_out]
        about = {"stage": stage.name, "dataset": dataset, "chunk": chunk}
        provenance.write_json(receipt, about | {"products": products, "excluded": excluded})
    log.info("%s %s chunk %s: %d runs done, %d left out", stage.name, dataset, chunk, len(products), len(excluded))


def _work(
    stage: Stage, job: Job, rows: list[Row], folder: Path, workers: int, config: str
) -> tuple[list[dict[str, str]], list[tuple[Row, RunExcluded]]]:
    """Return products of a chunk, and the rows that are left out with their reasons, both in the manifest's order."""
    done, left_out, todo = {}, {}, []
    for row in rows:
        try:
            finished = stage.finished(job, row, folder)
            if finished is None:
                quality.check_by_hand(row["participant_id"], row["run_id"], job.config.exclude)
        except RunExcluded as reason:
            left_out[row["run_id"]] = reason
            continue
        if finished is None:
            todo.append(row)
        else:
            done[row["run_id"]] = finished
    progress = Progress(f"{stage.name} {job.dataset}", len(rows), len(done) + len(left_out), unit="runs", log_every_s=0)
    for row, result in _results(stage, job, todo, workers, config):
        if isinstance(result, RunExcluded):
            left_out[row["run_id"]] = result
            progress.advance(f"{row['run_id']} left out: {result.reason}")
        else:
            done[row["run_id"]] = stage.write(job, row, result, folder)
            progress.advance(row["run_id"])
    progress.close()
    products = [done[row["run_id"]] for row in rows if row["run_id"] in done]
    return products, [(row, left_out[row["run_id"]]) for row in rows if row["run_id"] in left_out]


def _check_still_there(stage: Stage, products: list[dict[str, str]], folder: Path) -> None:
    """Refuse to vouch for runs whose files were deleted while others were worked on."""
    paths = [product[key] for product in products for key in stage.paths if key in product]
    gone = [path for path in paths if not (folder / path).is_file()]
    if gone:
        raise InputError(
            f"{folder}: {len(gone)} of {len(paths)} finished files are gone, {gone[0]} among them: something deleted "
            "them while this command ran. Start it again; it makes what is missing."
        )


def _results(stage: Stage, job: Job, rows: list[Row], workers: int, config: str) -> Iterator[tuple[Row, Any]]:
    """Yield runs as they are finished."""
    n_workers, run_bytes = min(workers, len(rows)), None
    if n_workers > 1:
        run_bytes = max(pool.BASE_BYTES, pool.own_peak_bytes()) + stage.run_bytes(job, rows)
        n_workers = pool.width(n_workers, run_bytes, pool.free_bytes())
    if n_workers <= 1:
        for row in rows:
            yield row, stage.attempt(job, row)
        return
    work = partial(_attempt_in_worker, stage, config, job.dataset, job.stamp)
    yield from pool.each(work, rows, n_workers, name=lambda row: row["run_id"], run_bytes=run_bytes)


def _attempt_in_worker(stage: Stage, config: str, dataset: str, stamp: str, row: Row) -> Any:
    return stage.attempt(_job_of_worker(stage, config, dataset, stamp), row)


@lru_cache(maxsize=1)
def _job_of_worker(stage: Stage, config: str, dataset: str, stamp: str) -> Job:
    """Load the job once per worker process; atlases are too large to be sent with each run."""
    job = stage.load(config, dataset)
    if job.stamp != stamp:
        raise ConfigError(f"{config} changed while it was being worked on; start the command again.")
    return job


# --- a run --------------------------------------------------------------------------------------


def attempt(process: Callable[[Any, Row], Any], job: Job, row: Row) -> Any:
    """Compute one run, or return why it is left out; every other error is a bug and goes on up."""
    try:
        in_bank = row["offset"] != "n/a"
        if not in_bank and provenance.hash_json(fingerprints_of(job, row)) != row["fingerprint"]:
            raise RunExcluded("changed since index", f"the files of {row['run_id']} are not those indexed; index again")
        return process(job, row)
    except RunExcluded as reason:
        return reason


def fingerprints_of(job: Job, row: Row) -> dict[str, str]:
    """Return the fingerprint of each file of a run; a file that is gone excludes the run."""
    try:
        return input_fingerprints(job.root, row)
    except OSError as error:
        raise RunExcluded("missing file", f"{error}; fetch or copy it, or index again") from error


def inputs_of(job: Job, row: Row) -> dict[str, str]:
    """Return what the sidecar says a run was made from: its files, or its row of a bank."""
    return {row["image"]: row["fingerprint"]} if row["offset"] != "n/a" else fingerprints_of(job, row)


def folder_of(row: Row, datatype: str) -> Path:
    """Return the folder of a run's products, relative to the derivatives; `datatype` is ``func`` or ``anat``."""
    session = [f"ses-{row['session']}"] if row["session"] != "n/a" else []
    return Path(row["participant_id"], *session, datatype)


def left_out(stage: str, job: Job, row: Row, reason: RunExcluded) -> dict[str, Any]:
    """Return the receipt's row of a run that is left out, with what is known of it nonetheless."""
    where = (job.dataset, row["participant_id"], row["run_id"], row["image"])
    found: dict[str, Any] = exclusion(stage, *where, reason.reason, reason.detail)
    return found | ({"quality": reason.quality} if reason.quality else {})


def describe_folder(folder: Path, what: str) -> None:
    """Write the dataset description where it is not there or differs."""
    version = provenance.versions()["neuropipe"]
    about = {
        "Name": f"neuropipe: {what}",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "neuropipe", "Version": version}],
    }
    write_if_changed(folder / "dataset_description.json", json.dumps(about, indent=1) + "\n")

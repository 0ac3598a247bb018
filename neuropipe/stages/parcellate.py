"""Stage parcellate: the runs of one chunk become clean regional series with sidecars, and one receipt."""

from __future__ import annotations

import argparse
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from neuropipe import provenance
from neuropipe.errors import InputError, RunExcluded
from neuropipe.paths import Study, atomic, remove_partial, write_text
from neuropipe.signals import quality
from neuropipe.signals.extract import VOLUMES_PER_READ, grid_of
from neuropipe.signals.run import CleanRun, remembered
from neuropipe.signals.traces import Traces
from neuropipe.stages import chunk
from neuropipe.stages.parcellate_job import Job, attempt

PACKAGES = ("numpy", "scipy", "pandas", "nibabel", "isal")
TRACES = "traces.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    chunk.add_arguments(parser)


def run(**arguments: Any) -> None:
    """Work through one chunk's manifest and write its receipt; the arguments are those of the command."""
    chunk.work_through(STAGE, **arguments)


def _read_bytes(job: Job, rows: list[dict[str, str]]) -> int:
    """Return what the volumes of the largest image take that are in memory at a time, as the widest numbers.

    Surfaces add nothing: what is read of them at a time is small.
    """
    n_voxels = 0
    for row in rows if job.atlases else []:
        with suppress(RunExcluded):  # no volume, or an image that cannot be read and is left out in its turn
            n_voxels = max(n_voxels, math.prod(grid_of(job.root / row["image"])[0][:3]))
    return VOLUMES_PER_READ * n_voxels * 8


# --- files --------------------------------------------------------------------------------------


def _stem(job: Job, row: dict[str, str]) -> Path:
    """Return a product's path relative to the derivatives, up to its last entity."""
    name = f"{row['run_id']}_seg-{job.config.series_atlas(job.dataset)}_desc-clean"
    return chunk.folder_of(row, "func") / name


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
    found = chunk.left_out("parcellate", job, row, reason)
    if reason.traces is not None:
        path = study.qc(job.dataset) / "left_out" / f"{row['run_id']}_{TRACES}"
        _write_traces(reason.traces, path)
        found["traces"] = path.relative_to(study.root).as_posix()
    return found


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
    inputs = chunk.inputs_of(job, row)
    about = provenance.describe("parcellate", inputs=inputs, settings=job.settings, packages=PACKAGES, **result.facts)
    about |= {"RegionOrderHash": job.regions.order_hash, "Atlases": job.regions.atlases}
    digests = {"Sha256": digest, "TracesSha256": provenance.sha256(folder / traces)}
    provenance.write_json(folder / sidecar, about | {"RunFingerprint": fingerprint} | digests)
    return _entry(row, path, traces, digest, fingerprint)


def _describe_folder(job: Job, folder: Path) -> None:
    """Write the region table and the dataset description where they are not there or differ."""
    job.regions.write(folder / "regions.tsv")
    chunk.describe_folder(folder, f"clean regional series of {job.dataset}")


STAGE = chunk.Stage(
    name="parcellate",
    paths=("path", "traces"),
    load=Job.load,
    attempt=attempt,
    finished=_finished,
    write=_write,
    describe=_describe_folder,
    excluded=_exclusion,
    run_bytes=_read_bytes,
)

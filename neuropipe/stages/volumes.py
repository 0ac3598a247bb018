"""Stage volumes: maps of anatomy, or slices, become arrays of one grid and unit, with sidecars and one receipt.

Regional volumes (mL) are summed on the way, in the atlases of the study.
"""

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
from neuropipe.stages import chunk
from neuropipe.stages.volumes_job import Job, ReadyScan, attempt
from neuropipe.volumes.headers import shape_and_affine

PACKAGES = ("numpy", "scipy", "pandas", "nibabel", "isal")
BYTES_PER_VOXEL = 40  # a map as read in double precision, turned, cut, scaled and packed
SLICES_EXPECTED = 256  # of a scan, where only the table of pictures could tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    chunk.add_arguments(parser)


def run(**arguments: Any) -> None:
    """Work through one chunk's manifest and write its receipt; the arguments are those of the command."""
    chunk.work_through(STAGE, **arguments)


def _read_bytes(job: Job, rows: list[dict[str, str]]) -> int:
    """Return what the largest scan takes while it is prepared."""
    if job.section.content == "image":
        return BYTES_PER_VOXEL * SLICES_EXPECTED * math.prod(job.config.volumes.image_size)
    n_voxels = math.prod(job.config.volumes.size or (1,))
    for row in rows:
        with suppress(RunExcluded):  # an image that cannot be read is left out in its turn
            n_voxels = max(n_voxels, math.prod(shape_and_affine(job.root / row["image"])[0][-3:]))
    return BYTES_PER_VOXEL * n_voxels


# --- files --------------------------------------------------------------------------------------


def _paths(job: Job, row: dict[str, str]) -> tuple[Path, Path, Path]:
    """Return where the array, its sidecar and the table of volumes of a scan lie, relative to the derivatives."""
    stem = chunk.folder_of(row, "anat") / f"{row['run_id']}_desc-ready"
    array = stem.with_name(f"{stem.name}_{job.suffix}.npy")
    return array, array.with_suffix(".json"), stem.with_name(f"{stem.name}_volumes.tsv")


def _finished(job: Job, row: dict[str, str], folder: Path) -> dict[str, str] | None:
    """Return the receipt entry of a scan that is already there, made from the same with the same.

    Raises
    ------
    RunExcluded
        It is there, but a limit of the configuration, which may have changed, leaves it out.
    """
    path, sidecar, table = _paths(job, row)
    try:
        about = provenance.read_json(folder / sidecar)
        fits = about["RunFingerprint"] == job.fingerprint(row) and about["Sha256"] == provenance.sha256(folder / path)
        if len(job.regions):
            fits = fits and about["VolumesSha256"] == provenance.sha256(folder / table)
        known = about["Quality"]
    except (OSError, InputError, KeyError, TypeError):  # not there, or not whole: made again
        return None
    if not fits:
        return None
    try:
        quality.check_by_hand(row["participant_id"], row["run_id"], job.config.exclude)
        quality.check(known, job.config.exclude)
    except RunExcluded as reason:
        reason.quality = known
        raise
    return _entry(job, row, about["Sha256"], about["RunFingerprint"])


def _entry(job: Job, row: dict[str, str], sha256: str, fingerprint: str) -> dict[str, str]:
    path, _, table = _paths(job, row)
    paths = {"path": path.as_posix()} | ({"volumes": table.as_posix()} if len(job.regions) else {})
    return {"run_id": row["run_id"], **paths, "sha256": sha256, "fingerprint": fingerprint}


def _write(job: Job, row: dict[str, str], result: ReadyScan, folder: Path) -> dict[str, str]:
    """Write a scan's files, the sidecar last, and return its receipt entry."""
    path, sidecar, table = _paths(job, row)
    (folder / sidecar).unlink(missing_ok=True)  # an older scan's sidecar must not vouch for new data
    for file in (path, sidecar, table):
        remove_partial(folder / file)
    with atomic(folder / path) as temporary:
        np.save(temporary, result.array)
    digests = {"Sha256": provenance.sha256(folder / path)}
    if len(job.regions):
        columns = {"coverage": result.regional["coverage"].round(4), "volume_ml": result.regional["volume_ml"].round(6)}
        volumes = job.regions.table[["index", "atlas", "label", "name"]].assign(
            n_voxels=result.regional["n_voxels"], **columns
        )
        write_text(folder / table, volumes.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n"))
        digests["VolumesSha256"] = provenance.sha256(folder / table)
    fingerprint = job.fingerprint(row)
    about = provenance.describe(
        "volumes", inputs=chunk.inputs_of(job, row), settings=job.settings, packages=PACKAGES, **_facts(job, result)
    )
    provenance.write_json(folder / sidecar, about | {"RunFingerprint": fingerprint} | digests)
    return _entry(job, row, digests["Sha256"], fingerprint)


def _facts(job: Job, result: ReadyScan) -> dict[str, Any]:
    """Return what the sidecar says of a scan itself."""
    facts = {
        "Content": job.section.content,
        "Scale": result.scale,
        "Shift": result.shift,
        "Quality": result.quality,
        "RegionOrderHash": job.regions.order_hash,
        "Atlases": job.regions.atlases,
    }
    if result.grid is not None:
        facts["Grid"] = result.grid.as_json()
    return facts | ({"Slices": result.names} if result.names else {})


def _describe_folder(job: Job, folder: Path) -> None:
    job.regions.write(folder / "regions.tsv")
    chunk.describe_folder(folder, f"maps of anatomy of {job.dataset} on one grid")


def _exclusion(job: Job, row: dict[str, str], reason: RunExcluded, study: Study) -> dict[str, Any]:
    return chunk.left_out("volumes", job, row, reason)


STAGE = chunk.Stage(
    name="volumes",
    paths=("path", "volumes"),
    load=Job.load,
    attempt=attempt,
    finished=_finished,
    write=_write,
    describe=_describe_folder,
    excluded=_exclusion,
    run_bytes=_read_bytes,
)

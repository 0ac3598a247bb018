"""Runs of giga_connectome: tables of series (since 0.5), or HDF5 files of a study or a subject (0.1 to 0.4).

    sub-*/[ses-*/]func/*_seg-<atlas>_desc-denoise<Strategy>_timeseries.tsv     since 0.6
    sub-*/[ses-*/]func/*_atlas-<atlas>_desc-<part><Strategy>_timeseries.tsv    0.5
    [sub-*_]atlas-<atlas>_desc-<strategy>.h5                                   0.1 to 0.4; inside, per run:
        sub-*/[ses-*/]*_atlas-<atlas>_desc-<part>_timeseries                   (0.1 to 0.3 say ``tast-``)

In all of them a column is known by its place alone: the tables' headers count 0, 1, 2 ... A region that was
lost when the atlas was resampled moves all later ones, so as many columns as regions are demanded. Series
are denoised voxel by voxel, z-scored before regions were averaged, and lack scrubbed volumes; the sidecars of
0.6 say how many, not which.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neuropipe.bids import entities
from neuropipe.bids.fmriprep import check_fetched, functional_folders
from neuropipe.bids.index import Found, inputs_fingerprint
from neuropipe.bids.ready import Ready, Search, is_positive, settle
from neuropipe.bids.series_tables import count_rows, read_table, rows_fingerprint
from neuropipe.bids.sidecars import Sidecars
from neuropipe.errors import InputError, RunExcluded

TABLE = "_timeseries.tsv"
HDF5 = (".h5", ".hdf5")
INSIDE = "_timeseries"
STRATEGY = re.compile(r"denoise(?P<strategy>.+)")


def find(path: Path, search: Search) -> Found:
    """Find the usable runs of giga_connectome's output: tables, HDF5 files, or one such file.

    Parameters
    ----------
    path : Path
        Folder or ``.h5`` file.
    search : Search
        Of what is wanted, ``segmentation`` is the atlas with its part (``Schaefer2018400Parcels7Networks``),
        ``strategy`` the denoising, whatever the version calls them.

    Raises
    ------
    InputError
        There is no such folder or file, or no series of that atlas in it.
    """
    if not path.exists():
        raise InputError(
            f"No {path}; expected what giga_connectome wrote (sub-*/func, or *.h5). "
            f"Correct datasets.{search.dataset}.path."
        )
    candidates: dict[str, list[tuple[str, str]]] = defaultdict(list)
    found, seen = Found(), set()
    in_files = dict(_in_files(search, path, found))
    for place, said in [*_tables(path), *in_files.items()]:
        seen.add(said["segmentation"])
        if entities.matches(said, search.wanted):
            candidates[said["run_id"]].append((f"sub-{said['subject']}", place))
    if seen and not candidates and not found.excluded:
        wishes = ", ".join(f"{key} {value}" for key, value in search.wanted.items())
        raise InputError(
            f"{path} has no series that select wants ({wishes}); found the atlases {', '.join(sorted(seen))}. Name one "
            f"as datasets.{search.dataset}.select: {{seg: ...}}."
        )
    sidecars = Sidecars(search.root)

    def row(run_id: str, place: str) -> dict[str, str]:
        if place in in_files:
            return _row_of_file(search, run_id, place)
        return _row_of_table(search, sidecars, run_id, place)

    settle(found, search, candidates, row)
    return found


def said_by(name: str) -> dict[str, str]:
    """Return what the name of a series says, with one word for what the versions call differently."""
    name = name.replace("_tast-", "_task-")  # 0.1 to 0.3
    said = entities.of_name(name) | {"datatype": "func", "run_id": entities.run_key(name)}
    desc = said.get("desc", "")
    if (new := STRATEGY.fullmatch(desc)) is not None:
        said["strategy"] = new["strategy"].lower()
    elif "atlas" in said:  # the part of the atlas, and in tables of 0.5 the strategy, end to end
        said["segmentation"] = said["atlas"] + desc
    return said


def _tables(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the paths of tables, relative to the folder, with what their names say."""
    for _, folders in functional_folders(path) if path.is_dir() else ():
        for folder in folders:
            for name in folder.names:
                said = said_by(name) if name.endswith(TABLE) else {}
                if "segmentation" in said:
                    yield f"{folder.path}/{name}", said


def _in_files(search: Search, path: Path, found: Found) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ``<file>:<name inside>`` of the series in HDF5 files, with what their names say."""
    files = [path] if path.is_file() else sorted(file for end in HDF5 for file in path.rglob(f"*{end}"))
    for file in files:
        name = file.relative_to(search.root).as_posix()
        strategy = {"strategy": entities.of_name(f"{file.stem}_file.h5").get("desc", "").lower()}
        try:
            check_fetched(file)
            inside: list[str] = []
            with h5py.File(file, "r") as content:
                content.visititems(
                    lambda at, item, to=inside: to.append(at) if isinstance(item, h5py.Dataset) else None
                )
        except RunExcluded as reason:
            found.excluded.append(search.exclusion("n/a", "n/a", name, reason))
        except OSError as error:
            detail = f"{name} cannot be read as HDF5 ({error}); copy or make it again"
            found.excluded.append(search.exclusion("n/a", "n/a", name, RunExcluded("damaged file", detail)))
        else:
            for at in inside:
                said = said_by(at.rpartition("/")[2])
                if at.endswith(INSIDE) and {"subject", "segmentation"} <= said.keys():
                    yield f"{name}:{at}", said | strategy


def _row_of_table(search: Search, sidecars: Sidecars, run_id: str, path: str) -> dict[str, str]:
    check_fetched(search.root / path)
    frequency = sidecars.of(path).get("SamplingFrequency")
    stated = 1 / frequency if is_positive(frequency) else None
    row = search.row(run_id.partition("_")[0], run_id, path, stated, count_rows(search.root / path) - 1)
    row |= _entities(path.rpartition("/")[2])
    return row | {"fingerprint": inputs_fingerprint(search.root, row)}


def _row_of_file(search: Search, run_id: str, place: str) -> dict[str, str]:
    file, _, inside = place.partition(":")
    series, stated = _read_inside(search.root / file, inside)
    row = search.row(run_id.partition("_")[0], run_id, file, stated, len(series))
    return row | _entities(inside.rpartition("/")[2]) | {"offset": inside, "fingerprint": rows_fingerprint(series)}


def _entities(name: str) -> dict[str, str]:
    said = said_by(name)
    return {key: said.get(key, "") for key in ("session", "task", "run", "space")}


def _read_inside(path: Path, inside: str) -> tuple[np.ndarray, float | None]:
    """Return a series (time, region) of an HDF5 file, and its repetition time in s (since 0.4)."""
    try:
        with h5py.File(path, "r") as content:
            series, stated = content[inside][:], content[inside].attrs.get("RepetitionTime")
            stated = None if stated is None else float(stated)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise RunExcluded("damaged file", f"{inside} of {path.name} cannot be read ({error}); copy it again") from error
    if series.ndim != 2 or not len(series) or series.dtype.kind not in "fiu":
        raise RunExcluded("damaged table", f"{inside}: expected (time, region), found shape {series.shape}")
    return series, stated


def read(root: Path, row: Mapping[str, str]) -> Ready:
    """Read a run, its mean displacement and what was removed.

    Raises
    ------
    RunExcluded
        It is damaged, or not what was indexed.
    """
    done: dict[str, Any] = {
        "Denoised": "by giga_connectome, voxel by voxel",
        "Standardized": "voxels, before averaging",
    }
    if row["offset"] != "n/a":
        series, _ = _read_inside(root / row["image"], row["offset"])
        if rows_fingerprint(series) != row["fingerprint"]:
            raise RunExcluded("changed since index", f"{row['run_id']} in {row['image']} is not what was indexed")
        return Ready(series.astype(np.float64), done=done)
    series, _ = read_table(root / row["image"])
    stated = Sidecars(root).of(row["image"])
    known = {}
    if is_positive(stated.get("MeanFramewiseDisplacement")):
        known["mean_fd_mm"] = float(stated["MeanFramewiseDisplacement"])
    n_scrubbed = stated.get("NumberOfVolumesDiscardedByMotionScrubbing", 0)
    if is_positive(n_scrubbed):
        known["high_motion_share"] = n_scrubbed / (n_scrubbed + len(series))
        done["VolumesRemovedAtUnknownTimes"] = n_scrubbed
    for key in ("ConfoundRegressors", "NumberOfVolumesDiscardedByNonsteadyStatesDetector"):
        if key in stated:
            done[key] = stated[key]
    return Ready(series, known=known, done=done)

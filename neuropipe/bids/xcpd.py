"""Runs of an XCP-D folder: parcellated series with what lies beside them (motion, outliers, coverage, filters).

XCP-D changed its names over time; all of these are read, <seg> being ``seg-`` or ``atlas-``:

    *_space-*_<seg>-*[_stat-mean]_timeseries.tsv               one column per region, named in the header
    *_space-*_<seg>-*[_den-91k][_stat-mean]_timeseries.ptseries.nii    where there is no tsv (before 0.3)
    *[_desc-filtered]_motion.tsv, *_outliers.tsv               one row per volume, dummy scans not counted
    *_<seg>-*_stat-coverage_bold.tsv, *_<seg>-*_coverage.tsv   one row per region
    *_desc-denoised_bold.json                                  RepetitionTime and SoftwareFilters
    [sourcedata/][atlases/]**/*atlas-*_dseg.tsv                the regions

Since 0.4 the series lack the censored volumes (linc mode) or hold interpolated ones (abcd, hbcd modes);
outliers.tsv says which, and the lengths say which of both it is. The sidecar of a series gives no
usable sampling rate ("SamplingFrequency": "TR"), that of the denoised image gives the repetition time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.bids import entities
from neuropipe.bids.fmriprep import Folder, check_fetched, functional_folders
from neuropipe.bids.index import Found, inputs_fingerprint, read_tsv
from neuropipe.bids.ready import Ready, Search, settle
from neuropipe.bids.series_tables import count_rows, read_table
from neuropipe.bids.sidecars import read_sidecar
from neuropipe.errors import InputError, RunExcluded

SERIES = ("_timeseries.tsv", "_timeseries.ptseries.nii")
# One series of all runs of a task, joined end to end: it lacks these entities, and repeats what the runs hold.
JOINED_OVER = ("run", "dir")
FD = "framewise_displacement"


def find(path: Path, search: Search) -> Found:
    """Find the usable runs of an XCP-D folder.

    Parameters
    ----------
    path : Path
        Folder with the ``sub-*`` folders.
    search : Search
        Of what is wanted, ``segmentation`` is XCP-D's name of the atlas, also in files that call it ``atlas-``.

    Raises
    ------
    InputError
        There is no such folder, or no series of that atlas in it.
    """
    if not path.is_dir():
        raise InputError(
            f"No folder {path}; expected what XCP-D wrote (sub-*/func). Correct datasets.{search.dataset}.path."
        )
    found, seen = Found(), set()
    for _, folders in functional_folders(path):
        for folder in folders:
            series = dict(_series(folder))
            seen |= {said.get("segmentation", "n/a") for said in series.values()}
            _find_in_folder(search, folder, series, found)
    atlas = search.wanted.get("segmentation")
    if seen and isinstance(atlas, str) and not found.runs and not found.excluded:
        raise InputError(
            f"{path} has no series of the atlas {atlas!r} that select wants; found the atlases "
            f"{', '.join(sorted(seen))}. Name one as datasets.{search.dataset}.atlas, or as select: {{seg: ...}}."
        )
    return found


def said_by(name: str) -> dict[str, str]:
    """Return the entities of a file name; ``atlas-`` counts as ``seg-``."""
    said = entities.of_name(name)
    return {"segmentation": said["atlas"]} | said if "atlas" in said else said


def _series(folder: Folder) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the names of series with their entities; an image where there is a table of the same is not one."""
    tables = {_identity(name) for name in folder.names if name.endswith(SERIES[0])}
    for name in folder.names:
        if name.endswith(SERIES) and (name.endswith(SERIES[0]) or _identity(name) not in tables):
            said = said_by(name)
            if "segmentation" in said and said.get("stat", "mean") == "mean":
                yield name, said


def _identity(name: str) -> tuple[str, ...]:
    said = said_by(name)
    return entities.run_key(name), said.get("segmentation", ""), said.get("space", "")


def _find_in_folder(search: Search, folder: Folder, series: Mapping[str, dict[str, str]], found: Found) -> None:
    """Add the runs of one folder."""
    candidates: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, said in series.items():
        if entities.matches(said | {"datatype": "func"}, search.wanted):
            candidates[entities.run_key(name)].append((f"sub-{said['subject']}", f"{folder.path}/{name}"))
    for run_id in _joined(list(candidates)):
        for person, path in candidates.pop(run_id):
            detail = f"{path} joins runs that are there themselves; select {{run: null}} takes it instead of them"
            found.excluded.append(search.exclusion(person, run_id, path, RunExcluded("joined runs", detail)))
    of_run: dict[str, list[str]] = defaultdict(list)
    for name in folder.names:
        of_run[entities.run_key(name)].append(name)

    def row(run_id: str, path: str) -> dict[str, str]:
        return _row(search, Folder(folder.path, tuple(of_run[run_id])), run_id, path)

    settle(found, search, candidates, row)


def _joined(run_ids: list[str]) -> list[str]:
    """Return the runs that are other runs joined: their name is that of others without ``run-`` and ``dir-``."""

    def cut(run_id: str) -> str:
        return "_".join(pair for pair in run_id.split("_") if pair.partition("-")[0] not in JOINED_OVER)

    shortened = {cut(run_id) for run_id in run_ids if cut(run_id) != run_id}
    return [run_id for run_id in run_ids if run_id in shortened]


@dataclass(frozen=True)
class Beside:
    """What belongs to one series: names of files in its folder, empty where there is none."""

    motion: str
    outliers: str
    coverage: str
    denoised: str

    @classmethod
    def of(cls, folder: Folder, series: str) -> Beside:
        """Find what belongs to a series by its entities."""
        run, mine = entities.run_key(series), said_by(series)
        found = dict.fromkeys(("motion", "outliers", "coverage", "denoised"), "")
        for name in sorted(folder.names, key=len, reverse=True):  # the plainest name is met last, and stays
            if entities.run_key(name) != run:
                continue
            said = said_by(name)
            same_space = said.get("space") == mine.get("space")
            suffix, extension = said["suffix"], said["extension"]
            if extension == ".tsv" and suffix in ("motion", "outliers"):
                found[suffix] = name
            elif extension == ".tsv" and same_space and said.get("segmentation") == mine["segmentation"]:
                if suffix == "coverage" or (suffix == "bold" and said.get("stat") == "coverage"):
                    found["coverage"] = name
            elif name.endswith("_desc-denoised_bold.json") and same_space:
                found["denoised"] = name
        return cls(**found)


def _row(search: Search, folder: Folder, run_id: str, path: str) -> dict[str, str]:
    """Return the manifest row of a run, of which `folder` has all files."""
    root, name = search.root / folder.path, path.rpartition("/")[2]
    beside, said = Beside.of(folder, name), said_by(name)
    others = [one for one in (beside.outliers, beside.coverage, beside.denoised) if one]
    for one in (name, beside.motion, *others):
        if one:
            check_fetched(root / one)
    stated, n_rows = _length(root / name)
    if beside.denoised:
        stated = read_sidecar(root / beside.denoised).get("RepetitionTime", stated)
    n_volumes = len(_outliers(root / beside.outliers, n_rows)) if beside.outliers else n_rows
    row = search.row(f"sub-{said['subject']}", run_id, path, stated, n_volumes)
    row |= {key: said.get(key, "") for key in ("session", "task", "run", "space")}
    row |= {"confounds": f"{folder.path}/{beside.motion}" if beside.motion else ""}
    row |= {"beside": ";".join(f"{folder.path}/{one}" for one in others)}
    return row | {"fingerprint": inputs_fingerprint(search.root, row)}


def _length(path: Path) -> tuple[float | None, int]:
    """Return the repetition time in s (images say one) and the number of rows of a series."""
    if path.suffix == ".tsv":
        return None, count_rows(path) - 1
    series, _, t_r = _read_image(path)
    return t_r, len(series)


def _read_image(path: Path) -> tuple[np.ndarray, list[str], float | None]:
    """Return series (time, column), names and repetition time in s of a ``.ptseries.nii``."""
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nib.load(path)
        time, parcels = (image.header.get_axis(axis) for axis in (0, 1))
        series = np.asarray(image.dataobj, dtype=np.float64)
        return series, [str(name) for name in parcels.name], float(time.step) if time.unit == "SECOND" else None
    except (ImageFileError, OSError, ValueError, AttributeError, IndexError) as error:
        raise RunExcluded("damaged image", f"{path.name} is no CIFTI image of parcels in time: {error}") from error


def _outliers(path: Path, n_rows: int) -> np.ndarray:
    """Return which volumes XCP-D censored (bool); they number `n_rows`, or `n_rows` of them are not censored."""
    flags = _column(*read_table(path), path) != 0
    if n_rows not in (len(flags), int((~flags).sum())):
        raise RunExcluded(
            "length mismatch",
            f"expected {len(flags)} volumes, or the {int((~flags).sum())} that {path.name} does not censor, found "
            f"{n_rows} in the series; they are of different runs of XCP-D",
        )
    return flags


def _bare(name: str) -> str:
    """Return a column's name without the hash of XCP-D's settings that its layout ``multiverse`` adds."""
    return name.partition("_hash-")[0]


def _column(values: np.ndarray, names: list[str], path: Path) -> np.ndarray:
    """Return the column of framewise displacement: before any filter where both are there."""
    if not names and values.shape[1] == 1:  # before 0.3 these files had no header
        return values[:, 0]
    fitting = [i for i, name in enumerate(names) if _bare(name) == FD]
    if not fitting:
        raise RunExcluded("damaged table", f"{path.name}: expected a column {FD}, found {', '.join(names)}")
    return values[:, fitting[0]]


# --- reading ------------------------------------------------------------------------------------


def read(root: Path, row: Mapping[str, str]) -> Ready:
    """Read a run: series on the whole time axis, censored volumes, displacement, coverage, and what was done.

    Raises
    ------
    RunExcluded
        A file is damaged, or the lengths do not fit together.
    """
    path = root / row["image"]
    series, names = _read_image(path)[:2] if path.suffix == ".nii" else read_table(path)
    names = [_bare(name) for name in names]
    beside = Beside.of(
        Folder("", tuple(Path(one).name for one in (row["confounds"], *row["beside"].split(";")))), path.name
    )
    censored, done = np.zeros(len(series), dtype=bool), {"Denoised": "by XCP-D", "Censoring": "none"}
    if beside.outliers:
        censored = _outliers(path.with_name(beside.outliers), len(series))
        done["Censoring"] = "volumes replaced by interpolation" if len(series) == len(censored) else "volumes removed"
        if not censored.any():
            done["Censoring"] = "none"
        series = _on_whole_axis(series, censored)
    if beside.denoised:
        done["SoftwareFilters"] = read_sidecar(path.with_name(beside.denoised)).get("SoftwareFilters")
    return Ready(
        series,
        names,
        named=True,
        censored=censored,
        fd_mm=_displacement(path.with_name(beside.motion), len(series)) if beside.motion else None,
        coverage=_coverage(path.with_name(beside.coverage), names) if beside.coverage else None,
        done=done,
    )


def _on_whole_axis(series: np.ndarray, censored: np.ndarray) -> np.ndarray:
    """Put the volumes back where they were in time; those that were removed become rows of NaN."""
    if len(series) == len(censored):
        return series
    whole = np.full((len(censored), series.shape[1]), np.nan)
    whole[~censored] = series
    return whole


def _displacement(path: Path, n_volumes: int) -> np.ndarray:
    fd = _column(*read_table(path), path).copy()
    if len(fd) != n_volumes:
        raise RunExcluded("length mismatch", f"expected {n_volumes} rows in {path.name}, found {len(fd)}")
    fd[0] = np.nan if fd[0] == 0 else fd[0]  # XCP-D writes 0 for the first volume, which has none before it
    return fd


def _coverage(path: Path, names: list[str]) -> np.ndarray:
    """Return the coverage of each column; NaN where the table does not name it."""
    try:
        table = read_tsv(path)
        column = next((column for column in table.columns[1:] if _bare(column) == "coverage"), None)
        if column is None:
            raise ValueError(f"found {list(table)}")
    except (InputError, ValueError, OSError) as error:  # pandas' and Unicode's errors are ValueErrors
        raise RunExcluded("damaged table", f"{path.name}: expected a name and coverage in each row: {error}") from error
    of = dict(zip(table.iloc[:, 0], pd.to_numeric(table[column], errors="coerce"), strict=True))
    return np.array([of.get(name, np.nan) for name in names])

"""Runs of an HDF5 file in the layout of Brain-Semantoks, ours or those of others (see `neuropipe.shards.hdf5`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from neuropipe.bids import entities
from neuropipe.bids.fmriprep import check_fetched
from neuropipe.bids.index import Found
from neuropipe.bids.ready import Ready, Search
from neuropipe.bids.series_tables import rows_fingerprint
from neuropipe.errors import InputError, RunExcluded
from neuropipe.shards import hdf5 as layout


def find(path: Path, search: Search, atlases: Sequence[str]) -> Found:
    """Find the recordings of a file.

    Parameters
    ----------
    path : Path
        The file, or a folder that holds one.
    search : Search
        What can be wanted are ``subject`` and ``run`` (the how-manieth recording of a person).
    atlases : sequence of str
        Ids of the atlases, in the order in which their regions are joined.
    """
    file_path, found = the_file(path), Found()
    with layout.opened(file_path) as file:
        slots, t_r_s = slots_for(file, atlases), file["t_r"][:] if "t_r" in file else None
        for i, (participant, run) in enumerate(_runs(file)):
            run_id = f"{participant}_run-{run}" if run else participant
            said = {"subject": participant.removeprefix("sub-")} | ({"run": run} if run else {})
            if not entities.matches(said, search.wanted):
                continue
            try:
                series = layout.recording(file, slots, i)
                if not len(series):
                    raise RunExcluded("no series", f"recording {i} ({run_id}) of {file_path.name} has no samples")
                stated = None if t_r_s is None else float(t_r_s[i])
                facts = participant, run_id, file_path.name, stated, len(series)
                row = search.row(*facts, resampled=stated is not None)
                found.runs.append(row | {"run": run, "offset": str(i), "fingerprint": rows_fingerprint(series)})
            except RunExcluded as reason:
                found.excluded.append(search.exclusion(participant, run_id, f"{file_path.name}:{i}", reason))
    return found


def the_file(path: Path) -> Path:
    """Return the file itself, or the only one of a folder."""
    files = sorted([*path.glob("*.h5"), *path.glob("*.hdf5")]) if path.is_dir() else [path] * path.is_file()
    if len(files) != 1:
        raise InputError(
            f"{path}: expected one HDF5 file, found {', '.join(f.name for f in files) or 'none'}; name it."
        )
    return files[0]


def slots_for(file: h5py.File, atlases: Sequence[str]) -> tuple[str, ...]:
    """Return what the atlases are called in a file."""
    return layout.slots_of(file, [layout.SLOTS.get(atlas, atlas) for atlas in atlases])


def _runs(file: h5py.File) -> list[tuple[str, str]]:
    """Return participant_id and number (text; empty for an only one) of each recording."""
    ids = [_participant(name) for name in layout.subject_ids(file)]
    originals = dict(zip(ids, layout.subject_ids(file), strict=True))
    for one, original in zip(ids, layout.subject_ids(file), strict=True):
        if originals[one] != original:
            raise InputError(
                f"{file.filename}: the ids {original!r} and {originals[one]!r} would both become {one}; make them "
                "differ in letters and digits."
            )
    counts, met, runs = Counter(ids), Counter(), []
    for one in ids:
        met[one] += 1
        runs.append((one, str(met[one]) if counts[one] > 1 else ""))
    return runs


def _participant(name: str) -> str:
    """Return an id as a BIDS label: letters and digits only, behind ``sub-``."""
    return "sub-" + "".join(letter for letter in name.removeprefix("sub-") if letter.isalnum())


def people(path: Path) -> pd.DataFrame:
    """Return the people of a file with its labels as text; where a person's recordings disagree, ``n/a``."""
    with layout.opened(the_file(path)) as file:
        layout.slots_of(file)
        ids = [participant for participant, _ in _runs(file)]
        labels = {name: [_text(value) for value in values] for name, values in layout.labels_of(file).items()}
    table = pd.DataFrame({"participant_id": ids} | {k: v for k, v in labels.items() if len(v) == len(ids)}, dtype=str)
    if not len(table):
        raise InputError(f"{path} holds no recordings.")
    one = table.groupby("participant_id", sort=False).agg(
        lambda values: values.iloc[0] if values.nunique() == 1 else "n/a"
    )
    return one.reset_index()


def _text(value: Any) -> str:
    if isinstance(value, str | np.str_):
        return str(value) or "n/a"
    return "n/a" if np.isnan(value) else f"{value:.10g}"


def read(root: Path, row: Mapping[str, str], atlases: Sequence[str]) -> Ready:
    """Read one recording; regions that it marks as missing are NaN.

    Raises
    ------
    RunExcluded
        The file is damaged, or the recording is not what was indexed.
    """
    path = root / row["image"]
    check_fetched(path)
    try:
        with layout.opened(path) as file:
            series = layout.recording(file, slots_for(file, atlases), int(row["offset"]))
    except (InputError, OSError, IndexError, ValueError) as error:
        raise RunExcluded("damaged file", f"{row['run_id']} in {path.name}: {error}") from error
    if rows_fingerprint(series) != row["fingerprint"]:
        raise RunExcluded("changed since index", f"{row['run_id']} in {path.name} is not what was indexed; index again")
    return Ready(series.astype(np.float64), done={"Denoised": "before it was written to the file"})

"""Runs of ready-made series: folders of tables (.1D, tsv, csv, npy) and banks (one .npz for everybody)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from neuropipe.bids import entities, participants
from neuropipe.bids.fmriprep import T_R_TOLERANCE, check_fetched
from neuropipe.bids.index import Found, chunk_of, exclusion, inputs_fingerprint
from neuropipe.bids.series_tables import BANK, open_bank, read_table, rows_fingerprint
from neuropipe.bids.sidecars import read_sidecar
from neuropipe.errors import InputError, RunExcluded

TABLE_EXTENSIONS = (".1D", ".tsv", ".csv", ".npy")
# Tables that lie beside series and hold something else.
OTHER_TABLES = ("participants", "phenotypic", "sessions", "scans", "regions", "events")
SKIPPED_FOLDERS = ("figures", "log", "logs", "code", "sourcedata")


def data_root(path: Path) -> Path:
    """Return the folder that a dataset's relative paths start from (the path may be a bank itself)."""
    return path.parent if path.suffix == ".npz" else path


def find(
    path: Path, dataset: str, select: Mapping[str, Any], people: pd.DataFrame, t_r: float | None, n_chunks: int
) -> Found:
    """Find the series of a folder of tables, or of a bank.

    Parameters
    ----------
    path : Path
        A folder with tables, a folder with ``series.npz``, or the bank itself.
    dataset : str
        Name of the dataset, for the excluded rows.
    select : mapping
        BIDS entities to keep (BIDS-named tables only).
    people : DataFrame
        As of `neuropipe.bids.participants.load`; ``t_r`` (s), ``file_id`` and ``n_volumes`` are used where present.
    t_r : float or None
        Repetition time in s where nothing else gives one.
    n_chunks : int
        Number of chunks.
    """
    if not path.exists():
        raise InputError(f"No {path}; expected a folder of tables or a bank {BANK}. Correct datasets.{dataset}.path.")
    bank = path / BANK if path.is_dir() else path
    if bank.is_file():
        return _find_in_bank(bank, dataset, people, t_r, n_chunks)
    return _find_tables(path, dataset, select, people, t_r, n_chunks)


def _row(
    person: Mapping[str, str], n_chunks: int, run_id: str, image: str, t_r: float, n_volumes: int
) -> dict[str, str]:
    subject = person["participant_id"].removeprefix("sub-")
    return {
        "run_id": run_id,
        "chunk": f"{chunk_of(subject, n_chunks):02d}",
        "participant_id": person["participant_id"],
        "subject": subject,
        "t_r": repr(t_r),
        "n_volumes": str(n_volumes),
        "image": image,
    }


def _t_r(person: Mapping[str, str], sidecar: Any, fallback: float | None, what: str) -> float:
    """Return the repetition time in s from the sidecar, the participants table or the configuration, in this order."""
    column = pd.to_numeric(person.get("t_r", "n/a"), errors="coerce")
    given = [value for value in (sidecar, column) if isinstance(value, int | float) and value > 0]
    if len(given) == 2 and abs(given[0] - given[1]) > T_R_TOLERANCE * given[0]:
        raise RunExcluded(
            "repetition time mismatch", f"{what}: the sidecar says {given[0]} s, participants.tsv {given[1]} s"
        )
    if not given and fallback is None:
        raise RunExcluded(
            "no repetition time",
            f"{what}: neither a sidecar, nor a column t_r of participants.tsv, nor t_r of the dataset in config.yaml "
            "gives the repetition time in seconds",
        )
    return float(given[0] if given else fallback)


def _find_in_bank(bank: Path, dataset: str, people: pd.DataFrame, t_r: float | None, n_chunks: int) -> Found:
    """Return the runs of a bank, whose i-th series belongs to the i-th row of the participants.tsv beside it."""
    bold, offsets = open_bank(bank)
    beside = bank.with_name("participants.tsv")
    order = participants.load(beside) if beside.is_file() else people
    if len(order) != len(offsets) - 1:
        raise InputError(
            f"{bank} holds {len(offsets) - 1} series, but {beside} has {len(order)} rows; a bank's series are in the "
            "order of the rows of the participants.tsv beside it."
        )
    by_id = {person["participant_id"]: person for person in people.to_dict("records")}
    found = Found()
    for i, run_id in enumerate(order["participant_id"]):
        start, end = int(offsets[i]), int(offsets[i + 1])
        try:
            person = by_id.get(run_id)
            if person is None:
                raise RunExcluded("no participants row", f"{run_id} of {bank.name} has no row in participants.tsv")
            stated = person.get("n_volumes", "n/a")
            if stated not in ("n/a", str(end - start)):
                raise RunExcluded(
                    "length mismatch",
                    f"{run_id}: participants.tsv says {stated} volumes, {bank.name} has {end - start}",
                )
            row = _row(person, n_chunks, run_id, bank.name, _t_r(person, None, t_r, run_id), end - start)
            found.runs.append(row | {"offset": str(start), "fingerprint": rows_fingerprint(bold[start:end])})
        except RunExcluded as reason:
            found.excluded.append(exclusion("index", dataset, run_id, run_id, bank.name, reason.reason, reason.detail))
    return found


def _tables(root: Path) -> Iterable[str]:
    """Yield the paths, relative to `root`, of everything that may be a table of series."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in SKIPPED_FOLDERS)
        for name in sorted(names):
            if name.endswith(TABLE_EXTENSIONS) and not name.startswith((".", *OTHER_TABLES)):
                pairs, suffix, _ = entities.split_name(name)
                if "sub" not in pairs or (suffix == "timeseries" and pairs.get("desc") != "confounds"):
                    yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")


def _find_tables(
    root: Path, dataset: str, select: Mapping[str, Any], people: pd.DataFrame, t_r: float | None, n_chunks: int
) -> Found:
    wanted = entities.normalise_select(select)
    by_id = {person["participant_id"]: person for person in people.to_dict("records")}
    by_file = {person["file_id"]: person for person in by_id.values() if person.get("file_id", "n/a") != "n/a"}
    found, files = Found(), {}
    for path in _tables(root):
        name = path.rpartition("/")[2]
        bids = "sub" in entities.split_name(name)[0]
        parsed = entities.parse(path) if bids else {}
        if bids and not entities.matches(parsed, wanted):
            continue
        try:
            person = by_id.get(f"sub-{parsed['subject']}") if bids else _owner(name, by_id, by_file)
            if person is None:
                raise RunExcluded("no participants row", f"no row of participants.tsv has an id that {name} names")
            run_id = entities.run_key(name) if bids else person["participant_id"]
            files.setdefault(run_id, []).append((path, person, parsed))
        except RunExcluded as reason:
            someone = f"sub-{parsed['subject']}" if bids else "n/a"
            found.excluded.append(exclusion("index", dataset, someone, "n/a", path, reason.reason, reason.detail))
    for run_id, candidates in files.items():
        try:
            if len(candidates) > 1:
                names = ", ".join(path for path, _, _ in candidates)
                raise RunExcluded(
                    "ambiguous", f"{len(candidates)} files for one run: {names}; narrow select, or remove one"
                )
            found.runs.append(_table_row(root, run_id, *candidates[0], t_r=t_r, n_chunks=n_chunks))
        except RunExcluded as reason:
            for path, person, _ in candidates:
                found.excluded.append(
                    exclusion("index", dataset, person["participant_id"], run_id, path, reason.reason, reason.detail)
                )
    return found


def _owner(
    name: str, by_id: Mapping[str, dict[str, str]], by_file: Mapping[str, dict[str, str]]
) -> dict[str, str] | None:
    """Return whose table a file without BIDS name is, by whole ids only.

    ``NYU_0050954_rois_cc200.1D`` belongs to the row with file_id ``NYU_0050954``, or else to
    ``sub-0050954``, because ``0050954`` is one of the words between its underscores.
    """
    words = name.removesuffix(Path(name).suffix).split("_")
    starts = ["_".join(words[:n]) for n in range(len(words), 0, -1)]
    if (file_id := next((start for start in starts if start in by_file), None)) is not None:
        return by_file[file_id]
    owners = [by_id[entities.participant_id(word)] for word in words if entities.participant_id(word) in by_id]
    if len(owners) > 1:
        ids = ", ".join(owner["participant_id"] for owner in owners)
        raise RunExcluded("ambiguous", f"{name} names several people ({ids}); add a column file_id to participants.tsv")
    return owners[0] if owners else None


def _table_row(
    root: Path,
    run_id: str,
    path: str,
    person: Mapping[str, str],
    parsed: Mapping[str, str],
    *,
    t_r: float | None,
    n_chunks: int,
) -> dict[str, str]:
    check_fetched(root / path)
    sidecar = (root / path).with_suffix(".json")
    given = read_sidecar(sidecar).get("RepetitionTime") if sidecar.is_file() else None
    series, _ = read_table(root / path)
    row = _row(person, n_chunks, run_id, path, _t_r(person, given, t_r, path), len(series))
    row |= {key: parsed.get(key, "") for key in ("session", "task", "run", "space")}
    return row | {"fingerprint": inputs_fingerprint(root, row)}

"""Runs of ready-made series: folders of tables (.1D, tsv, csv, npy) and banks (one .npz for everybody)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from neuropipe.bids import entities, participants
from neuropipe.bids.fmriprep import check_fetched
from neuropipe.bids.index import Found, inputs_fingerprint
from neuropipe.bids.ready import Ready, Search, manifest_row, owner, repetition_time, settle
from neuropipe.bids.series_tables import BANK, open_bank, read_run, read_table, rows_fingerprint
from neuropipe.bids.sidecars import read_sidecar
from neuropipe.errors import InputError, RunExcluded

TABLE_EXTENSIONS = (".1D", ".tsv", ".csv", ".npy")
# Tables that lie beside series and hold something else.
OTHER_TABLES = ("participants", "phenotypic", "sessions", "scans", "regions", "events")
SKIPPED_FOLDERS = ("figures", "log", "logs", "code", "sourcedata")
SUFFIX = "timeseries"  # of BIDS names
ENTITIES = ("session", "task", "run", "space")
ONE_FILE = (".npz", ".h5", ".hdf5", ".tar")


def data_root(path: Path) -> Path:
    """Return the folder that a dataset's relative paths start from (the path may be one file of many runs)."""
    return path.parent if path.suffix in ONE_FILE else path


def find(path: Path, search: Search) -> Found:
    """Find the series of a folder of tables, or of a bank.

    Parameters
    ----------
    path : Path
        A folder with tables, a folder with ``series.npz``, or the bank itself.
    search : Search
        What is wanted counts for BIDS-named tables only; of the people ``t_r`` (s), ``file_id`` and ``n_volumes`` are
        used where present.
    """
    if not path.exists():
        raise InputError(
            f"No {path}; expected a folder of tables or a bank {BANK}. Correct datasets.{search.dataset}.path."
        )
    bank = path / BANK if path.is_dir() else path
    if bank.is_file():
        return _find_in_bank(bank, search)
    return _find_tables(path, search)


def _find_in_bank(bank: Path, search: Search) -> Found:
    """Return the runs of a bank, whose i-th series belongs to the i-th row of the participants.tsv beside it."""
    bold, offsets = open_bank(bank)
    beside = bank.with_name("participants.tsv")
    order = list(participants.load(beside)["participant_id"] if beside.is_file() else search.persons)
    if len(order) != len(offsets) - 1:
        raise InputError(
            f"{bank} holds {len(offsets) - 1} series, but {beside} has {len(order)} rows; a bank's series are in the "
            "order of the rows of the participants.tsv beside it."
        )
    found = Found()
    for i, run_id in enumerate(order):
        start, end = int(offsets[i]), int(offsets[i + 1])
        try:
            person = owner(search.persons, run_id, bank.name)
            stated = person.get("n_volumes", "n/a")
            if stated not in ("n/a", str(end - start)):
                raise RunExcluded(
                    "length mismatch",
                    f"{run_id}: participants.tsv says {stated} volumes, {bank.name} has {end - start}",
                )
            seconds = repetition_time(person, None, search.t_r, run_id)
            row = manifest_row(person, search.n_chunks, run_id, bank.name, seconds, end - start)
            found.runs.append(row | {"offset": str(start), "fingerprint": rows_fingerprint(bold[start:end])})
        except RunExcluded as reason:
            found.excluded.append(search.exclusion(run_id, run_id, bank.name, reason))
    return found


def _tables(root: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the path below `root` of everything that may be a table of series, and its BIDS entities, if any."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in SKIPPED_FOLDERS)
        for name in sorted(names):
            if name.endswith(TABLE_EXTENSIONS) and not name.startswith((".", *OTHER_TABLES)):
                path = os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
                yield path, entities.parse(path) if "sub" in entities.split_name(name)[0] else {}


def _find_tables(root: Path, search: Search) -> Found:
    found, files, owners = Found(), {}, {}
    for path, parsed, whose in _owned(root, search):
        if isinstance(whose, RunExcluded):
            someone = f"sub-{parsed['subject']}" if parsed else "n/a"
            found.excluded.append(search.exclusion(someone, "n/a", path, whose))
            continue
        run_id = entities.run_key(path.rpartition("/")[2]) if parsed else whose["participant_id"]
        files.setdefault(run_id, []).append((whose["participant_id"], path))
        owners[path] = whose
    if not files:
        _say_what_there_is(root, search)
    settle(found, search, files, lambda run_id, path: _table_row(search, run_id, path, owners[path]))
    return found


def _owned(root: Path, search: Search) -> Iterator[tuple[str, dict[str, str], dict[str, str] | RunExcluded]]:
    """Yield the tables that are wanted: path, BIDS entities, and whose series it holds, or why these are nobody's.

    Of tables with BIDS names those of suffix ``timeseries`` are wanted, confounds left out; a selection may say else.
    """
    persons, wanted = search.persons, {"suffix": SUFFIX} | search.wanted
    by_file = {person["file_id"]: person for person in persons.values() if person.get("file_id", "n/a") != "n/a"}
    for path, parsed in _tables(root):
        is_confounds = parsed.get("desc") == "confounds" and "desc" not in wanted
        if parsed and (is_confounds or not entities.matches(parsed, wanted)):
            continue
        name = path.rpartition("/")[2]
        try:
            whose = owner(persons, f"sub-{parsed['subject']}", name) if parsed else _owner(name, persons, by_file)
            yield path, parsed, whose
        except RunExcluded as reason:
            yield path, parsed, reason


def _say_what_there_is(root: Path, search: Search) -> None:
    """Raise where tables have BIDS names, but none has the wanted suffix."""
    suffixes = Counter(parsed["suffix"] for _, parsed in _tables(root) if parsed)
    wanted = search.wanted.get("suffix", SUFFIX)
    if suffixes and not any(entities.matches({"suffix": suffix}, {"suffix": wanted}) for suffix in suffixes):
        listed = ", ".join(f"*_{suffix} ({n})" for suffix, n in suffixes.most_common(5))
        raise InputError(
            f"{root}: expected tables sub-*_{wanted}, found {listed}. Name the ones that hold series by their suffix, "
            f"datasets.{search.dataset}.select: {{suffix: {suffixes.most_common(1)[0][0]}}}, or rename them."
        )


def columns(search: Search) -> tuple[list[str], str]:
    """Return the names in the header of the first table that can be read, and its path; no names where it has none."""
    root = search.root
    for path, _, whose in _owned(root, search) if root.is_dir() and not (root / BANK).is_file() else ():
        try:
            if not isinstance(whose, RunExcluded):
                return read_table(root / path)[1], path
        except RunExcluded:
            continue
    return [], str(root)


def _owner(name: str, persons: Mapping[str, dict[str, str]], by_file: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """Return whose table a file without BIDS name is, by whole ids only.

    ``NYU_0050954_rois_cc200.1D`` belongs to the row with file_id ``NYU_0050954``, or else to
    ``sub-0050954``, because ``0050954`` is one of the words between its underscores.
    """
    words = name.removesuffix(Path(name).suffix).split("_")
    starts = ["_".join(words[:n]) for n in range(len(words), 0, -1)]
    if (file_id := next((start for start in starts if start in by_file), None)) is not None:
        return by_file[file_id]
    owners = [persons[entities.participant_id(word)] for word in words if entities.participant_id(word) in persons]
    if len(owners) > 1:
        ids = ", ".join(owner["participant_id"] for owner in owners)
        raise RunExcluded("ambiguous", f"{name} names several people ({ids}); add a column file_id to participants.tsv")
    if not owners:
        raise RunExcluded("no participants row", f"no row of participants.tsv has an id that {name} names")
    return owners[0]


def _table_row(search: Search, run_id: str, path: str, person: Mapping[str, str]) -> dict[str, str]:
    root = search.root
    check_fetched(root / path)
    sidecar = (root / path).with_suffix(".json")
    given = read_sidecar(sidecar).get("RepetitionTime") if sidecar.is_file() else None
    series, _ = read_table(root / path)
    t_r = repetition_time(person, given, search.t_r, path)
    row = manifest_row(person, search.n_chunks, run_id, path, t_r, len(series))
    name = path.rpartition("/")[2]
    if "sub" in entities.split_name(name)[0]:
        row |= {key: value for key, value in entities.of_name(name).items() if key in ENTITIES}
    return row | {"fingerprint": inputs_fingerprint(root, row)}


def read(root: Path, row: Mapping[str, str]) -> Ready:
    """Read the series of a manifest row; nothing is known of what was done to them."""
    series, names = read_run(root, row)
    return Ready(series, names)

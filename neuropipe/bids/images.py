"""Folders of pictures, one slice each, with a table that says whose they are: a scan is all slices of a session.

The table (``slices.tsv`` or ``slices.csv`` in the folder, or the dataset's `table`) has the columns

    path              of a PNG, JPEG or TIFF file, from the folder
    participant_id    whose it is; pictures without a person are refused, because no split could keep them apart
    session           optional: several scans of one person
    slice             optional: its number in the scan; without it, slices are in the order of their names,
                      numbers in them compared as numbers
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from neuropipe.bids import entities, maps, own_people
from neuropipe.bids.index import Found, inputs_fingerprint
from neuropipe.bids.ready import Search
from neuropipe.bids.tree import check_fetched
from neuropipe.config import Dataset, expand
from neuropipe.errors import InputError, RunExcluded
from neuropipe.volumes import pictures

TABLES = ("slices.tsv", "slices.csv")
NEEDED = ("path", "participant_id")
MAX_NAMED = 3  # files in a message


def find(path: Path, search: Search, section: Dataset) -> Found:
    """Find the scans of a folder of pictures.

    Parameters
    ----------
    path : Path
        The folder.
    search : Search
        What is wanted counts for subject and session.
    section : Dataset
        `table` names the table.

    Raises
    ------
    InputError
        There is no table, or it does not say whose the pictures are.
    """
    table, found = slices(path, section), Found()
    _exclude_unnamed(search, table, found)
    _exclude_unlisted(search, path, table, found)
    scans: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in table[table["participant_id"] != "n/a"].to_dict("records"):
        session = own_people.label(row["session"].removeprefix("ses-")) if row["session"] != "n/a" else "n/a"
        said = {"subject": row["participant_id"].removeprefix("sub-")}
        said |= {} if session == "n/a" else {"session": session}
        if entities.matches(said, search.wanted):
            scans[row["participant_id"], session].append(row)
    twice = {place for place, count in Counter(table["path"]).items() if count > 1}
    for (person_id, session), rows in scans.items():
        run_id = person_id if session == "n/a" else f"{person_id}_ses-{session}"
        try:
            found.runs.append(_row(search, person_id, run_id, session, _in_order(rows, twice), found))
        except RunExcluded as reason:
            found.excluded.append(search.exclusion(person_id, run_id, rows[0]["path"], reason))
    return found


def people(path: Path, section: Dataset) -> pd.DataFrame:
    """Return the people of the table; of several slices of one person, what they agree on."""
    return own_people.of_table(slices(path, section), _table_file(path, section)).drop(columns=["path", "slice"])


def slices(path: Path, section: Dataset) -> pd.DataFrame:
    """Return the table of the pictures as text, with columns path, participant_id, session and slice."""
    file = _table_file(path, section)
    table = own_people.read_table(file)
    lacking = [column for column in NEEDED if column not in table]
    if lacking:
        raise InputError(
            f"{file} needs the columns {', '.join(NEEDED)}; found {list(table.columns)}. Without its person a slice "
            "cannot be kept on one side of a split."
        )
    for column in ("session", "slice"):
        if column not in table:
            table[column] = "n/a"
    outside = [place for place in table["path"] if not _is_inside(place)]
    if outside:
        raise InputError(f"{file}: expected paths from {path} without .. and ;, found {outside[0]!r}.")
    return table


def _table_file(path: Path, section: Dataset) -> Path:
    if not path.is_dir():
        raise InputError(f"No folder {path}; expected a folder of pictures with a table {TABLES[0]}.")
    if section.table is not None:
        named = Path(expand(section.table))
        return named if named.is_absolute() or named.is_file() else path / named
    for name in TABLES:
        if (path / name).is_file():
            return path / name
    raise InputError(
        f"{path} has no {' or '.join(TABLES)}; expected a table of the pictures with the columns "
        f"{', '.join(NEEDED)} (table: names another). Pictures without their person cannot be used."
    )


def _is_inside(place: str) -> bool:
    parts = PurePosixPath(place).parts
    return bool(parts) and place != "n/a" and not place.startswith("/") and ".." not in parts and ";" not in place


# --- what is left out ---------------------------------------------------------------------------


def _exclude_unnamed(search: Search, table: pd.DataFrame, found: Found) -> None:
    for place in table.loc[table["participant_id"] == "n/a", "path"]:
        reason = RunExcluded("no person", f"{place}: its participant_id is empty; fill it in")
        found.excluded.append(search.exclusion("n/a", "n/a", place, reason))


def _exclude_unlisted(search: Search, path: Path, table: pd.DataFrame, found: Found) -> None:
    """Tell in one row of pictures that the table does not list."""
    extensions = (*pictures.EXTENSIONS, *map(str.upper, pictures.EXTENSIONS))
    unlisted = sorted(set(maps.files(path, extensions)) - set(table["path"]))
    if unlisted:
        some = ", ".join(unlisted[:MAX_NAMED]) + (" ..." if len(unlisted) > MAX_NAMED else "")
        reason = RunExcluded(
            "not in the table", f"{len(unlisted)} pictures ({some}) have no row; add them, or leave it"
        )
        found.excluded.append(search.exclusion("n/a", "n/a", ".", reason))


def _in_order(rows: Sequence[Mapping[str, str]], twice: set[str]) -> list[str]:
    """Return the paths of a scan's slices in their order.

    Raises
    ------
    RunExcluded
        One picture is listed twice, two have one number, or only some have one.
    """
    if repeated := [row["path"] for row in rows if row["path"] in twice]:
        raise RunExcluded("ambiguous", f"{repeated[0]} has more than one row of the table; keep one")
    numbers = pd.to_numeric(pd.Series([row["slice"] for row in rows]), errors="coerce")
    if numbers.isna().all() and all(row["slice"] == "n/a" for row in rows):
        return sorted((row["path"] for row in rows), key=natural)
    if numbers.isna().any():
        bad = rows[int(numbers.isna().argmax())]
        raise RunExcluded(
            "ambiguous", f"{bad['path']}: slice is {bad['slice']!r}; expected numbers for all or for none"
        )
    if numbers.duplicated().any():
        one = rows[int(numbers.duplicated().argmax())]
        raise RunExcluded("ambiguous", f"{one['path']}: another picture of the scan has slice {one['slice']} too")
    return [rows[i]["path"] for i in np.argsort(numbers.to_numpy(), kind="stable")]


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts ``slice_10`` behind ``slice_9``."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _row(
    search: Search, person_id: str, run_id: str, session: str, places: Sequence[str], found: Found
) -> dict[str, str]:
    """Return the row of a scan; single pictures that do not open are left out, and the others stay."""
    root, good = search.root, []
    for place in places:
        try:
            check_fetched(root / place)
            pictures.check(root / place)
            good.append(place)
        except RunExcluded as reason:
            found.excluded.append(search.exclusion(person_id, run_id, place, reason))
        except InputError as error:
            reason = RunExcluded("damaged image", str(error))
            found.excluded.append(search.exclusion(person_id, run_id, place, reason))
    if not good:
        raise RunExcluded("no slices", f"none of the {len(places)} pictures of {run_id} can be read")
    row = maps.manifest_row(search, person_id, run_id, good[0], {} if session == "n/a" else {"session": session})
    row["beside"] = ";".join(good[1:])
    return row | {"fingerprint": inputs_fingerprint(root, row)}


def read(root: Path, row: Mapping[str, str], image_size: tuple[int, int]) -> maps.Map:
    """Read the slices of a scan, each fitted into `image_size` (rows, columns)."""
    names = [row["image"], *(other for other in row["beside"].split(";") if other not in ("", "n/a"))]
    stack = np.empty((len(names), *image_size), dtype=np.float32)
    for place, name in enumerate(names):
        check_fetched(root / name)
        try:
            picture = pictures.read(root / name)
        except InputError as error:
            raise RunExcluded("damaged image", f"{error} Copy it again, or take its row out of the table") from error
        stack[place] = pictures.fit(maps.checked(picture, name), image_size)
    return maps.Map(stack, names=names)

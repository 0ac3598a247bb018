"""Which files belong to which person, and what each holds: the input of ``neuropipe predict``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from neuropipe.errors import InputError

SUBJECT = re.compile(r"(?:^|[^A-Za-z0-9])?(sub-[A-Za-z0-9]+)")
NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True)
class Person:
    """One person with their files, in the order in which they were named."""

    participant_id: str
    files: list[Path] = field(default_factory=list)


class LeftOut(NamedTuple):
    """One file that is not predicted; a row of ``excluded.tsv``."""

    path: str
    participant_id: str
    reason: str
    detail: str


def group(files: Sequence[Path], table: Path | None) -> tuple[list[Person], list[LeftOut]]:
    """Return the people of `files`, and the files that are left out.

    Parameters
    ----------
    files : sequence of Path
    table : Path, optional
        A tab-separated table of ``path`` and ``participant_id``; a file that it does not list is a person of its own.

    Raises
    ------
    InputError
        There is no file, or the table cannot be used.
    """
    if not files:
        raise InputError("No file to predict; name NIfTI maps or pictures of slices after the options.")
    listed = read_table(table) if table is not None else {}
    people: dict[str, Person] = {}
    left_out: list[LeftOut] = []
    seen: set[Path] = set()
    for path in files:
        resolved = path.resolve()
        person_id = listed.get(resolved) or own_id(path)
        if reason := _refused(path, resolved in seen):
            left_out.append(LeftOut(str(path), person_id, *reason))
            continue
        seen.add(resolved)
        person = people.setdefault(person_id, Person(person_id))
        if person.files and resolved not in listed:
            detail = f"{person.files[0]} is of {person_id} too; list both in --persons to average them, or keep one"
            left_out.append(LeftOut(str(path), person_id, "duplicate person", detail))
            continue
        person.files.append(path)
    return list(people.values()), left_out


def _refused(path: Path, is_repeated: bool) -> tuple[str, str] | None:
    """Return why a file is not even opened."""
    if is_repeated:
        return "duplicate person", "this file was named twice; it is predicted once"
    if not path.is_file():
        return "missing file", f"no file at {path}; check the path"
    if not path.name.lower().endswith(NIFTI + PICTURES):
        return "unknown format", f"expected one of {', '.join(NIFTI + PICTURES)}, found {path.name}"
    return None


def own_id(path: Path) -> str:
    """Return the person that a file name says: its BIDS label for maps, the name itself for pictures."""
    stem = re.sub(r"\.(nii\.gz|[^.]+)$", "", path.name)
    label = SUBJECT.search(stem)
    return label[1] if label and is_nifti(path) else stem


def is_nifti(path: Path) -> bool:
    """Return whether a file's name is that of a NIfTI image."""
    return path.name.lower().endswith(NIFTI)


def read_table(path: Path) -> dict[Path, str]:
    """Return the person of each file in a table; paths are relative to the table's folder, or to where one is.

    Raises
    ------
    InputError
        A column is missing, a cell is empty, or a file is listed for two people.
    """
    import pandas as pd

    if not path.is_file():
        raise InputError(f"No table of persons at {path}; expected tab-separated columns path and participant_id.")
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    if missing := [name for name in ("path", "participant_id") if name not in table]:
        raise InputError(f"{path} lacks {' and '.join(missing)}; found the columns {', '.join(table.columns)}.")
    found: dict[Path, str] = {}
    for number, (name, person_id) in enumerate(zip(table["path"], table["participant_id"], strict=True), start=2):
        if not name or person_id in ("", "n/a"):
            raise InputError(
                f"{path}, line {number}: expected a path and a participant_id, found {name!r}, {person_id!r}."
            )
        beside = path.parent / name
        resolved = (beside if beside.exists() else Path(name)).resolve()
        if found.setdefault(resolved, person_id) != person_id:
            raise InputError(f"{path}, line {number}: {name} is of {person_id}, and of {found[resolved]} above.")
    return found

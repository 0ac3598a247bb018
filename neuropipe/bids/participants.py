"""participants.tsv: found, read as text, and brought to one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from neuropipe.bids.entities import participant_id
from neuropipe.bids.index import read_tsv
from neuropipe.errors import InputError
from neuropipe.provenance import read_json

MAX_LEVELS = 4  # <bids>/derivatives/<name>/<version> is the deepest layout in use
EMPTY = {"", "n/a", "N/A", "NA", "NaN", "nan"}


def find(root: Path) -> Path:
    """Return the participants.tsv of a dataset: in `root`, or above it up to the BIDS root.

    Raises
    ------
    InputError
        There is none; the message lists where it was looked for.
    """
    looked = [folder / "participants.tsv" for folder in data_folders(root)]
    for path in looked:
        if path.is_file() or path.is_symlink():  # a link without content is an error of its own
            return path
    raise InputError(
        "No participants.tsv found; looked for " + ", ".join(map(str, looked)) + ". "
        "Put one there, or name it in config.yaml as datasets.<name>.participants."
    )


def data_folders(root: Path) -> list[Path]:
    """Return `root` and the folders above it up to the BIDS root: where tables of the raw data may lie."""
    folders = [root.absolute()]
    for folder in root.absolute().parents[:MAX_LEVELS]:
        folders.append(folder)
        if is_raw_root(folder):
            break
    return folders


def is_raw_root(folder: Path) -> bool:
    """Return whether a folder describes itself as a raw BIDS dataset."""
    description = folder / "dataset_description.json"
    if not description.is_file():
        return False
    try:
        return read_json(description).get("DatasetType", "raw") == "raw"
    except (InputError, AttributeError):  # a broken description says nothing: keep looking
        return False


def load(path: Path) -> pd.DataFrame:
    """Read a participants table as text, tab-separated, or by commas where its name ends in ``.csv``.

    Returns
    -------
    DataFrame
        ``participant_id`` first and with the prefix ``sub-``, rows in the file's order, ``n/a`` for
        every empty value.

    Raises
    ------
    InputError
        No such file, no column ``participant_id``, an empty id, or one id twice.
    """
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path} is a link without content; fetch it (datalad get {path.name}).")
    if not path.is_file():
        raise InputError(f"No participants table {path}; correct datasets.<name>.participants, or put it there.")
    separated = "comma" if path.suffix == ".csv" else "tab"
    table = read_tsv(path, "," if separated == "comma" else "\t")
    table.columns = [column.strip() for column in table.columns]
    if "participant_id" not in table:
        raise InputError(f"{path} needs a column participant_id ({separated} separated); found {list(table.columns)}.")
    table = table.apply(lambda column: column.str.strip())
    table = table.mask(table.isin(EMPTY), "n/a")
    if (table["participant_id"] == "n/a").any():
        line = int((table["participant_id"] == "n/a").to_numpy().argmax()) + 2
        raise InputError(f"{path}, line {line}: the participant_id is empty; give each row the label of one person.")
    ids = table["participant_id"].map(participant_id)
    table["participant_id"] = ids.str.normalize("NFC")  # as file names are compared
    repeated = table.loc[table["participant_id"].duplicated(), "participant_id"].unique()
    if len(repeated):
        raise InputError(
            f"{path} has more than one row for {', '.join(repeated[:5])}{' ...' if len(repeated) > 5 else ''}; "
            "expected one row per person (what changes between sessions belongs into sessions.tsv)."
        )
    return table[["participant_id", *(c for c in table if c != "participant_id")]]


def _bare(person_id: str) -> str:
    """Return an id without what people lose on the way: upper case and leading zeros."""
    return person_id.removeprefix("sub-").casefold().lstrip("0")


def alike(people: Iterable[str]) -> dict[str, list[str]]:
    """Return ids by what they have in common with their misspellings, for `no_row`."""
    found: dict[str, list[str]] = {}
    for person in sorted(people):
        found.setdefault(_bare(person), []).append(person)
    return found


def no_row(person_id: str, known: Mapping[str, list[str]]) -> str:
    """Say that a person is not in the table, and who there may be meant (``sub-1`` for ``sub-0001``)."""
    near = known.get(_bare(person_id))
    hint = f"; is {' or '.join(near)} the same person? Write it as the folder is called" if near else "; add one"
    return f"{person_id} has no row in participants.tsv{hint} (ids are compared letter by letter)"

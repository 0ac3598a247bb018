"""participants.tsv: found, read as text, and brought to one form."""

from __future__ import annotations

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
    looked = []
    for folder in [root.absolute(), *root.absolute().parents[:MAX_LEVELS]]:
        looked.append(folder / "participants.tsv")
        if looked[-1].is_file():
            return looked[-1]
        if folder != root.absolute() and _is_raw_root(folder):
            break
    raise InputError(
        "No participants.tsv found; looked for " + ", ".join(map(str, looked)) + ". "
        "Put one there, or name it in config.yaml as datasets.<name>.participants."
    )


def _is_raw_root(folder: Path) -> bool:
    description = folder / "dataset_description.json"
    if not description.is_file():
        return False
    try:
        return read_json(description).get("DatasetType", "raw") == "raw"
    except (InputError, AttributeError):  # a broken description says nothing: keep looking
        return False


def load(path: Path) -> pd.DataFrame:
    """Read a participants table as text.

    Returns
    -------
    DataFrame
        ``participant_id`` first and with the prefix ``sub-``, rows in the file's order, ``n/a`` for
        every empty value.

    Raises
    ------
    InputError
        No column ``participant_id``, an empty id, or one id twice.
    """
    table = read_tsv(path)
    table.columns = [column.strip() for column in table.columns]
    if "participant_id" not in table:
        raise InputError(f"{path} needs a column participant_id (tab separated); found {list(table.columns)}.")
    table = table.apply(lambda column: column.str.strip())
    table = table.mask(table.isin(EMPTY), "n/a")
    if (table["participant_id"] == "n/a").any():
        line = int((table["participant_id"] == "n/a").to_numpy().argmax()) + 2
        raise InputError(f"{path}, line {line}: the participant_id is empty; give each row the label of one person.")
    table["participant_id"] = table["participant_id"].map(participant_id)
    repeated = table.loc[table["participant_id"].duplicated(), "participant_id"].unique()
    if len(repeated):
        raise InputError(
            f"{path} has more than one row for {', '.join(repeated[:5])}{' ...' if len(repeated) > 5 else ''}; "
            "expected one row per person (what changes between sessions belongs into sessions.tsv)."
        )
    return table[["participant_id", *(c for c in table if c != "participant_id")]]

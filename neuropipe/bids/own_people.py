"""People that the data name themselves, where there is no participants.tsv."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from neuropipe.bids.entities import composed, participant_id
from neuropipe.bids.index import read_tsv
from neuropipe.bids.participants import EMPTY
from neuropipe.errors import InputError


def read_table(path: Path) -> pd.DataFrame:
    """Read a tsv or csv as text, ``n/a`` for every empty value, ids with ``sub-``."""
    table = read_tsv(path, "," if path.suffix == ".csv" else "\t")
    table.columns = [column.strip() for column in table.columns]
    table = table.apply(lambda column: column.str.strip())
    table = table.mask(table.isin(EMPTY), "n/a")
    if "participant_id" in table:
        known = table["participant_id"] != "n/a"
        table.loc[known, "participant_id"] = [composed(participant_id(one)) for one in table["participant_id"][known]]
        unsafe = [one for one in table["participant_id"] if re.search(r"[\s/\\]", one.replace("n/a", ""))]
        if unsafe:
            raise InputError(f"{path}: {unsafe[0]!r} is no participant_id; expected one without spaces and slashes.")
    return table


def label(text: str) -> str:
    """Return a value of a table as a BIDS label: what may not stand in a file name's entity is taken out."""
    return re.sub(r"[^0-9A-Za-z+.]", "", text)


def of_table(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the people of a table with a row per scan or slice: where a person's rows disagree, ``n/a``."""
    named = table[table["participant_id"] != "n/a"]
    if not len(named):
        raise InputError(f"{path} names no people; expected the column participant_id to be filled.")
    groups = named.groupby("participant_id", sort=False)
    people = groups.agg(lambda values: values.iloc[0] if values.nunique() == 1 else "n/a").reset_index()
    return people[["participant_id", *(column for column in people if column != "participant_id")]]

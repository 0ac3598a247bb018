"""Joining samples with what is known about their people; labels never lie in a shard."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuropipe.errors import InputError
from neuropipe.shards.read import Shards

LabelKind = Literal["number", "category"]


def codes(values: pd.Series) -> np.ndarray:
    """Return int64 codes of sorted distinct values; -1 where the value is missing."""
    return pd.Categorical(values, categories=sorted(values.dropna().unique(), key=str)).codes.astype(np.int64)


def samples(
    datasets: Sequence[Shards], people: pd.DataFrame | None = None, sites: dict[str, str | None] | None = None
) -> pd.DataFrame:
    """Return one row per sample (recording, map, stack of slices) of the chosen people, sorted by person and key.

    Parameters
    ----------
    datasets : sequence of Shards
        Where the samples lie.
    people : DataFrame with ``dataset`` and ``participant_id``, optional
        Whom to keep; default everyone.
    sites : dict of str to str, optional
        For each dataset the column of participants.tsv that names the site.

    Returns
    -------
    DataFrame
        Manifest columns, ``source`` (position in `datasets`), ``position`` (row in its manifest),
        and the int64 codes ``person``, ``dataset_code``, ``site``.
    """
    tables = []
    for number, shards in enumerate(datasets):
        table = shards.manifest.assign(source=number, position=np.arange(len(shards)))
        column = (sites or {}).get(shards.dataset)
        known = shards.participants
        table["site_name"] = table["participant_id"].map(known[column]) if column in known else None
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    if people is not None:
        wanted = pd.MultiIndex.from_frame(people[["dataset", "participant_id"]])
        table = table[pd.MultiIndex.from_frame(table[["dataset", "participant_id"]]).isin(wanted)]
    if table.empty:
        raise InputError("None of the chosen people has a sample in the shards; check the split and the exclusions.")
    table = table.sort_values(["dataset", "participant_id", "key"], ignore_index=True)
    return table.assign(
        person=codes(table["dataset"].astype(str) + "/" + table["participant_id"].astype(str)),
        dataset_code=codes(table["dataset"].astype(str)),
        site=codes(
            (table["dataset"].astype(str) + "/" + table["site_name"].astype(str)).where(table["site_name"].notna())
        ),
    )


def label_values(
    datasets: Sequence[Shards], table: pd.DataFrame, wanted: Mapping[str, LabelKind] | None
) -> dict[str, Tensor]:
    """Return columns of participants.tsv for the rows of `table`, as tensors.

    Parameters
    ----------
    datasets : sequence of Shards
    table : DataFrame
        From `samples`.
    wanted : mapping of str to {"number", "category"}
        Columns by kind, as a family's ``Config.labels()`` names them.

    Returns
    -------
    dict of str to tensor (len(table),)
        Numbers in float32, NaN where unknown. Categories as int64 codes of all values in the whole datasets,
        -1 where unknown: a code means the same in every fold.

    Raises
    ------
    InputError
        A dataset has no such column, or a number is none.
    """
    found = {}
    for column, kind in (wanted or {}).items():
        everyone = [_column(shards, column) for shards in datasets]
        if kind == "number":
            everyone = [_numbers(values, shards, column) for values, shards in zip(everyone, datasets, strict=True)]
        mine = table[["source", "participant_id"]].itertuples(index=False)
        values = pd.Series([everyone[source].get(person) for source, person in mine], dtype=object)
        if kind == "number":
            found[column] = torch.tensor(values.astype(float).to_numpy(np.float32))
        else:
            known = sorted({_word(value) for values in everyone for value in values.dropna()})
            names = values.map(_word, na_action="ignore")
            found[column] = torch.tensor(pd.Categorical(names, categories=known).codes.astype(np.int64))
    return found


def _column(shards: Shards, column: str) -> pd.Series:
    """Return one label of a dataset's people, by participant_id."""
    known = shards.participants
    if column not in known:
        names = {str(name).casefold(): name for name in known}
        near = difflib.get_close_matches(column.casefold(), names, n=1)
        hint = f", did you mean {names[near[0]]!r}?" if near else ""
        raise InputError(
            f"participants.tsv of {shards.dataset} has no column {column!r}, which training needs{hint} "
            f"(it has: {', '.join(map(str, known)) or 'none'}). Add it (n/a where unknown), or change the recipe."
        )
    return known[column]


def _word(value: object) -> str:
    """Return a category as text; 1.0 is 1, because an unknown value makes pandas read whole numbers as floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(values: pd.Series, shards: Shards, column: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    strange = values[numbers.isna() & values.notna()]
    if len(strange):
        raise InputError(
            f"participants.tsv of {shards.dataset}: {column} should be a number or n/a, found {strange.iloc[0]!r} "
            f"for {strange.index[0]}. Correct it, or use the column as a category."
        )
    return numbers

"""Joining recordings with what is known about their people; labels never lie in a shard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.shards.read import Shards


def codes(values: pd.Series) -> np.ndarray:
    """Return int64 codes of sorted distinct values; -1 where the value is missing."""
    return pd.Categorical(values, categories=sorted(values.dropna().unique(), key=str)).codes.astype(np.int64)


def recordings(
    datasets: Sequence[Shards], people: pd.DataFrame | None = None, sites: dict[str, str | None] | None = None
) -> pd.DataFrame:
    """Return one row per recording of the chosen people, sorted by person and key.

    Parameters
    ----------
    datasets : sequence of Shards
        Where the recordings lie; they must have the same regions in the same order.
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
        datasets[0].regions.check_same(shards.regions, f"{shards.dataset} beside {datasets[0].dataset}")
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
        raise InputError("None of the chosen people has a recording in the shards; check the split and the exclusions.")
    table = table.sort_values(["dataset", "participant_id", "key"], ignore_index=True)
    return table.assign(
        person=codes(table["dataset"].astype(str) + "/" + table["participant_id"].astype(str)),
        dataset_code=codes(table["dataset"].astype(str)),
        site=codes(
            (table["dataset"].astype(str) + "/" + table["site_name"].astype(str)).where(table["site_name"].notna())
        ),
    )

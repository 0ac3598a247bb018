"""The manifest of a dataset's shards: one row per recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from neuropipe.errors import InputError
from neuropipe.paths import atomic
from neuropipe.shards.sample import MANIFEST_COLUMNS


def from_rows(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the manifest table of `rows`, sorted by key, with fixed columns and types."""
    table = pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS)).astype(MANIFEST_COLUMNS)
    return table.sort_values("key", ignore_index=True)


def write_parquet(path: str | Path, table: pd.DataFrame) -> None:
    """Write any table as parquet, atomically."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_parquet(path: str | Path) -> pd.DataFrame:
    """Read a parquet table; one that is damaged is named."""
    try:
        return pd.read_parquet(path)
    except ValueError as error:  # pyarrow's ArrowInvalid
        raise InputError(f"{path} is no readable parquet table: {error}. Delete it and run again.") from error


def read(path: str | Path) -> pd.DataFrame:
    """Read a manifest and check that it has every column."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"No manifest at {path}; run `neuropipe collect` (or `snakemake shards_<dataset>`) first.")
    table = read_parquet(path)
    if missing := [column for column in MANIFEST_COLUMNS if column not in table]:
        raise InputError(
            f"{path} lacks the columns {missing}; it was not written by neuropipe, or by an older version."
        )
    return table

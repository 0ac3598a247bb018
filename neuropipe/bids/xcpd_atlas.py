"""The regions of an XCP-D atlas, from the table that XCP-D copies into its output folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.bids.index import read_tsv
from neuropipe.bids.xcpd import said_by
from neuropipe.errors import InputError
from neuropipe.signals.regions import Regions


def regions(path: Path, atlas: str, segmentation: str) -> Regions:
    """Return the regions of an atlas as XCP-D's own table lists them.

    Parameters
    ----------
    path : Path
        The XCP-D folder.
    atlas : str
        Id that the regions get.
    segmentation : str
        XCP-D's name of the atlas.

    Raises
    ------
    InputError
        The folder has no table of it, or it is not one of regions.
    """
    tables = [
        table
        for where in (path, path / "atlases", path / "sourcedata" / "atlases")
        for table in sorted([*where.glob("*_dseg.tsv"), *where.glob("*/*_dseg.tsv")])
        if said_by(table.name).get("segmentation") == segmentation
    ]
    if not tables:
        raise InputError(
            f"{path} has no atlas-{segmentation}_dseg.tsv (at the top, below atlases/ or sourcedata/atlases/), which "
            "names the regions; copy it there, or name a table with index and name as regions of the dataset."
        )
    return _region_table(tables[0], atlas)


def _region_table(path: Path, atlas: str) -> Regions:
    table = read_tsv(path)
    name = next((column for column in ("name", "label") if column in table), None)  # BIDS calls it name, XCP-D label
    label = pd.to_numeric(table.get("index", pd.Series(dtype=str)), errors="coerce")
    if name is None or label.empty or label.isna().any() or label.duplicated().any():
        raise InputError(
            f"{path}: expected a column name (or label) and a different index in each row, found {list(table)}."
        )
    table = table[label > 0]
    network = table.get("network_label", pd.Series("", index=table.index)).replace("n/a", "")
    side = table[name].str.extract(r"^(?P<first>[LR])H?_|-(?P<last>[lr])h?$")
    return Regions(
        pd.DataFrame(
            {
                "index": np.arange(len(table)),
                "atlas": atlas,
                "label": label[label > 0].astype(int),
                "name": table[name],
                "network": network,
                "hemisphere": side["first"].fillna(side["last"].str.upper()).fillna(""),
                "x": np.nan,
                "y": np.nan,
                "z": np.nan,
            }
        ).reset_index(drop=True)
    )

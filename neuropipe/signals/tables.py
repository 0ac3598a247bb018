"""Region tables of atlases, in the forms in which they are published, brought to one form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.errors import AtlasError
from neuropipe.signals import orders
from neuropipe.signals.catalogue import CATALOGUE, Entry
from neuropipe.signals.regions import Regions

# 7Networks_LH_Default_pCunPCC_9: hemisphere and network stand in the name.
SCHAEFER_NAME = re.compile(r"^(?:7|17)[Nn]etworks_(?P<hemisphere>[LR])H_(?P<network>[A-Za-z]+)_")
LIMBIC = re.compile(r"^17[Nn]etworks_[LR]H_(Limbic_(?:OFC|TempPole))_")
# Column names under which the numbers, names and networks of regions are published (DiFuMo, BIDS, LUTs), in lower case.
ALIASES = {
    "index": ("component", "roi", "number"),
    "name": ("difumo_names", "label_name", "region"),
    "network": ("yeo_networks7", "network_label", "yeo7_network"),
}
# What tables call the label 0, which is no region.
BACKGROUND = ("", "background", "unknown", "unlabeled", "unlabelled", "unassigned", "clear label", "???", "outside")
NOWHERE = ("no network found", "none", "n/a")  # what tables write where a region belongs to no network
SIDE = re.compile(r"(?:^|[-_ ])(?P<hemisphere>[LRlr])[Hh]?$|^(?P<first>Left|Right)\b")


def of_entry(entry: Entry, path: Path | None) -> pd.DataFrame:
    """Return the table of a catalogue entry: region columns and ``value``, the integer in the label image.

    Raises
    ------
    AtlasError
        The table has another number of regions than the catalogue says.
    """
    if path is None:
        names = list(entry.names) or Regions.plain(entry.id, entry.n_regions).table["name"].tolist()
        table = pd.DataFrame({"index": range(1, len(names) + 1), "name": names})
    elif path.suffix == ".tsv":
        table = _read_tsv(path)
    elif path.suffix == ".csv":  # Craddock's: numbers in the first column, then the regions of other atlases there
        first = pd.read_csv(path, usecols=[0], index_col=False, dtype=str, on_bad_lines="skip").iloc[:, 0]
        numbers = pd.to_numeric(first).astype(int)
        table = pd.DataFrame({"index": numbers, "name": [f"{entry.base}-{n:03d}" for n in numbers]})
    else:  # one name per line, in order of the labels
        names = path.read_text(encoding="utf-8-sig").split("\n")
        names = [name.strip() for name in names if name.strip()]
        table = pd.DataFrame({"index": range(1, len(names) + 1), "name": names})
    table = _without_background(table, entry.kind)
    if entry.sides_apart:
        names = [f"{side} {name}" for name in table["name"] for side in ("Left", "Right")]
        table = pd.DataFrame({"index": range(1, len(names) + 1), "name": names})
    if len(table) != entry.n_regions:
        raise AtlasError(f"{path}: expected {entry.n_regions} regions of {entry.id}, found {len(table)}.")
    return _complete(_in_declared_order(table.assign(atlas=entry.id), path))


def of_file(name: str, path: Path, kind: str = "labels") -> pd.DataFrame:
    """Return the table of a user's atlas.

    Parameters
    ----------
    name : str
        Id of the atlas, used where the table has no column ``atlas``.
    path : Path
        tsv with ``index`` (integer in the image) and ``name``; ``atlas``, ``label`` (integer inside
        that atlas), ``network``, ``hemisphere``, ``x``, ``y``, ``z`` are used where present.
    kind : {"labels", "maps"}
        In a label image 0 is the background; maps may be numbered from 0.

    Notes
    -----
    A merged atlas says in ``atlas`` which one a region comes from. Names of the catalogue (or their
    aliases, such as ``Schaefer2018``) become its ids, and ``label`` then counts within each atlas, so
    that data parcellated with the merged file and with its parts have the same region order.
    """
    if not path.is_file():
        raise AtlasError(f"No region table {path} (atlas {name}); correct atlases in config.yaml.")
    table = _without_background(_read_tsv(path), kind)
    if "atlas" not in table:
        table = table.assign(atlas=name)
    else:
        table = table.assign(atlas=_catalogue_ids(table))
        if "label" not in table:
            table = table.assign(label=table.groupby("atlas", sort=False).cumcount() + 1)
    return _complete(_in_declared_order(table, path))


def of_labels(name: str, names: Mapping[int, str]) -> pd.DataFrame:
    """Return the table of an atlas whose file names its labels itself; `names` maps the integers to names."""
    return _complete(pd.DataFrame({"index": list(names), "name": list(names.values()), "atlas": name}))


def _read_tsv(path: Path) -> pd.DataFrame:
    table = pd.read_csv(
        StringIO(path.read_text(encoding="utf-8-sig")), sep="\t", dtype=str, keep_default_na=False, na_values=["n/a"]
    )
    table = _renamed(table)
    missing = [column for column in ("index", "name") if column not in table]
    if missing:
        raise AtlasError(f"{path} needs the columns index and name (tab separated); found {list(table.columns)}.")
    numbers = pd.to_numeric(table["index"], errors="coerce")
    if numbers.isna().any() or (numbers % 1 != 0).any() or numbers.duplicated().any():
        raise AtlasError(f"{path}: the column index must hold a different whole number in each row.")
    return table.assign(index=numbers.astype(int))


def _renamed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose columns have our names where they were published under another one."""
    lower = {column.lower(): column for column in table.columns}
    names = {}
    for ours, published in ALIASES.items():
        there = [lower[name] for name in (ours, *published) if name in lower]
        if there:
            names[there[0]] = ours
    return table.rename(columns=names)


def _without_background(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Drop the background, which BIDS tables may list as 0; the first map may have that number too."""
    background = table["index"] <= 0
    if kind == "maps":
        background &= _is_background(table["name"])
    return table[~background]


def _is_background(names: pd.Series) -> pd.Series:
    return names.fillna("").str.strip().str.lower().isin(BACKGROUND)


def name_of_zero(path: Path) -> str | None:
    """Return the name that a table gives to the label 0, where that is not a name of the background."""
    if path.suffix != ".tsv":
        return None
    table = _read_tsv(path)
    names = table.loc[(table["index"] == 0) & ~_is_background(table["name"]), "name"]
    return names.iloc[0] if len(names) else None


def _catalogue_ids(table: pd.DataFrame) -> pd.Series:
    """Return the column ``atlas`` with the catalogue's ids where size, order and naming fit an entry."""
    ids = {}
    for name, rows in table.groupby("atlas", sort=False):
        order = orders.of_names(rows["name"].fillna(""))
        named = [e for e in CATALOGUE.values() if name in e.aliases and len(rows) == e.n_regions]
        fitting = [e.id for e in named if order in (None, orders.of_id(e.id))]
        ids[name] = fitting[0] if fitting else name
    return table["atlas"].map(ids)


def _in_declared_order(table: pd.DataFrame, path: Path | None) -> pd.DataFrame:
    """Return the table; refuse one whose names tell another order of networks than the id of its atlas."""
    for atlas, rows in table.groupby("atlas", sort=False):
        declared, found = orders.of_id(str(atlas)), orders.of_names(rows["name"].fillna(""))
        if declared and found and declared != found:
            raise AtlasError(
                f"{path}: {atlas} stands for Schaefer's regions in the {declared}, but the names are those of the "
                f"{found} ({rows['name'].iloc[0]}): the same regions at other places. Correct the id, or the table."
            )
    return table


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that are missing, from the names where they stand in them, or from the catalogue."""
    names = table["name"].fillna("")
    schaefer = names.str.extract(SCHAEFER_NAME)
    side = names.str.extract(SIDE)
    only_networks = {name: entry.network for name, entry in CATALOGUE.items() if entry.network}
    limbic = names.str.extract(LIMBIC)[0]  # two of the 17 networks share a first word
    guessed = {
        "network": limbic.fillna(schaefer["network"]).fillna(table["atlas"].map(only_networks)),
        "hemisphere": schaefer["hemisphere"].fillna(side["hemisphere"].str.upper()).fillna(side["first"].str[0]),
    }
    columns = {
        "value": table["index"],
        "atlas": table["atlas"],
        "label": pd.to_numeric(table["label"]).astype(int) if "label" in table else table["index"],
        "name": names,
    }
    for column, values in guessed.items():
        given = table[column] if column in table else pd.Series(np.nan, index=table.index, dtype=object)
        given = given.mask(given.astype(str).str.lower().isin(NOWHERE), "") if column == "network" else given
        columns[column] = given.fillna(values).fillna("")
    for axis in "xyz":
        given = table[axis] if axis in table else pd.Series(np.nan, index=table.index)
        columns[axis] = pd.to_numeric(given, errors="coerce")
    return pd.DataFrame(columns).reset_index(drop=True)

"""The doors for series that others made: one module per kind of dataset, and one way to use them all.

A door is a module with

    find(path, search) -> Found     the runs, and what is left out
    read(root, row) -> Ready        one run of the manifest

`series` (tables and banks), `xcpd`, `giga` (giga_connectome), `tars` and `hdf5`, which also asks for the atlases.
Maps of anatomy and slices have their own: `anatomy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from neuropipe.bids import (
    anatomy,
    entities,
    giga,
    hdf5,
    images,
    openbhb,
    participants,
    series,
    tars,
    xcpd,
    xcpd_atlas,
    yaware_layout,
)
from neuropipe.bids.index import Found
from neuropipe.bids.ready import Ready, Search
from neuropipe.config import Dataset, expand
from neuropipe.errors import InputError
from neuropipe.signals.atlases import regions_of_columns, regions_of_series
from neuropipe.signals.regions import Regions

DOORS = {"series": series, "xcpd": xcpd, "giga_connectome": giga, "tars": tars, "hdf5": hdf5}
# What these hold says itself whose it is.
NAMES_ITS_PEOPLE = ("tars", "hdf5", "yaware", "openbhb", "images")


def people(section: Dataset) -> tuple[pd.DataFrame, Path | None]:
    """Return a dataset's people, and the table that they were read from (None where the data name them).

    Parameters
    ----------
    section : Dataset
        The dataset's part of the configuration; of any kind, images too.

    Raises
    ------
    InputError
        There is no table, and data of this kind do not name their people.
    """
    path = Path(expand(section.path))
    if section.participants:
        table = Path(expand(section.participants))
    elif section.kind not in NAMES_ITS_PEOPLE:
        table = participants.find(data_root(section))
    else:
        table = data_root(section) / "participants.tsv"
        if not table.is_file():
            return _own_people(section, path), None
    return participants.load(table), table


def _own_people(section: Dataset, path: Path) -> pd.DataFrame:
    """Return the people that data name themselves."""
    if section.kind == "tars":
        return tars.people(path, section.select)
    if section.kind == "images":
        return images.people(path, section)
    return {"hdf5": hdf5, "yaware": yaware_layout, "openbhb": openbhb}[section.kind].people(path)


def data_root(section: Dataset) -> Path:
    """Return the folder that paths of a dataset's manifest start from."""
    path = Path(expand(section.path))
    return anatomy.data_root(path) if section.stage == "volumes" else series.data_root(path)


def find(section: Dataset, dataset: str, path: Path, people: pd.DataFrame) -> Found:
    """Find the runs of a dataset of ready-made series, or of anatomy."""
    if section.stage == "volumes":
        return anatomy.find(section, dataset, path, people)
    search = _search(section, dataset, path, people)
    if section.kind == "hdf5":
        return hdf5.find(path, search, regions(section).atlases)
    found = DOORS[section.kind].find(path, search)
    # What is missing is told before anything is computed.
    if section.kind == "xcpd":
        regions(section)
    elif _columns_name_regions(section) and found.runs:
        regions_of_columns(*series.columns(search))
    return found


def _search(section: Dataset, dataset: str, path: Path, people: pd.DataFrame) -> Search:
    select = entities.normalise_select(section.select)
    if section.kind == "xcpd":
        select["segmentation"] = _xcpd_atlas(section)
        select.pop("atlas", None)
    return Search.of(series.data_root(path), dataset, select, people, section.t_r, section.n_chunks)


def read(section: Dataset, regions: Regions, root: Path, row: Mapping[str, str]) -> Ready:
    """Read one run of the manifest."""
    if section.kind == "hdf5":
        return hdf5.read(root, row, regions.atlases)
    ready = DOORS[section.kind].read(root, row)
    return replace(ready, named=True) if _columns_name_regions(section) else ready


def regions(section: Dataset) -> Regions:
    """Return what the columns are: the configured table, the data's own, or a catalogue atlas's numbered regions.

    Of tables without either, the columns' names are the regions; `signals.atlases.regions_of_columns`.

    Raises
    ------
    AtlasError
        Nothing says it.
    """
    root = data_root(section)
    if section.regions is None and section.kind == "xcpd":
        return xcpd_atlas.regions(root, section.atlas_ids[0], _xcpd_atlas(section))
    if section.regions is None and not section.atlas_ids and section.kind in NAMES_ITS_PEOPLE:
        beside = root / "regions.tsv"  # shards and dataset.h5 of this program
        if beside.is_file():
            return Regions.read(beside)
    if _columns_name_regions(section):
        search = _search(section, "", Path(expand(section.path)), people(section)[0])
        return regions_of_columns(*series.columns(search))
    if section.regions is not None or len(section.atlas_ids) < 2:
        return regions_of_series(section.atlas_ids[0] if section.atlas_ids else None, section.regions)
    parts = pd.concat([regions_of_series(atlas, None).table for atlas in section.atlas_ids], ignore_index=True)
    return Regions(parts.assign(index=range(len(parts))))


def _columns_name_regions(section: Dataset) -> bool:
    """Return whether nothing but the header of tables says what the columns are."""
    return section.kind == "series" and section.regions is None and not section.atlas_ids


def _xcpd_atlas(section: Dataset) -> str:
    """Return XCP-D's name of the atlas: that of ``select`` (``seg`` or ``atlas``), or the dataset's own."""
    select = entities.normalise_select(section.select)
    chosen = select.get("segmentation", select.get("atlas", section.atlas_ids[0]))
    if not isinstance(chosen, str):
        raise InputError(f"select: {{seg: {chosen!r}}} must name one atlas, so that regions have one order.")
    return chosen

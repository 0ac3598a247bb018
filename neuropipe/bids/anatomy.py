"""The doors for maps of anatomy and for slices: one module per kind of dataset, and one way to use them all.

A door is a module with

    find(path, search, section) -> Found     the scans, and what is left out
    read(root, row, section) -> Map          one scan of the manifest

Kind ``images`` reads slices into a size instead: read(root, row, image_size).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from neuropipe.bids import anatomy_fmriprep, cat12, entities, images, openbhb, yaware_layout
from neuropipe.bids.index import Found
from neuropipe.bids.maps import Map
from neuropipe.bids.ready import Search
from neuropipe.config import Dataset

__all__ = ["Map", "data_root", "find", "read"]

DOORS = {
    "fmriprep": anatomy_fmriprep,
    "cat12": cat12,
    "yaware": yaware_layout,
    "openbhb": openbhb,
    "images": images,
}


def data_root(path: Path) -> Path:
    """Return the folder that a dataset's relative paths start from (the path may be one file of all volumes)."""
    return path.parent if path.suffix == ".npy" else path


def find(section: Dataset, dataset: str, path: Path, people: pd.DataFrame) -> Found:
    """Find the scans of a dataset.

    Parameters
    ----------
    section : Dataset
        Its part of the configuration, of content volume or image.
    dataset : str
        Its name, for the excluded rows.
    path : Path
        `section.path`, expanded.
    people : DataFrame
        Its people, as `doors.people` returns them.

    Raises
    ------
    InputError
        There is nothing of this kind at `path`.
    """
    select = entities.normalise_select(section.select, part="t1w")
    search = Search.of(data_root(path), dataset, select, people, None, section.n_chunks)
    return DOORS[section.kind].find(path, search, section)


def read(section: Dataset, root: Path, row: Mapping[str, str], image_size: tuple[int, int] = (224, 224)) -> Map:
    """Read one scan of the manifest.

    Parameters
    ----------
    section : Dataset
        The dataset's part of the configuration.
    root : Path
        `data_root` of its path.
    row : mapping
        Row of the manifest.
    image_size : (int, int)
        Rows and columns that slices of kind ``images`` are fitted into (`volumes.image_size`); maps keep their grid.

    Raises
    ------
    RunExcluded
        The scan cannot be used.
    """
    if section.kind == "images":
        return images.read(root, row, image_size)
    return DOORS[section.kind].read(root, row, section)

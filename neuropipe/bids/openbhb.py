"""OpenBHB: one array of modulated grey matter per person, as its authors hand it out.

    <split>/derivatives/sub-<id>/ses-1/sub-<id>_preproc-cat12vbm_desc-gm_T1w.npy     (1, 1, 121, 145, 121)
    <split>/participants.tsv                              participant_id, age, sex, site or siteXacq, ...

Files may lie in any folder below `path`. The arrays are CAT12's ``mwp1`` maps of 1.5 mm without
their headers: the grid is that of CAT12 before 12.8, whose first voxel lies at -90, -126, -72 mm
(`maps.OLD_AFFINE`); an array cannot say whether its x axis was flipped on the way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.bids import entities, maps, participants
from neuropipe.bids.index import Found, inputs_fingerprint
from neuropipe.bids.ready import Search, settle
from neuropipe.bids.tree import check_fetched
from neuropipe.config import Dataset
from neuropipe.errors import InputError, RunExcluded

NAME = re.compile(r"sub-(?P<label>[^_]+)(_ses-(?P<session>[^_]+))?_preproc-cat12vbm_desc-gm_T1w\.npy")
SITE = "siteXacq"  # what the challenge calls a site: scanner and protocol


def find(path: Path, search: Search, section: Dataset) -> Found:
    """Find the arrays of a folder and everything below.

    Raises
    ------
    InputError
        There are none.
    """
    if not path.is_dir():
        raise InputError(f"No folder {path}; expected OpenBHB's. Correct datasets.{search.dataset}.path.")
    found, candidates = Found(), {}
    for place in maps.files(path, (".npy",)):
        named = NAME.fullmatch(place.rpartition("/")[2])
        if named and entities.matches(_said(place, named), search.wanted):
            person_id = f"sub-{entities.composed(named['label'])}"
            candidates.setdefault(f"{person_id}_ses-{_said(place, named)['session']}", []).append((person_id, place))
    if not candidates:
        raise InputError(
            f"{path} holds no sub-*_preproc-cat12vbm_desc-gm_T1w.npy that select wants; expected OpenBHB's arrays in "
            f"it or below. Correct datasets.{search.dataset}."
        )
    settle(found, search, candidates, lambda run_id, place: _row(search, run_id, place, section))
    return found


def _said(place: str, named: re.Match[str]) -> dict[str, str]:
    """Return subject, session and split; the session is that of the name or of the folder, else 1."""
    folders = place.split("/")[:-1]
    sessions = [folder.removeprefix("ses-") for folder in folders if folder.startswith("ses-")]
    split = {"split": folders[0]} if folders and not folders[0].startswith(("sub-", "derivatives")) else {}
    return {"subject": named["label"], "session": named["session"] or (sessions or ["1"])[-1]} | split


def _row(search: Search, run_id: str, place: str, section: Dataset) -> dict[str, str]:
    root = search.root
    check_fetched(root / place)
    _open(root / place)
    person_id, _, session = run_id.rpartition("_ses-")
    said = {"session": session, "space": section.space or maps.NEWEST_SPACE}
    row = maps.manifest_row(search, person_id, run_id, place, said)
    return row | {"fingerprint": inputs_fingerprint(root, row)}


def _open(path: Path) -> np.ndarray:
    """Map an array into memory as (x, y, z)."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise RunExcluded("missing file", f"{path.name} is not there (any more); index again") from error
    except (OSError, ValueError, EOFError) as error:
        raise RunExcluded("damaged image", f"{path.name} is not an array of numbers: {error}; copy it again") from error
    shape = array.shape
    while array.ndim > 3 and len(array) == 1:
        array = array[0]
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        detail = f"{path.name}: expected numbers of shape (1, 1, x, y, z), found {array.dtype} of shape {shape}"
        raise RunExcluded("not a map", detail)
    return array


def read(root: Path, row: Mapping[str, str], section: Dataset) -> maps.Map:
    """Read one array."""
    array = maps.checked(_open(root / row["image"]), row["image"])
    return maps.Map(array, maps.affine_of(array.shape), row["space"], modulated=True)


def people(path: Path) -> pd.DataFrame:
    """Return the people of all splits: the rows of each ``<split>/participants.tsv``, with ``split`` and ``site``.

    Raises
    ------
    InputError
        There is no table, or two tables say different things of one person.
    """
    tables = {file.parent.name: participants.load(file) for file in sorted(path.glob("*/participants.tsv"))}
    if not tables:
        raise InputError(f"{path} and the folders in it hold no participants.tsv; expected that of OpenBHB.")
    for split, table in tables.items():
        if "split" not in table:
            table["split"] = split
    joined = pd.concat(tables.values(), ignore_index=True).fillna("n/a").drop_duplicates()
    if "site" not in joined and SITE in joined:
        joined["site"] = joined[SITE]
    repeated = joined.loc[joined["participant_id"].duplicated(), "participant_id"].unique()
    if len(repeated):
        raise InputError(
            f"The tables {', '.join(f'{split}/participants.tsv' for split in tables)} in {path} say different things "
            f"of {', '.join(repeated[:5])}; expected one row per person. Name one table as participants."
        )
    return joined

"""The layout of y-Aware: all volumes in one ``data.npy``, and a ``metadata.csv`` whose i-th row is of the i-th of them.

``data.npy`` has shape (N, 1, x, y, z) or (N, x, y, z), and is never read as a whole. The csv has a header;
``participant_id`` says whose a row is (``session`` and ``run`` which scan). Without that column each row
is a person of its own, numbered from 1: then nobody can know whether two rows are of one person.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.bids import entities, maps, own_people
from neuropipe.bids.index import Found
from neuropipe.bids.ready import Search, settle
from neuropipe.bids.tree import check_fetched
from neuropipe.config import Dataset
from neuropipe.errors import InputError, RunExcluded

DATA, METADATA = "data.npy", "metadata.csv"


def find(path: Path, search: Search, section: Dataset) -> Found:
    """Find the volumes of a bank.

    Parameters
    ----------
    path : Path
        Folder with ``data.npy`` and ``metadata.csv``, or the former by any name.
    search : Search
        What is wanted counts for subject, session and run.
    section : Dataset
        `space` says the template space.

    Raises
    ------
    InputError
        There is no such file, it has another shape, or not as many volumes as rows.
    """
    data, table = _data_file(path), metadata(path)
    volumes = _open(data)
    if len(table) != len(volumes):
        raise InputError(
            f"{data} holds {len(volumes)} volumes, but {data.with_name(METADATA)} has {len(table)} rows; row i belongs "
            "to volume i, so that there must be as many."
        )
    found, candidates, saids = Found(), {}, {}
    for i, (person_id, said) in enumerate(zip(table["participant_id"], _saids(table), strict=True)):
        if person_id == "n/a":
            reason = RunExcluded("no person", f"row {i + 2} of {METADATA} has no participant_id; fill it in")
            found.excluded.append(search.exclusion("n/a", "n/a", f"{data.name}[{i}]", reason))
        elif entities.matches(said, search.wanted):
            saids[str(i)] = said
            candidates.setdefault(_run_id(said), []).append((person_id, str(i)))

    def row(run_id: str, place: str) -> dict[str, str]:
        said = saids[place] | {"space": section.space or maps.NEWEST_SPACE}
        one = maps.manifest_row(search, f"sub-{said['subject']}", run_id, data.name, said)
        return one | {"offset": place, "fingerprint": _fingerprint(volumes[int(place)])}

    settle(found, search, candidates, row)
    return found


def people(path: Path) -> pd.DataFrame:
    """Return the people of the csv; of several rows of one person, what they agree on."""
    return own_people.of_table(metadata(path), _data_file(path).with_name(METADATA))


def metadata(path: Path) -> pd.DataFrame:
    """Return the csv as text with a column ``participant_id``."""
    table = own_people.read_table(_data_file(path).with_name(METADATA))
    if "participant_id" not in table:
        table.insert(0, "participant_id", [f"sub-{i + 1}" for i in range(len(table))])
    return table


def read(root: Path, row: Mapping[str, str], section: Dataset) -> maps.Map:
    """Read one volume of the bank, and no other."""
    path = root / row["image"]
    try:
        volume = _open(path)[int(row["offset"])]
    except (InputError, IndexError) as error:
        raise RunExcluded("changed since index", f"{path.name}: {error}; index again") from error
    if _fingerprint(volume) != row["fingerprint"]:
        raise RunExcluded("changed since index", f"{row['run_id']} in {path.name} is not what was indexed; index again")
    array = maps.checked(volume, f"volume {row['offset']} of {path.name}")
    return maps.Map(array, maps.affine_of(array.shape), row["space"], modulated=section.map != "t1w")


def _data_file(path: Path) -> Path:
    return path if path.suffix == ".npy" else path / DATA


def _open(path: Path) -> np.ndarray:
    """Map the bank into memory as (N, x, y, z)."""
    try:
        check_fetched(path)
        volumes = np.load(path, mmap_mode="r", allow_pickle=False)
    except RunExcluded as error:
        raise InputError(f"{path}: {error.detail}.") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not an array of numbers: {error}; expected what numpy.save writes.") from error
    if volumes.ndim == 5 and volumes.shape[1] == 1:
        volumes = volumes[:, 0]
    if volumes.ndim != 4 or not volumes.size or volumes.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: expected numbers of shape (N, 1, x, y, z) or (N, x, y, z), found {volumes.dtype} of shape "
            f"{volumes.shape}."
        )
    return volumes


def _fingerprint(volume: np.ndarray) -> str:
    """Return size and CRC-32 of a volume's middle plane: the rest of a bank of 80 GB is not read twice."""
    plane = np.ascontiguousarray(volume[len(volume) // 2])
    return f"{volume.nbytes}-{zlib.crc32(plane):08x}"


def _saids(table: pd.DataFrame) -> list[dict[str, str]]:
    """Return subject, session and run of each row; rows that nothing else tells apart are runs, counted per person."""
    keys = [key for key in ("session", "run") if key in table]
    saids = [
        {"subject": row["participant_id"].removeprefix("sub-")}
        | {key: own_people.label(row[key].removeprefix(f"{key[:3]}-")) for key in keys if row[key] != "n/a"}
        for row in table.to_dict("records")
    ]
    if not keys and table["participant_id"].duplicated().any():
        counts = table.groupby("participant_id").cumcount() + 1
        several = table["participant_id"].duplicated(keep=False)
        for said, count, repeated in zip(saids, counts, several, strict=True):
            said |= {"run": str(count)} if repeated else {}
    return saids


def _run_id(said: Mapping[str, str]) -> str:
    short = {"subject": "sub", "session": "ses", "run": "run"}
    return "_".join(f"{short[key]}-{value}" for key, value in said.items())

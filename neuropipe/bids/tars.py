"""Runs in WebDataset tars: those of learning-from-brains, and shards of this program.

    <key>.bold.pyd, <key>.t_r.pyd [, <key>.task_label.pyd, <key>.mental_state, ...]     learning-from-brains
    <key>.series.npy [, <key>.valid.npy], <key>.json                                    ours

A key of the former is ``ds-<dataset>_sub-<label>_task-...``, of a trial with ``_sample_001`` behind it.
``.pyd`` members are pickles; they are read by `neuropipe.restricted_pickle` alone.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe import restricted_pickle
from neuropipe.bids import entities
from neuropipe.bids.fmriprep import check_fetched
from neuropipe.bids.index import Found, exclusion
from neuropipe.bids.ready import Ready, by_id, is_positive, manifest_row, owner, repetition_time
from neuropipe.bids.series_tables import rows_fingerprint
from neuropipe.errors import InputError, RunExcluded

SERIES = ("bold.pyd", "series.npy")
KEY = re.compile(r"(?P<run>.+?)(?:_sample_(?P<sample>\d+))?")
# What learning-from-brains did to every run before it was packed (its preprocessing, not its tars, says so).
LEARNING_FROM_BRAINS = {
    "Denoised": "by learning-from-brains: six motion parameters, white matter, CSF, global signal",
    "HighPass": 0.008,
    "Standardized": "regions, over the whole run",
}


@dataclass(frozen=True)
class Sample:
    """One sample of a tar: its key, where its first member starts, and its members by field."""

    key: str
    offset: int
    members: dict[str, bytes] = field(default_factory=dict)


def find(
    path: Path, dataset: str, select: Mapping[str, Any], people: pd.DataFrame, t_r: float | None, n_chunks: int
) -> Found:
    """Find the runs, or labelled trials, of all tars of a folder, or of one tar.

    Parameters
    ----------
    path : Path
        Folder or ``.tar`` file.
    dataset, people, t_r, n_chunks
        As of `neuropipe.bids.series.find`.
    select : mapping
        Entities of the keys to keep; ``dataset`` is what follows ``ds-``.
    """
    wanted, persons, found = entities.normalise_select(select), by_id(people), Found()
    several = _several(path, wanted)
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for file, name in _files(path):
        try:
            for sample in samples(file):
                said = _said(sample.key, several)
                if said is None or entities.matches(said, wanted):
                    try:
                        row = _row(sample, name, several, persons, t_r, n_chunks)
                        rows[row["run_id"]].append(row)
                    except RunExcluded as reason:
                        someone = said["participant_id"] if said else "n/a"
                        where = someone, sample.key, f"{name}:{sample.key}"
                        found.excluded.append(exclusion("index", dataset, *where, reason.reason, reason.detail))
        except RunExcluded as reason:
            found.excluded.append(exclusion("index", dataset, "n/a", "n/a", name, reason.reason, reason.detail))
    for run_id, same in rows.items():
        if len(same) == 1:
            found.runs += same
            continue
        for row in same:
            detail = f"{len(same)} samples are called {run_id}, in {', '.join(r['image'] for r in same)}; remove one"
            found.excluded.append(
                exclusion("index", dataset, row["participant_id"], run_id, row["image"], "ambiguous", detail)
            )
    return found


def people(path: Path, select: Mapping[str, Any]) -> pd.DataFrame:
    """Return the people that the tars name, with the dataset of each: what stands in for a participants.tsv."""
    wanted = entities.normalise_select(select)
    several, found = _several(path, wanted), {}
    for key in _keys(path):
        said = _said(key, several)
        if said is not None and entities.matches(said, wanted):
            found[said["participant_id"]] = said["dataset"] or "n/a"
    return pd.DataFrame({"participant_id": list(found), "dataset": list(found.values())}, dtype=str)


def _files(path: Path) -> list[tuple[Path, str]]:
    """Return the tars with their paths relative to the folder."""
    if not path.exists():
        raise InputError(f"No {path}; expected a folder of .tar files, or one; correct the path of the dataset.")
    if path.is_file():
        return [(path, path.name)]
    return [(file, file.relative_to(path).as_posix()) for file in sorted(path.rglob("*.tar"))]


def _keys(path: Path) -> Iterator[str]:
    for file, _ in _files(path):
        try:
            with tarfile.open(file, "r:") as tar:
                yield from dict.fromkeys(member.name.rpartition("/")[2].partition(".")[0] for member in tar)
        except (tarfile.TarError, OSError):  # told of by `find`
            continue


def _several(path: Path, wanted: Mapping[str, Any]) -> bool:
    """Return whether the selected keys are of several datasets, so that sub-01 may be several people."""
    said = (_said(key, False) for key in _keys(path))
    return len({one["dataset"] for one in said if one is not None and entities.matches(one, wanted)}) > 1


def _said(key: str, several: bool) -> dict[str, str] | None:
    """Return what a key says: BIDS entities, dataset, sample, run_id and participant_id; None without a subject.

    Where the keys are of several datasets, sub-01 of ds-A is ``sub-Ax01``.
    """
    parts = KEY.fullmatch(key)
    assert parts is not None  # the pattern matches every key
    pairs, _, _ = entities.split_name(f"{parts['run']}_bold")
    if "sub" not in pairs:
        return None
    dataset = pairs.pop("ds", "")
    if several:
        pairs["sub"] = f"{dataset}x{pairs['sub']}"
    said = {entities.LONG.get(name, name): value for name, value in pairs.items()} | {"dataset": dataset}
    if parts["sample"]:
        pairs["sample"] = said["sample"] = parts["sample"]
    # Our own keys have the dataset's name in front, without ``ds-``.
    ordered = {"sub": pairs.pop("sub")} | pairs
    run_id = "_".join(f"{name}-{value}" for name, value in ordered.items())
    return said | {"run_id": run_id, "participant_id": f"sub-{ordered['sub']}"}


# --- samples ------------------------------------------------------------------------------------


def samples(path: Path) -> Iterator[Sample]:
    """Yield the samples of a tar in order.

    Raises
    ------
    RunExcluded
        The tar is damaged or ends early.
    """
    check_fetched(path)
    yield from _samples_from(path, 0)


def sample_at(path: Path, offset: int) -> Sample:
    """Return the sample whose first member starts at a byte of the tar."""
    check_fetched(path)
    for sample in _samples_from(path, offset):
        return sample
    raise RunExcluded("changed since index", f"{path.name} ends before byte {offset}; index again")


def _samples_from(path: Path, offset: int) -> Iterator[Sample]:
    current: Sample | None = None
    try:
        with open(path, "rb") as handle:
            handle.seek(offset)
            with tarfile.open(fileobj=handle, mode="r:") as tar:
                for member in tar:
                    key, _, part = member.name.rpartition("/")[2].partition(".")
                    if not member.isfile():
                        continue
                    if current is None or key != current.key:
                        if current is not None:
                            yield current
                        current = Sample(key, member.offset)
                    current.members[part or "text"] = _content(tar, member)
                handle.seek(tar.offset)  # tarfile takes half a header for the end
                if 0 < len(rest := handle.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
                    raise tarfile.ReadError(f"it ends with {len(rest)} bytes of a header")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise RunExcluded("damaged tar", f"{path.name} is no whole tar: {error}; copy it again") from error
    if current is not None:
        yield current


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    handle = tar.extractfile(member)
    content = handle.read() if handle else b""
    if len(content) != member.size:
        raise tarfile.ReadError(f"{member.name} ends after {len(content)} of {member.size} bytes")
    return content


def _row(
    sample: Sample,
    image: str,
    several: bool,
    persons: Mapping[str, dict[str, str]],
    t_r: float | None,
    n_chunks: int,
) -> dict[str, str]:
    series, facts = _series(sample), _facts(sample)
    said = {**(_said(sample.key, several) or {}), **{k: str(v) for k, v in facts.items() if k in IDENTITY and v}}
    if "participant_id" not in said:
        raise RunExcluded("no subject", f"expected a key like ds-<dataset>_sub-<label>_task-..., found {sample.key}")
    person = owner(persons, said["participant_id"], sample.key)
    seconds = repetition_time(person, facts.get("t_r"), t_r, sample.key)
    row = manifest_row(person, n_chunks, said["run_id"], image, seconds, len(series))
    row |= {key: said.get(key, "") for key in ("session", "task", "run")}
    return row | {"offset": str(sample.offset), "fingerprint": rows_fingerprint(series)}


IDENTITY = ("participant_id", "run_id", "session", "task", "run")


def _facts(sample: Sample) -> dict[str, Any]:
    """Return what a sample says beside its series: t_r in s, labels, or the facts of our own JSON."""
    if "json" in sample.members:
        try:
            return dict(json.loads(sample.members["json"]))
        except (ValueError, TypeError) as error:
            raise RunExcluded("damaged tar", f"{sample.key}.json is no JSON object: {error}") from error
    facts: dict[str, Any] = {"labels": {}}
    for part, content in sample.members.items():
        name = part.removesuffix(".pyd")
        if part in SERIES:
            continue
        value = _unpickled(sample, part) if part.endswith(".pyd") else content.decode("utf-8", "replace")
        value = value.item() if isinstance(value, np.generic) else value
        if name == "t_r":
            if not is_positive(value):
                raise RunExcluded("no repetition time", f"{sample.key}.t_r.pyd: expected seconds, found {value!r}")
            facts["t_r"] = round(float(value), 5)  # float32 in the tar, of a number with five decimals
        elif isinstance(value, int | float | str):
            facts["labels"][name] = value
    return facts


def _series(sample: Sample) -> np.ndarray:
    """Return the series (time, region) as stored."""
    part = next((part for part in SERIES if part in sample.members), None)
    if part is None:
        raise RunExcluded(
            "no series", f"{sample.key}: expected {' or '.join(SERIES)}, found {', '.join(sample.members)}"
        )
    series = _unpickled(sample, part) if part.endswith(".pyd") else _array(sample, part)
    if not isinstance(series, np.ndarray) or series.ndim != 2 or not series.size or series.dtype.kind not in "fiu":
        found = f"shape {series.shape}, {series.dtype}" if isinstance(series, np.ndarray) else type(series).__name__
        raise RunExcluded("damaged table", f"{sample.key}.{part}: expected numbers (time, region), found {found}")
    return series


def _unpickled(sample: Sample, part: str) -> Any:
    try:
        return restricted_pickle.loads(sample.members[part], f"{sample.key}.{part}")
    except InputError as error:
        raise RunExcluded("unsafe or damaged pickle", str(error)) from error


def _array(sample: Sample, part: str) -> np.ndarray:
    try:
        return np.load(io.BytesIO(sample.members[part]), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RunExcluded("damaged table", f"{sample.key}.{part} is no .npy array: {error}") from error


def read(root: Path, row: Mapping[str, str]) -> Ready:
    """Read one sample; regions that it marks as missing become NaN.

    Raises
    ------
    RunExcluded
        It is damaged, unsafe, or not what was indexed.
    """
    sample = sample_at(root / row["image"], int(row["offset"]))
    stored, facts = _series(sample), _facts(sample)
    if rows_fingerprint(stored) != row["fingerprint"]:
        raise RunExcluded("changed since index", f"{sample.key} in {row['image']} is not what was indexed; index again")
    series = stored.astype(np.float64)
    if "json" not in sample.members:
        done = LEARNING_FROM_BRAINS | ({"Labels": facts["labels"]} if facts["labels"] else {})
        return Ready(series, done=done)
    if "valid.npy" in sample.members:
        series[:, ~_array(sample, "valid.npy").astype(bool)] = np.nan
    censored = np.zeros(len(series), dtype=bool)
    censored[[int(i) for i in facts.get("censored", [])]] = True
    known = {key: value for key, value in (facts.get("quality") or {}).items() if key in KNOWN and value is not None}
    order = facts.get("region_order_hash")
    return Ready(series, censored=censored, known=known, done={"Denoised": "by neuropipe"}, region_order_hash=order)


KNOWN = ("mean_fd_mm", "max_fd_mm", "high_motion_share")

"""Runs in WebDataset tars: those of learning-from-brains, and shards of this program.

    <key>.bold.pyd, <key>.t_r.pyd [, <key>.task_label.pyd, <key>.mental_state, ...]     learning-from-brains
    <key>.series.npy [, <key>.valid.npy], <key>.json                                    ours

A key of the former is ``ds-<dataset>_sub-<label>_task-...``, of a trial with ``_sample_001`` behind it.
``.pyd`` members are pickles; they are read by `neuropipe.restricted_pickle` alone. They may be ``.npy`` instead.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.bids import entities
from neuropipe.bids.index import Found
from neuropipe.bids.ready import Ready, Search, is_positive
from neuropipe.bids.series_tables import rows_fingerprint
from neuropipe.bids.tar_samples import SERIES, Sample, sample_at, samples
from neuropipe.errors import InputError, RunExcluded

KEY = re.compile(r"(?P<run>.+?)(?:_sample_(?P<sample>\d+))?")
# What our own JSON says of a sample: who and what it is, and how good.
IDENTITY = ("participant_id", "run_id", "session", "task", "run")
KNOWN = ("mean_fd_mm", "max_fd_mm", "high_motion_share")
# What learning-from-brains did to every run before it was packed (its preprocessing, not its tars, says so).
LEARNING_FROM_BRAINS = {
    "Denoised": "by learning-from-brains: six motion parameters, white matter, CSF, global signal",
    "HighPass": 0.008,
    "Standardized": "regions, over the whole run",
}


def find(path: Path, search: Search) -> Found:
    """Find the runs, or labelled trials, of all tars of a folder, or of one tar.

    Parameters
    ----------
    path : Path
        Folder or ``.tar`` file.
    search : Search
        Of what is wanted, ``dataset`` is what follows ``ds-`` in a key.
    """
    several, found = _several(path, search.wanted), Found()
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for file, name in _files(path):
        try:
            for sample in samples(file):
                said = _said(sample.key, several) or {}
                if not said or entities.matches(said, search.wanted):
                    try:
                        row = _row(search, sample, said, name)
                        rows[row["run_id"]].append(row)
                    except RunExcluded as reason:
                        where = said.get("participant_id", "n/a"), sample.key, f"{name}:{sample.key}"
                        found.excluded.append(search.exclusion(*where, reason))
        except RunExcluded as reason:
            found.excluded.append(search.exclusion("n/a", "n/a", name, reason))
    for run_id, same in rows.items():
        if len(same) == 1:
            found.runs += same
            continue
        for row in same:
            detail = f"{len(same)} samples are called {run_id}, in {', '.join(r['image'] for r in same)}; remove one"
            reason = RunExcluded("ambiguous", detail)
            found.excluded.append(search.exclusion(row["participant_id"], run_id, row["image"], reason))
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


def _row(search: Search, sample: Sample, said: Mapping[str, str], image: str) -> dict[str, str]:
    series, facts = sample.series(), _facts(sample)
    ours = {key: str(facts[key]) for key in IDENTITY if facts.get(key)}
    said = {**said, **ours}
    if "participant_id" not in said:
        raise RunExcluded("no subject", f"expected a key like ds-<dataset>_sub-<label>_task-..., found {sample.key}")
    identity = said["participant_id"], said["run_id"], image
    row = search.row(*identity, facts.get("t_r"), len(series), resampled=bool(ours))
    row |= {key: said.get(key, "") for key in ("session", "task", "run")}
    return row | {"offset": str(sample.offset), "fingerprint": rows_fingerprint(series)}


def _facts(sample: Sample) -> dict[str, Any]:
    """Return what a sample says beside its series: t_r in s, labels, or the facts of our own JSON."""
    if "json" in sample.members:
        try:
            return dict(json.loads(sample.members["json"]))
        except (ValueError, TypeError) as error:
            raise RunExcluded("damaged tar", f"{sample.key}.json is no JSON object: {error}") from error
    facts: dict[str, Any] = {"labels": {}}
    for part, content in sample.members.items():
        name, _, kind = part.partition(".")
        if part in SERIES:
            continue
        value = sample.value(part) if kind in ("pyd", "npy") else content.decode("utf-8", "replace")
        if name == "t_r":
            if not is_positive(value):
                raise RunExcluded("no repetition time", f"{sample.key}.{part}: expected seconds, found {value!r}")
            facts["t_r"] = round(float(value), 5)  # float32 in the tar, of a number with five decimals
        elif isinstance(value, int | float | str):
            facts["labels"][name] = value
    return facts


def read(root: Path, row: Mapping[str, str]) -> Ready:
    """Read one sample; regions that it marks as missing become NaN.

    Raises
    ------
    RunExcluded
        It is damaged, unsafe, or not what was indexed.
    """
    sample = sample_at(root / row["image"], int(row["offset"]))
    stored, facts = sample.series(), _facts(sample)
    if rows_fingerprint(stored) != row["fingerprint"]:
        raise RunExcluded("changed since index", f"{sample.key} in {row['image']} is not what was indexed; index again")
    series = stored.astype(np.float64)
    if "json" not in sample.members:
        done = LEARNING_FROM_BRAINS | ({"Labels": facts["labels"]} if facts["labels"] else {})
        return Ready(series, done=done)
    try:
        return _ours(sample, series, facts)
    except (IndexError, TypeError, ValueError, AttributeError) as error:
        raise RunExcluded("damaged tar", f"{sample.key}: its members do not fit together: {error}") from error


def _ours(sample: Sample, series: np.ndarray, facts: Mapping[str, Any]) -> Ready:
    """Return a sample of our own shards: with its missing regions, censored samples, displacement and region order."""
    if "valid.npy" in sample.members:
        series[:, ~sample.array("valid.npy").astype(bool)] = np.nan
    censored = np.zeros(len(series), dtype=bool)
    censored[[int(i) for i in facts.get("censored", [])]] = True
    known = {key: value for key, value in (facts.get("quality") or {}).items() if key in KNOWN and value is not None}
    order = facts.get("region_order_hash")
    return Ready(series, censored=censored, known=known, done={"Denoised": "by neuropipe"}, region_order_hash=order)

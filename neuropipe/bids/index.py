"""What an index is made of: rows of runs, rows of what was left out, and chunks of subjects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pandas as pd

from neuropipe.bids.entities import hemispheres
from neuropipe.errors import InputError
from neuropipe.provenance import fingerprint, hash_json

RUN_COLUMNS = [
    "run_id",
    "chunk",
    "participant_id",
    "subject",
    "session",
    "task",
    "run",
    "space",
    "t_r",
    "start_time_s",
    "n_volumes",
    "image",
    "mask",
    "confounds",
    "beside",  # further files of the run, separated by ;
    "offset",  # where the run lies inside a file that holds many
    "fingerprint",
]
EXCLUDED_COLUMNS = ["stage", "dataset", "participant_id", "run_id", "path", "reason", "detail"]


@dataclass
class Found:
    """What a search of one dataset found.

    Attributes
    ----------
    runs : list of dict
        One per usable run, with the keys of `RUN_COLUMNS` (absent keys are ``n/a``).
    excluded : list of dict
        One per run, file or person left out, with the keys of `EXCLUDED_COLUMNS`.
    """

    runs: list[dict[str, str]] = field(default_factory=list)
    excluded: list[dict[str, str]] = field(default_factory=list)


def exclusion(
    stage: str, dataset: str, participant_id: str, run_id: str, path: str, reason: str, detail: str
) -> dict[str, str]:
    """Return one row of an ``excluded.tsv``."""
    values = (stage, dataset, participant_id, run_id, path, reason, " ".join(detail.split()))
    return dict(zip(EXCLUDED_COLUMNS, values, strict=True))


def chunk_of(subject: str, n_chunks: int) -> int:
    """Return the chunk of a subject: a stable hash, so that a new subject moves nobody else."""
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big") % n_chunks


def inputs_fingerprint(root: Path, row: Mapping[str, str]) -> str:
    """Return the hash over the fingerprints of a run's files."""
    return hash_json(input_fingerprints(root, row))


def input_fingerprints(root: Path, row: Mapping[str, str]) -> dict[str, str]:
    """Return the fingerprint of each file of a run, by its path relative to `root`."""
    others = [row.get(part) or "n/a" for part in ("mask", "confounds")] + (row.get("beside") or "n/a").split(";")
    paths = [*hemispheres(row["image"]), *(path for path in others if path != "n/a")]
    return {path: fingerprint(root / path) for path in paths}


def to_tsv(rows: Iterable[Mapping[str, str]], columns: list[str]) -> str:
    """Return rows as tsv text; absent and empty values are ``n/a``."""
    table = pd.DataFrame([{c: row.get(c) or "n/a" for c in columns} for row in rows], columns=columns, dtype=str)
    return table.to_csv(sep="\t", index=False, lineterminator="\n")


def read_tsv(path: str | Path, separator: str = "\t") -> pd.DataFrame:
    """Read a manifest or another table as text: ``0001`` stays ``0001`` and ``n/a`` stays ``n/a``.

    Raises
    ------
    InputError
        The file is missing or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"No table at {path}; expected a tab-separated file, run the stage that writes it.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); save it again as UTF-8 (Excel: CSV UTF-8).") from error
    if not text.strip():
        raise InputError(f"{path} is empty; expected a tab-separated table with a header line.")
    try:
        return pd.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=False)
    except pd.errors.ParserError as error:
        kind = "tab" if separator == "\t" else "comma"
        raise InputError(f"{path} is not a {kind}-separated table: {error}.") from error


def summary(excluded: list[dict[str, str]], limit: int = 5) -> str:
    """Return the most frequent reasons of `excluded` with one example each, for an error message."""
    by_reason: dict[str, list[dict[str, str]]] = {}
    for row in excluded:
        by_reason.setdefault(row["reason"], []).append(row)
    most = sorted(by_reason.items(), key=lambda item: -len(item[1]))[:limit]
    return "\n".join(f"  {len(rows)} x {reason}: {rows[0]['detail']}" for reason, rows in most)

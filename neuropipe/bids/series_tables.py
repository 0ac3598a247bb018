"""Reading ready-made series: tables of numbers in the forms that people have, and banks of everybody's series."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from neuropipe.errors import InputError, RunExcluded

BANK = "series.npz"


def read_table(path: Path) -> tuple[np.ndarray, list[str]]:
    """Read a table of series.

    Returns
    -------
    series : float64 array (time, column)
        NaN where the table says ``n/a`` or nothing.
    names : list of str
        The header's names without ``#``; empty where there is no header.

    Raises
    ------
    RunExcluded
        The file is not a table of numbers.
    """
    try:
        if path.suffix == ".npy":
            series, names = np.load(path, allow_pickle=False), []
        else:
            series, names = _read_text(path)
    except (OSError, ValueError, EOFError) as error:
        raise RunExcluded("damaged table", f"{path.name} is not a table of numbers: {error}") from error
    if series.ndim != 2 or not len(series):
        raise RunExcluded("damaged table", f"{path.name}: expected (time, region), found shape {series.shape}")
    return np.asarray(series, dtype=np.float64), names


def count_rows(path: Path) -> int:
    """Return the number of lines of a table that are not empty, its header included."""
    try:
        return sum(bool(line.strip()) for line in path.read_bytes().splitlines())
    except OSError as error:
        raise RunExcluded("missing file", f"{path.name} cannot be read: {error}") from error


def _read_text(path: Path) -> tuple[np.ndarray, list[str]]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    # AFNI's .1D may open with several comment lines; the last one before the numbers names the columns.
    n_comments = next((i for i, line in enumerate(lines) if not line.lstrip().startswith("#")), len(lines))
    first = lines[n_comments] if n_comments < len(lines) else ""
    separator = "\t" if "\t" in first else "," if "," in first else None
    header = [cell.strip().strip('"') for cell in first.split(separator)]
    if len(header) > 1 and header == [str(i) for i in range(len(header))]:
        names, body = [], lines[n_comments + 1 :]  # pandas' header of columns without names: places, not volumes
    elif all(_is_number(cell) for cell in header):
        comment = lines[n_comments - 1].strip() if n_comments else ""
        words = comment.split(separator) if separator and separator in comment else comment.split()
        names = [name for word in words if (name := word.strip().lstrip("#").strip())]
        names = names if len(names) == len(header) else []
        body = lines[n_comments:]
    else:
        names, body = header, lines[n_comments + 1 :]
    rows = [[_number(cell) for cell in line.strip("\n").split(separator)] for line in body if line.strip()]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"its lines have {sorted({len(row) for row in rows})} values")
    if names and rows and len(rows[0]) != len(names):  # R writes row names without a name for their column
        raise ValueError(f"its header has {len(names)} names, its lines have {len(rows[0])} values")
    return np.array(rows, dtype=np.float64), names


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _number(cell: str) -> float:
    cell = cell.strip()
    return float("nan") if cell.lower() in ("", "n/a", "na", "nan") else float(cell)


def open_bank(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return ``bold`` (sum of volumes, region) and ``offsets`` (runs + 1,) of a bank.

    Raises
    ------
    InputError
        The file is damaged, or the two do not fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as bank:
            bold, offsets = bank["bold"], bank["offsets"]
    except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} is not a bank of series: {error}; expected an .npz file with bold (volumes, regions) and offsets."
        ) from error
    if (
        bold.ndim != 2
        or offsets.ndim != 1
        or offsets[0] != 0
        or offsets[-1] != len(bold)
        or (np.diff(offsets) < 0).any()
    ):
        raise InputError(
            f"{path}: expected offsets that rise from 0 to the {len(bold)} rows of bold, found {offsets[:3]} ... "
            f"{offsets[-1:]} and bold of shape {bold.shape}."
        )
    return bold, offsets


def rows_fingerprint(rows: np.ndarray) -> str:
    """Return the fingerprint of one run's rows of a bank: length and CRC-32."""
    return f"{len(rows)}-{zlib.crc32(np.ascontiguousarray(rows)):08x}"


def read_run(root: Path, row: Mapping[str, str]) -> tuple[np.ndarray, list[str]]:
    """Read the series of a manifest row, as `read_table` does.

    Raises
    ------
    RunExcluded
        The table is damaged, or the bank's rows are not those that were indexed.
    """
    path = root / row["image"]
    if row["offset"] == "n/a":
        return read_table(path)
    if not path.is_file():
        raise RunExcluded("missing file", f"{path.name} is not there (any more); index again")
    bold, _ = _cached_bank(path, path.stat().st_mtime_ns)
    start = int(row["offset"])
    rows = bold[start : start + int(row["n_volumes"])]
    if rows_fingerprint(rows) != row["fingerprint"]:
        raise RunExcluded("changed since index", f"{row['run_id']} in {path.name} is not what was indexed; index again")
    return rows.astype(np.float64), []


@lru_cache(maxsize=1)
def _cached_bank(path: Path, changed_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the bank between the runs of one process; `changed_ns` makes a changed file another one."""
    return open_bank(path)


def align(
    series: np.ndarray,
    names: Sequence[str],
    labels: Sequence[int],
    region_names: Sequence[str],
    named: bool = False,
) -> np.ndarray:
    """Put a table's columns at the places of its regions; regions without a column are NaN.

    Parameters
    ----------
    series : array (time, column)
    names : sequence of str
        Header of the table: region names or label integers; without a header the order is trusted.
    labels, region_names : sequences, one per region
        What the region table calls them.
    named : bool
        Never trust the order of columns that have names, even where there are as many as regions.

    Returns
    -------
    float64 array (time, region)

    Raises
    ------
    RunExcluded
        The columns are not those of the regions.
    """
    where: dict[str, int] = {}
    for i, (label, name) in enumerate(zip(labels, region_names, strict=True)):
        where |= {str(label): i, name: i}
    known = [where.get(name) for name in names]
    if names and None not in known and len(set(known)) == len(known):
        aligned = np.full((len(series), len(labels)), np.nan)
        aligned[:, known] = series
        return aligned
    if series.shape[1] == len(labels) and not (names and (named or all(name.isdigit() for name in names))):
        return series
    unknown = [name for name, place in zip(names, known, strict=True) if place is None]
    raise RunExcluded(
        "wrong regions",
        f"expected {len(labels)} columns ({region_names[0]} ... {region_names[-1]}), found {series.shape[1]}"
        + (f"; no region is called {', '.join(unknown[:5])}" if unknown else "")
        + "; correct atlas or regions of the dataset",
    )

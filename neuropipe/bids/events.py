"""events.tsv: which file tells of a run, and its rows as onsets, durations and conditions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.bids import entities
from neuropipe.bids.participants import EMPTY, data_folders, is_raw_root
from neuropipe.bids.tree import FOLDERS_KEPT, Tree
from neuropipe.errors import RunExcluded

EVENT_COLUMNS = ["run_id", "events", "fingerprint", "reason", "detail"]
# What a manifest's row says of a run beside its id.
ROW_ENTITIES = ("subject", "session", "task", "run")


class EventFiles:
    """The events.tsv files of one BIDS dataset; a folder that many runs share is listed once.

    Parameters
    ----------
    root : Path
        Top of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self.tree = Tree(root)
        self._in_folder = lru_cache(FOLDERS_KEPT)(self._find)

    def of(self, row: Mapping[str, str]) -> str | None:
        """Return the path, relative to the dataset, of the file that applies to a run; None where there is none.

        A file applies where its entities all agree with the run's, in the run's folder or above it. The
        nearest folder wins; tables are not merged, as the inheritance principle has it only for JSON. Of
        several files in one folder the one that names most entities wins.

        Parameters
        ----------
        row : mapping
            Row of a manifest: ``run_id`` and, where known, subject, session, task and run.

        Raises
        ------
        RunExcluded
            Two files apply equally.
        """
        run = run_entities(row)
        for folder in reversed(_levels(run)):
            applying: dict[str, int] = {}
            for name in self._in_folder(folder):
                said = entities.of_name(name)
                del said["suffix"], said["extension"]
                if entities.matches(run, said):
                    applying[name] = len(said)
            best = [name for name, count in applying.items() if count == max(applying.values())]
            if len(best) > 1:
                raise RunExcluded(
                    "ambiguous events",
                    f"{len(best)} files in {self.tree.root / folder} apply equally to {row['run_id']}: "
                    f"{', '.join(best)}; expected one, name more entities in one of them",
                )
            if best:
                return f"{folder}/{best[0]}".lstrip("/")
        return None

    def _find(self, folder: str) -> list[str]:
        """Return the names of the events.tsv files in one folder; none where it is not there, or may not be read."""
        try:
            return [name for name in self.tree.folder(folder).names if _is_bids(name)]
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return []


def _is_bids(name: str) -> bool:
    """Return whether a file's name is entities and events.tsv; another ``x_events.tsv`` would apply to every run."""
    *parts, suffix = name.split("_")
    return suffix == "events.tsv" and bool(parts) and all("-" in part for part in parts)


def run_entities(row: Mapping[str, str]) -> dict[str, str]:
    """Return the entities of a run by pybids' names, from its id and the columns of its row."""
    said = entities.of_name(f"{row['run_id']}_bold.nii.gz")
    del said["suffix"], said["extension"]
    columns = {key: row[key] for key in ROW_ENTITIES if row.get(key, "n/a") not in ("n/a", "")}
    return columns | said


def _levels(run: Mapping[str, str]) -> list[str]:
    """Return the folders whose files may apply to a run, from the top of the dataset to the run's own."""
    if "subject" not in run:
        return [""]
    subject = entities.participant_id(run["subject"])
    levels = ["", subject]
    if "session" in run:
        levels.append(f"{subject}/ses-{run['session']}")
    return [*levels, f"{levels[-1]}/func"]


def find(roots: Sequence[Path], rows: Sequence[Mapping[str, str]]) -> tuple[Path, dict[str, str | RunExcluded | None]]:
    """Return the first of `roots` with a file for any run, and each run's file in it by run id.

    Where none has any, the first root and nothing for every run are returned; a run for which two files
    apply equally has the `RunExcluded` that says so.
    """
    for root in roots:
        files = EventFiles(root)
        found = {row["run_id"]: _try(files, row) for row in rows}
        if any(one is not None for one in found.values()):
            return root, found
    return roots[0], {row["run_id"]: None for row in rows}


def _try(files: EventFiles, row: Mapping[str, str]) -> str | RunExcluded | None:
    try:
        return files.of(row)
    except RunExcluded as reason:
        return reason


def likely_roots(root: Path) -> list[Path]:
    """Return where the events of a dataset may lie: in its folder, or above it up to the BIDS root.

    The BIDS root is a folder that describes itself as raw, or else the one that holds ``derivatives``.
    """
    folders = data_folders(root)
    if not is_raw_root(folders[-1]):
        below = [i for i, folder in enumerate(folders[:-1]) if folder.name == "derivatives"]
        folders = folders[: below[0] + 2] if below else folders[:1]
    return folders


def read(path: Path, columns: Sequence[str], *, needs_duration: bool = True) -> pd.DataFrame:
    """Read an events table.

    Parameters
    ----------
    path : Path
        tsv with ``onset`` and ``duration`` in s.
    columns : sequence of str
        Columns that name the condition; what they say is joined by ``_``, empty cells are left out.
    needs_duration : bool
        Whether a table without the column ``duration`` is refused.

    Returns
    -------
    DataFrame
        ``line`` (in the file, from 1), ``onset_s`` and ``duration_s`` (NaN where the table says n/a),
        ``condition`` ("" where it says n/a), in the order of onsets; rows without onset are last.

    Raises
    ------
    RunExcluded
        The file cannot be read, lacks a column, or has something else than a number for a time.
    """
    table = _table(path)
    needed = ["onset", *(["duration"] if needs_duration else []), *columns]
    if missing := [name for name in needed if name not in table]:
        raise RunExcluded(
            "damaged events",
            f"{path.name}: expected the columns {', '.join(needed)} (tab separated), found {', '.join(table.columns)}; "
            f"mend {', '.join(missing)}, or name the column of conditions in events.column of the dataset",
        )
    cells = zip(*(table[name] for name in columns), strict=True)
    said = ["_".join(cell for cell in row if cell not in EMPTY) for row in cells]
    duration = _seconds(table["duration"], path.name) if "duration" in table else np.full(len(table), np.nan)
    events = pd.DataFrame(
        {
            "line": np.arange(len(table)) + 2,
            "onset_s": _seconds(table["onset"], path.name),
            "duration_s": duration,
            "condition": np.array(said, dtype=object),
        }
    )
    return events.sort_values("onset_s", kind="stable", ignore_index=True)


def _table(path: Path) -> pd.DataFrame:
    """Return a tsv as stripped text."""
    try:
        with warnings.catch_warnings():
            # A tab at the end of each line must neither shift the columns nor be complained of.
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            table = pd.read_csv(
                path, sep="\t", dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
            ).fillna("")
    except FileNotFoundError as error:
        raise RunExcluded("not fetched", f"{path.name} is not there; copy it, or fetch it (datalad get)") from error
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        detail = f"{path.name}: expected a tab-separated table in UTF-8, found {error}; write it again"
        raise RunExcluded("damaged events", detail) from error
    table.columns = [str(name).strip() for name in table.columns]
    return table.apply(lambda column: column.str.strip())


def _seconds(column: pd.Series, name: str) -> np.ndarray:
    """Return a column of times in s as float64, NaN where it is empty."""
    empty = column.isin(EMPTY)
    values = pd.to_numeric(column.mask(empty), errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values) & ~empty.to_numpy())
    if len(wrong):
        raise RunExcluded(
            "damaged events",
            f"{name}, line {wrong[0] + 2}: expected {column.name} as a number of seconds, found "
            f"{column.iloc[wrong[0]]!r}; correct it (n/a where it is not known)",
        )
    return values

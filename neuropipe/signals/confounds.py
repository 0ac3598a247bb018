"""fMRIPrep's confounds tables: reading them, and which columns a strategy means.

Strategies bear nilearn's and XCP-D's names. All but ``none`` and own columns regress what their
publications list; ``simple``, ``scrubbing``, ``acompcor`` and ``icaaroma`` include fMRIPrep's
discrete cosines, as nilearn does.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.errors import RunExcluded
from neuropipe.signals.old_confounds import with_todays_names

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
EXPANSIONS = ("", "_derivative1", "_power2", "_derivative1_power2")
N_COMPCOR = 5  # components of each tissue, as in XCP-D
MIN_SEGMENT = 5  # volumes; shorter stretches between censored ones are censored too (Power et al. 2014)


@dataclass(frozen=True, eq=False)
class Confounds:
    """What a strategy regresses from one run.

    Attributes
    ----------
    regressors : float64 array (time, regressor)
        Finite everywhere.
    names : list of str
        Columns of the table, in order of `regressors`.
    censored : bool array (time,)
        Volumes that are not to be believed: non-steady state, and high motion where the strategy scrubs.
    n_leading : int
        Non-steady-state volumes at the start, which are cut off.
    fd_mm : float64 array (time,) or None
        Framewise displacement, NaN where the table says n/a.
    n_filled : int
        Regressors whose first values were n/a and were filled with the next.
    """

    regressors: np.ndarray
    names: list[str]
    censored: np.ndarray
    n_leading: int
    fd_mm: np.ndarray | None
    n_filled: int


def read_table(path: Path, n_volumes: int) -> pd.DataFrame:
    """Read a confounds table.

    Raises
    ------
    RunExcluded
        The file is not a table of numbers, or its length is not `n_volumes`.
    """
    try:
        table = pd.read_csv(path, sep="\t", encoding="utf-8-sig", na_values=["n/a"])
    except FileNotFoundError as error:
        raise RunExcluded("missing file", f"{path.name} is not there (any more); index again") from error
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise RunExcluded("damaged confounds", f"{path.name} is not a tab-separated table: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus values for row names
        raise RunExcluded("damaged confounds", f"{path.name} has rows with more values than its header has names")
    text = [str(c) for c in table if not pd.api.types.is_numeric_dtype(table[c])]
    if text:
        raise RunExcluded("damaged confounds", f"{path.name}: expected numbers or n/a, found text in {', '.join(text)}")
    if len(table) != n_volumes:
        raise RunExcluded(
            "confounds length",
            f"expected {n_volumes} rows in {path.name}, one per volume of the image, found {len(table)}",
        )
    return with_todays_names(table.astype(np.float64))


def read_description(path: Path) -> dict[str, dict]:
    """Return the JSON beside a confounds table, or nothing where there is none."""
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return {}
    try:
        description = json.loads(sidecar.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise RunExcluded("damaged sidecar", f"{sidecar.name} is not valid JSON: {error}") from error
    if not isinstance(description, dict):
        raise RunExcluded("damaged sidecar", f"{sidecar.name}: expected a JSON object with one entry per column")
    return description


def expanded(names: Sequence[str], n_expansions: int = 4) -> list[str]:
    """Return `names` with their first derivative, square, and square of the derivative."""
    return [name + suffix for name in names for suffix in EXPANSIONS[:n_expansions]]


def columns_of(
    strategy: str | Sequence[str], global_signal: bool, table: pd.DataFrame, description: dict[str, dict]
) -> list[str]:
    """Return the columns of a table that a strategy regresses.

    Parameters
    ----------
    strategy : str or sequence of str
        ``none``, ``simple``, ``scrubbing``, ``24P``, ``27P``, ``36P``, ``acompcor``, ``icaaroma``, or own
        column names and shell patterns.
    global_signal : bool
        Add the global signal where the strategy lacks it.
    table : DataFrame
        The confounds.
    description : dict
        JSON of the table; ``acompcor`` needs it.

    Raises
    ------
    RunExcluded
        A column is missing; the message names those that were found.
    """
    tissue = ["csf", "white_matter"]
    cosines = [c for c in table if re.fullmatch(r"cosine_?\d+", c)]
    if isinstance(strategy, str):
        wanted = {
            "none": lambda: [],
            "simple": lambda: [*cosines, *expanded(MOTION), *tissue],
            "scrubbing": lambda: [*cosines, *expanded(MOTION), *expanded(tissue)],
            "24P": lambda: expanded(MOTION),
            "27P": lambda: [*expanded(MOTION), *tissue, "global_signal"],
            "36P": lambda: [*expanded(MOTION), *expanded([*tissue, "global_signal"])],
            "acompcor": lambda: [*cosines, *expanded(MOTION, 2), *_compcor(description)],
            "icaaroma": lambda: [*cosines, *_matching("aroma_motion_*", table), *tissue],
        }[strategy]()
    else:
        wanted = [column for pattern in strategy for column in _matching(pattern, table)]
    if global_signal and "global_signal" not in wanted:
        wanted.append("global_signal")
    missing = [column for column in wanted if column not in table]
    if missing:
        raise RunExcluded(
            "missing confounds",
            f"expected the columns {', '.join(missing)}; found {found_columns(table)}; choose another clean.strategy",
        )
    return list(dict.fromkeys(wanted))


def _matching(pattern: str, table: pd.DataFrame) -> list[str]:
    found = [column for column in table if fnmatch.fnmatchcase(column, pattern)]
    return found or [pattern]  # an unmatched pattern is reported as a missing column


def found_columns(table: pd.DataFrame) -> str:
    """Return the column names in words, with numbered families as one (``cosine00..05``)."""
    families: dict[str, list[str]] = {}
    for column in table:
        match = re.fullmatch(r"(.*?)(\d+)", column)
        numbered = match is not None and not column.endswith(EXPANSIONS[1:])
        families.setdefault(match[1] if numbered else column, []).append(match[2] if numbered else "")
    return ", ".join(name + (n[0] if len(n) == 1 else f"{n[0]}..{n[-1]}") for name, n in families.items())


def _compcor(description: dict[str, dict]) -> list[str]:
    """Return the first retained anatomical components of CSF and of white matter, in order of variance."""
    chosen = []
    for mask in ("CSF", "WM"):
        retained = [
            name
            for name, about in description.items()
            if isinstance(about, dict)
            and str(about.get("Method", "")).lower() == "acompcor"
            and about.get("Mask") == mask
            and about.get("Retained")
        ]
        if not retained:
            raise RunExcluded(
                "missing confounds",
                f"acompcor needs the JSON beside the confounds table with retained components of {mask}; found "
                f"{'none' if description else 'no JSON'}; choose another clean.strategy",
            )
        chosen += sorted(retained, key=lambda name: -description[name].get("SingularValue", 0))[:N_COMPCOR]
    return chosen


def prepare(
    table: pd.DataFrame,
    description: dict[str, dict],
    strategy: str | Sequence[str],
    global_signal: bool,
    fd_threshold_mm: float,
) -> Confounds:
    """Return what a strategy regresses and censors.

    First values that are n/a (derivatives, framewise displacement) are filled with the next one, as
    nilearn does, and counted. ``scrubbing`` censors volumes whose framewise displacement exceeds
    `fd_threshold_mm`, and stretches of fewer than five volumes between censored ones.

    Raises
    ------
    RunExcluded
        A column is missing, or n/a elsewhere than at its start.
    """
    names = columns_of(strategy, global_signal, table, description)
    steady = ~_non_steady(table)
    chosen = table[names]
    filled = chosen.bfill()
    starts_na = chosen.isna() & chosen.ffill().isna()
    broken = [name for name in names if (chosen[name].isna() & ~starts_na[name]).any() or chosen[name].isna().all()]
    if broken:
        raise RunExcluded("damaged confounds", f"n/a in the middle, or everywhere, of {', '.join(broken)}")
    infinite = [name for name in names if np.isinf(chosen[name]).any()]
    if infinite:
        raise RunExcluded("damaged confounds", f"infinite values in {', '.join(infinite)}")
    fd = table["framewise_displacement"].to_numpy() if "framewise_displacement" in table else None
    censored = ~steady
    if strategy == "scrubbing":
        if fd is None:
            raise RunExcluded(
                "missing confounds", f"scrubbing needs framewise_displacement; found {found_columns(table)}"
            )
        censored |= _with_short_segments(fd > fd_threshold_mm)
    n_leading = int(np.argmax(steady)) if steady.any() else len(steady)
    n_filled = int(starts_na.any().sum())
    return Confounds(filled.to_numpy(), names, censored, n_leading, fd, n_filled)


def _non_steady(table: pd.DataFrame) -> np.ndarray:
    columns = [c for c in table if re.fullmatch(r"non_steady_state_outlier_?\d+", c)]
    return (table[columns] != 0).any(axis=1).to_numpy(dtype=bool)


def _with_short_segments(censored: np.ndarray) -> np.ndarray:
    """Also censor stretches of fewer than `MIN_SEGMENT` volumes that a censored volume cuts off."""
    if not censored.any():
        return censored
    out = censored.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[True], censored, [True]]).astype(int)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start < MIN_SEGMENT:
            out[start:end] = True
    return out

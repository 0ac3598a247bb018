"""fMRIPrep's confounds tables: reading them, and what of them is regressed and censored."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.config import Clean
from neuropipe.errors import RunExcluded
from neuropipe.signals import strategies
from neuropipe.signals.old_confounds import with_todays_names


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

    @property
    def steady_fd_mm(self) -> np.ndarray | None:
        """Framewise displacement without the volumes that are cut off."""
        return None if self.fd_mm is None else self.fd_mm[self.n_leading :]


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


def prepare(table: pd.DataFrame, description: dict[str, dict], settings: Clean) -> Confounds:
    """Return what a strategy regresses and censors.

    First values that are n/a (derivatives) are filled with the next one, as nilearn does, and counted.

    Raises
    ------
    RunExcluded
        A column is missing, or n/a elsewhere than at its start.
    """
    names = strategies.columns_of(settings, table, description)
    chosen = table[names]
    filled = chosen.bfill()
    starts_na = chosen.isna() & chosen.ffill().isna()
    broken = [name for name in names if (chosen[name].isna() & ~starts_na[name]).any() or chosen[name].isna().all()]
    if broken:
        raise RunExcluded("damaged confounds", f"n/a in the middle, or everywhere, of {', '.join(broken)}")
    infinite = [name for name in names if np.isinf(chosen[name]).any()]
    if infinite:
        raise RunExcluded("damaged confounds", f"infinite values in {', '.join(infinite)}")
    n_leading, censored = _leading(table, settings.n_dummy)
    if strategies.censors(settings):
        censored |= _high_motion(table, settings)
    fd = table["framewise_displacement"].to_numpy() if "framewise_displacement" in table else None
    return Confounds(filled.to_numpy(), names, censored, n_leading, fd, int(starts_na.any().sum()))


def cut(confounds: Confounds, n_dummy: int | str) -> Confounds:
    """Return confounds of a run whose first `n_dummy` volumes are cut off; ``auto`` cuts none."""
    if n_dummy == "auto":
        return confounds
    censored = confounds.censored | (np.arange(len(confounds.censored)) < n_dummy)
    return replace(confounds, censored=censored, n_leading=min(int(n_dummy), len(censored)))


def _leading(table: pd.DataFrame, n_dummy: int | str) -> tuple[int, np.ndarray]:
    """Return how many volumes are cut off at the start, and which are censored as not steady.

    A given number overrules the table. Volumes that the scanner itself discarded (NumberOfVolumesDiscardedByScanner)
    are not in the image and need nothing.
    """
    if n_dummy != "auto":
        censored = np.arange(len(table)) < n_dummy
        return int(censored.sum()), censored
    columns = [c for c in table if re.fullmatch(r"non_steady_state_outlier_?\d+", c)]
    censored = (table[columns].to_numpy() != 0).any(axis=1)
    return len(table) if censored.all() else int(np.argmin(censored)), censored


def _high_motion(table: pd.DataFrame, settings: Clean) -> np.ndarray:
    """Return which volumes exceed a limit of motion, with short stretches between them.

    Displacement and DVARS compare a volume with the one before, so that the first has none (n/a) and no limit of its
    own. Where the second exceeds one, the first is a stretch of one volume, and goes with it unless ``scrub`` is off.
    """
    limits = {"framewise_displacement": settings.fd_threshold_mm}
    if settings.std_dvars_threshold is not None:
        limits["std_dvars"] = settings.std_dvars_threshold
    strategies.require(list(limits), table)
    exceeded = np.zeros(len(table), dtype=bool)
    for column, limit in limits.items():
        exceeded |= table[column].to_numpy() > limit
    return _with_short_segments(exceeded, settings.scrub)


def _with_short_segments(censored: np.ndarray, scrub: int) -> np.ndarray:
    """Also censor stretches of fewer than `scrub` volumes that a censored volume cuts off (Power et al. 2014)."""
    if not censored.any():
        return censored
    out = censored.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[True], censored, [True]]).astype(int)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start < scrub:
            out[start:end] = True
    return out

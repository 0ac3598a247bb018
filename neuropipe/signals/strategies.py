"""Which columns of a confounds table a strategy means, by nilearn's and XCP-D's names.

Anatomical components go with fMRIPrep's discrete cosines, which they were computed after.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neuropipe.config import Clean
from neuropipe.errors import RunExcluded

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
TISSUE = ("csf", "white_matter")
EXPANSIONS = ("", "_derivative1", "_power2", "_derivative1_power2")
MASKS = {"anat_separated": ("CSF", "WM"), "anat_combined": ("combined",), "csf": ("CSF",), "wm": ("WM",)}


@dataclass(frozen=True)
class Strategy:
    """What a named strategy regresses and censors.

    Attributes
    ----------
    cosines : bool
        fMRIPrep's discrete cosines, a high-pass of 128 s.
    motion, tissue, global_signal : int
        How many of `EXPANSIONS` of the motion parameters, of CSF and white matter, of the global signal; 0 for none.
    compcor : str or None
        One of `MASKS`.
    n_compcor : int, float or "all"
        Components of each mask: how many, or a share of variance.
    aroma : bool
        Components that ICA-AROMA calls motion.
    censor : bool
        Censor volumes by displacement and DVARS.
    """

    cosines: bool = False
    motion: int = 0
    tissue: int = 0
    global_signal: int = 0
    compcor: str | None = None
    n_compcor: int | float | str = 5
    aroma: bool = False
    censor: bool = False


STRATEGIES = {
    "none": Strategy(),
    "cosine": Strategy(cosines=True),
    "gsr_only": Strategy(global_signal=1),
    "simple": Strategy(cosines=True, motion=4, tissue=1),
    "scrubbing": Strategy(cosines=True, motion=4, tissue=4, censor=True),
    "24P": Strategy(motion=4),
    "27P": Strategy(motion=4, tissue=1, global_signal=1),
    "36P": Strategy(motion=4, tissue=4, global_signal=4),
    "36P+spikes": Strategy(motion=4, tissue=4, global_signal=4, censor=True),
    "acompcor": Strategy(cosines=True, motion=2, compcor="anat_separated"),
    "acompcor_gsr": Strategy(cosines=True, motion=2, compcor="anat_separated", global_signal=1),
    "acompcor50": Strategy(cosines=True, motion=2, compcor="anat_separated", n_compcor=0.5),
    "compcor": Strategy(cosines=True, motion=4, compcor="anat_combined", n_compcor="all"),
    "icaaroma": Strategy(cosines=True, tissue=1, aroma=True),
    "icaaroma_gsr": Strategy(cosines=True, tissue=1, aroma=True, global_signal=1),
}


def expanded(names: Sequence[str], n_expansions: int = 4) -> list[str]:
    """Return `names` with their first derivative, square, and square of the derivative."""
    return [name + suffix for name in names for suffix in EXPANSIONS[:n_expansions]]


def columns_of(settings: Clean, table: pd.DataFrame, description: dict[str, dict]) -> list[str]:
    """Return the columns of a table that a strategy regresses.

    Parameters
    ----------
    settings : Clean
        The strategy, and what it leaves open: components and global signal.
    table : DataFrame
        The confounds.
    description : dict
        JSON of the table; anatomical components need it.

    Raises
    ------
    RunExcluded
        A column is missing; the message names those that were found.
    """
    if isinstance(settings.strategy, str):
        wanted = _named(STRATEGIES[settings.strategy], settings, table, description)
    else:
        wanted = [column for pattern in settings.strategy.columns for column in _matching(pattern, table)]
    if settings.global_signal:
        wanted.append("global_signal")
    require(wanted, table)
    return list(dict.fromkeys(wanted))


def _named(strategy: Strategy, settings: Clean, table: pd.DataFrame, description: dict[str, dict]) -> list[str]:
    """Return the columns of a named strategy, missing ones included."""
    wanted = [column for column in table if re.fullmatch(r"cosine_?\d+", column)] if strategy.cosines else []
    wanted += expanded(MOTION, strategy.motion)
    if strategy.aroma:
        wanted += _matching("aroma_motion_*", table)
    wanted += expanded(TISSUE, strategy.tissue) + expanded(["global_signal"], strategy.global_signal)
    if strategy.compcor:
        n_compcor = strategy.n_compcor if settings.n_compcor is None else settings.n_compcor
        for mask in MASKS[settings.compcor or strategy.compcor]:
            wanted += _components(description, mask, n_compcor)
    return wanted


def censors(settings: Clean) -> bool:
    """Return whether volumes are censored by motion."""
    if settings.censor is not None:
        return settings.censor
    return isinstance(settings.strategy, str) and STRATEGIES[settings.strategy].censor


def require(columns: Sequence[str], table: pd.DataFrame) -> None:
    """Raise `RunExcluded` where a table lacks columns; the message names those that it has."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise RunExcluded(
            "missing confounds",
            f"expected the columns {', '.join(missing)}; found {found_columns(table)}; choose another clean.strategy",
        )


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


def _components(description: dict[str, dict], mask: str, n_compcor: int | float | str) -> list[str]:
    """Return the first retained anatomical components of a mask, in order of variance.

    The JSON says which they are: names do not, as ``a_comp_cor_00`` may be of any mask, and newer releases write
    ``c_comp_cor_00`` and ``w_comp_cor_00``. A table that has fewer than asked for gives what it has.
    """
    retained = [
        name
        for name, about in description.items()
        if isinstance(about, dict)
        and str(about.get("Method", "")).lower() == "acompcor"
        and about.get("Mask") == mask
        and about.get("Retained", True)
    ]
    if not retained:
        raise RunExcluded(
            "missing confounds",
            f"expected the JSON beside the confounds table to name retained aCompCor components of {mask}, found "
            f"{'none' if description else 'no JSON'}; choose another clean.strategy",
        )
    retained.sort(key=lambda name: -description[name].get("SingularValue", 0))
    if n_compcor == "all":
        return retained
    if isinstance(n_compcor, int):
        return retained[:n_compcor]
    return retained[: _n_for_share(description, retained, mask, n_compcor)]


def _n_for_share(description: dict[str, dict], names: list[str], mask: str, share: float) -> int:
    """Return how many components, in order, explain a share of their mask's variance."""
    explained = np.cumsum([description[name].get("VarianceExplained", 0.0) for name in names])
    if explained[-1] < share - 1e-6:
        raise RunExcluded(
            "missing confounds",
            f"expected aCompCor components of {mask} that explain {share:g} of the variance (clean.n_compcor), found "
            f"{len(names)} that explain {explained[-1]:.3g}; lower the share, or run fMRIPrep with "
            "--return-all-components",
        )
    return int(np.searchsorted(explained, share - 1e-6)) + 1

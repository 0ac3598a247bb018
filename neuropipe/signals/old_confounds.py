"""Confounds tables of the first fMRIPrep (before 1.2): their columns by today's names."""

from __future__ import annotations

import re

import pandas as pd

NAMES = {
    **{axis: f"trans_{axis.lower()}" for axis in "XYZ"},
    **{f"Rot{axis}": f"rot_{axis.lower()}" for axis in "XYZ"},
    "CSF": "csf",
    "WhiteMatter": "white_matter",
    "GlobalSignal": "global_signal",
    "FramewiseDisplacement": "framewise_displacement",
    "stdDVARS": "std_dvars",
    "non-stdDVARS": "dvars",
}
# Numbered columns: prefix then and now.
NUMBERED = {
    "aCompCor": "a_comp_cor_",
    "tCompCor": "t_comp_cor_",
    "Cosine": "cosine",
    "NonSteadyStateOutlier": "non_steady_state_outlier",
    "AROMAAggrComp": "aroma_motion_",
}
EXPANDED = (*(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"), "csf", "white_matter", "global_signal")


def with_todays_names(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with today's names; one that has them already is returned as it is.

    The first tables held no derivatives and squares. They are added as fMRIPrep computes them: the
    change from the volume before, n/a for the first, and squares of both.
    """
    if not {"FramewiseDisplacement", "RotX"} & set(table.columns):
        return table
    table = table.rename(columns=_todays)
    added = {}
    for name in EXPANDED:
        if name in table and f"{name}_derivative1" not in table:
            change = table[name].diff()
            added |= {f"{name}_derivative1": change, f"{name}_power2": table[name] ** 2}
            added[f"{name}_derivative1_power2"] = change**2
    return table.assign(**added)


def _todays(name: str) -> str:
    numbered = re.fullmatch(r"([A-Za-z]+?)(\d+)", name)
    if numbered and numbered[1] in NUMBERED:
        return NUMBERED[numbered[1]] + numbered[2]
    return NAMES.get(name, name)

"""The tables of a quality page: every run with its measures, the runs unlike the others, the sites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from neuropipe.config import Exclude

MAX_SITES = 40  # drawn in one figure


@dataclass(frozen=True)
class Measure:
    """A column of the table: where it comes from, how it is called and shown."""

    column: str
    title: str
    meaning: str
    decimals: int
    limit: str = ""  # key of `exclude`
    percent: bool = False

    def shown(self, value: float) -> str:
        """Return a value as text; empty where it is not known."""
        if not math.isfinite(value):
            return ""
        return f"{100 * value:.{self.decimals}f}" if self.percent else f"{value:.{self.decimals}f}"


def rows(
    runs: pd.DataFrame, measures: Sequence[Measure], outliers: pd.DataFrame, limits: Exclude
) -> list[dict[str, Any]]:
    """Return the runs in their order, each cell with its value, what is shown, and whether it is marked.

    Parameters
    ----------
    runs : DataFrame
        run_id, site, reason and detail (empty for runs that were kept), ``picture`` (path relative to the page, empty
        without), the measures, and optionally ``note``: what else is to be said of a run.
    measures : sequence of Measure
        Columns of the table.
    outliers : DataFrame
        run_id and measure, as of `group_quality.outliers`.
    limits : Exclude
        Of the study.
    """
    far = {name: set(part["measure"]) for name, part in outliers.groupby("run_id")}
    values = {m.column: runs[m.column].to_numpy(dtype=float, na_value=np.nan) for m in measures}
    table = []
    for i, run in enumerate(runs.to_dict("records")):
        marked = far.get(run["run_id"], set())
        state = "left out" if run["reason"] else "outlier" if marked else "kept"
        cells = [
            (f"{values[m.column][i]:.5g}" if math.isfinite(values[m.column][i]) else "",
             m.shown(values[m.column][i]), m.column in marked or _beyond(values[m.column][i], m, limits))
            for m in measures
        ]  # fmt: skip
        said = [f"{run['reason']}: {run['detail']}"] if run["reason"] else [
            m.title for m in measures if m.column in marked
        ]  # fmt: skip
        why = ", ".join([*said, run["note"]] if run.get("note") else said)
        picture = quote(run["picture"]) if run["picture"] else ""
        table.append(
            {"id": run["run_id"], "site": run["site"], "state": state, "why": why, "cells": cells, "picture": picture}
        )
    return table


def _beyond(value: float, measure: Measure, limits: Exclude) -> bool:
    """Return whether a value is beyond the study's limit."""
    limit = getattr(limits, measure.limit) if measure.limit else None
    if limit is None or not math.isfinite(value):
        return False
    return value < limit if measure.limit.startswith("min_") else value > limit


def sites(means: pd.DataFrame, measures: Sequence[Measure]) -> dict[str, Any]:
    """Return the table of site means; `means` is as of `group_quality.site_means`."""
    columns = [m for m in measures if m.column in means and means[m.column].notna().any()]
    rows = [
        {
            "site": row["site"] or "not named",
            "counts": [row["n_runs"], row["n_people"]],
            "cells": [(f"{row[m.column]:.5g}" if row[m.column] == row[m.column] else "", m.shown(row[m.column]))
                      for m in columns],
        }
        for row in means.to_dict("records")
    ]  # fmt: skip
    return {"columns": columns, "rows": rows}


def outliers(found: pd.DataFrame, measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Return the runs unlike the others in words; `found` is as of `group_quality.outliers`."""
    by_column, rows = {m.column: m for m in measures}, []
    for row in found.to_dict("records"):
        measure = by_column[row["measure"]]
        side = "high" if row["robust_z"] > 0 else "low"
        shown, median = measure.shown(row["value"]), measure.shown(row["median"])
        rows.append({**row, "measure": measure.title, "meaning": measure.meaning, "side": side})
        rows[-1] |= {"shown": shown, "shown_median": median, "z": f"{row['robust_z']:+.1f}".replace("-", "−")}
    return rows

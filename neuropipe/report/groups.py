"""The strip of a task's test people, group by group: one row per site or sex, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from neuropipe.report.figure import Figure
from neuropipe.report.svg import Panel, circle, figure, line, number, padded, text
from neuropipe.report.systems import System

MAX_GROUPS = 30  # rows drawn; the largest groups are kept
ROW = 26  # pixels
APART = 8  # pixels between two systems of a row
LETTERS = 16  # of a group's name


def draw(
    rows: pd.DataFrame, systems: Sequence[System], column: str, metric: str, chance: float | None
) -> Figure | None:
    """Return a metric in every group of one column.

    Parameters
    ----------
    rows : DataFrame
        Of one task and metric: run_id, column, group, n, n_positive, value, ci_low, ci_high.
    systems : sequence of System
        One mark each; those without rows are left out.
    column : str
        What people are grouped by: site or sex.
    metric : str
        Its name for a reader.
    chance : float or None
        Drawn as a dashed line.
    """
    rows = rows[(rows["column"] == column) & rows["value"].notna()]
    drawn = [system for system in systems if len(system.rows(rows))]
    rows = rows[rows["run_id"].isin([system.run_id for system in drawn])]
    sizes = rows.groupby("group")["n"].max().sort_values(ascending=False, kind="stable")
    if not drawn or len(sizes) < 2:
        return None
    names = sorted(sizes.index[:MAX_GROUPS])
    shown = rows[rows["group"].isin(names)]
    ends = [*shown["value"], *shown["ci_low"], *shown["ci_high"], *([] if chance is None else [chance])]
    height = ROW * len(names) + 50
    panel = Panel.over(padded(ends), (0, 1), width=440, height=height, left=150)
    marks = _frame(panel, metric, chance)
    for place, name in enumerate(names):
        middle = 22 + ROW * place
        marks.append(text(panel.x.start - 8, middle + 4, _called(shown[shown["group"] == name], name), "tick", "end"))
        marks.append(line(panel.x.start, middle, panel.x.end, middle, "row"))
        for at, system in enumerate(drawn):
            own = system.rows(shown[shown["group"] == name])
            marks += _marks(panel, own, system, middle + APART * (at - (len(drawn) - 1) / 2))
    counted = "people tested" if shown["n_positive"].isna().all() else "positive of all people tested"
    caption = f"{metric} by {column}, {counted} in brackets" + ("" if chance is None else "; dashed: knowing nothing")
    if len(sizes) > MAX_GROUPS:
        caption += f"; the {MAX_GROUPS} largest of {len(sizes)}"
    said = "; ".join(_said(system, shown) for system in drawn)
    return Figure(caption, figure(panel.width, height, marks, f"{metric} by {column}: {said}."), drawn)


def _frame(panel: Panel, metric: str, chance: float | None) -> list:
    floor = panel.height - 40
    marks = []
    for value in panel.x.ticks(4):
        marks.append(line(panel.x(value), 8, panel.x(value), floor, "grid"))
        marks.append(text(panel.x(value), floor + 15, number(value)))
    if chance is not None:
        marks.append(line(panel.x(chance), 8, panel.x(chance), floor, "reference"))
    marks.append(text((panel.x.start + panel.x.end) / 2, panel.height - 6, metric, "label"))
    return marks


def _called(rows: pd.DataFrame, name: str) -> str:
    """Return a group with the number of its people, of binary targets also of the positive ones."""
    short = name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
    n, positive = rows["n"].max(), rows["n_positive"].max()
    return f"{short} ({n})" if pd.isna(positive) else f"{short} ({positive} of {n})"


def _marks(panel: Panel, rows: pd.DataFrame, system: System, y: float) -> list:
    marks = []
    for row in rows.itertuples():
        tip = f"{row.group}, {system.label}: {row.value:.3f}"
        if np.isfinite(row.ci_low) and np.isfinite(row.ci_high):
            marks.append(line(panel.x(row.ci_low), y, panel.x(row.ci_high), y, f"interval thin {system.css}"))
            tip += f" ({row.ci_low:.3f} to {row.ci_high:.3f})"
        marks.append(circle(panel.x(row.value), y, 4.5, f"mark {system.css}", tip))
    return marks


def _said(system: System, rows: pd.DataFrame) -> str:
    own = system.rows(rows).sort_values("value")
    low, high = own.iloc[0], own.iloc[-1]
    return f"{system.label} from {low['value']:.3f} ({low['group']}) to {high['value']:.3f} ({high['group']})"

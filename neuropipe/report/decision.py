"""Decision curves: what acting on a model's probability is worth, against treating everybody and nobody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from neuropipe.report import curves
from neuropipe.report.figure import Figure, Plot, Trace
from neuropipe.report.svg import Panel, line, polyline
from neuropipe.report.systems import System

BELOW = 0.25  # how far below zero is shown, as a share of the best net benefit
CAPTION = (
    "Decision curves: net benefit per person of treating from a probability on; a model is of use where it lies above "
    "treating everybody (dashed) and nobody (zero)"
)


def draw(rows: pd.DataFrame, systems: Sequence[System]) -> Figure | None:
    """Return the net benefit of `systems` over the probability from which a person is treated.

    Parameters
    ----------
    rows : DataFrame
        Of one task: run_id, threshold, net_benefit, treat_all.
    """
    drawn = [system for system in systems if len(system.rows(rows))]
    if not drawn:
        return None
    lines = {system.run_id: system.rows(rows).sort_values("threshold") for system in drawn}
    everybody = lines[drawn[0].run_id]
    top = max(float(one["net_benefit"].max()) for one in [*lines.values(), everybody.assign(net_benefit=0.01)])
    top = max(top, float(everybody["treat_all"].max()))
    panel = Panel.over((0, 1), (-BELOW * top, top * 1.05), height=370)
    marks = panel.axes("Probability from which a person is treated", "Net benefit")
    marks.append(line(panel.x(0), panel.y(0), panel.x(1), panel.y(0), "axis"))
    marks.append(polyline(_inside(panel, everybody, "treat_all"), "reference", "Treating everybody"))
    for system in reversed(drawn):  # the first system lies on top
        points = _inside(panel, lines[system.run_id], "net_benefit")
        marks.append(polyline(points, f"curve {system.css}", system.label))
    said = "; ".join(f"{system.label} {_at_even(lines[system.run_id]):.3f}" for system in drawn)
    drawing = panel.draw(marks, f"Decision curves; net benefit at a probability of one half: {said}.")
    traces = [_trace(system.label, system.css, lines[system.run_id], "net_benefit") for system in drawn]
    traces.append(_trace("Treating everybody", "s-majority", everybody, "treat_all", -BELOW * top))
    return Figure(CAPTION, drawing, drawn, plot=Plot("Probability", "Net benefit", traces))


def _inside(panel: Panel, rows: pd.DataFrame, column: str) -> list[tuple[float, float]]:
    """Return a curve's pixels up to where it leaves the panel for the first time."""
    value = rows[column].to_numpy(float)
    below = np.flatnonzero(value < panel.y.low)
    n = below[0] + 1 if below.size else len(value)
    return panel.points(*curves.thin(rows["threshold"].to_numpy(float)[:n], value[:n]))


def _at_even(rows: pd.DataFrame) -> float:
    return float(rows["net_benefit"].iloc[(rows["threshold"] - 0.5).abs().argmin()])


def _trace(name: str, css: str, rows: pd.DataFrame, column: str, low: float = -np.inf) -> Trace:
    kept = rows[rows[column] >= low]
    return Trace(name, css, *curves.thin(kept["threshold"].to_numpy(float), kept[column].to_numpy(float), 100))

"""Learning curves: a metric by how many training people a readout learned from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from neuropipe.report.figure import Figure, Plot, Trace
from neuropipe.report.svg import Panel, circle, dots, padded, polyline
from neuropipe.report.systems import System


def draw(grid: pd.DataFrame, systems: Sequence[System], label: str, chance: float | None, learner: str) -> Figure:
    """Return a metric over the number of training people (logarithmic): means over draws, and every draw as a dot.

    Parameters
    ----------
    grid : DataFrame
        ``run_id, repeat, fold, n_people, draw, value`` of one task and metric; of several folds, each draw's mean
        over them.
    systems : sequence of System
        Every one has rows.
    label : str
        Name of the metric.
    chance : float or None
        What knowing nothing gives.
    learner : str
        What learned, for the caption: the decoder, the readout.
    """
    grid = over_folds(grid[grid["run_id"].isin([system.run_id for system in systems])])
    sizes = sorted(grid["n_people"].unique())
    low, high = np.log2(float(sizes[0])), np.log2(float(sizes[-1]))
    values = padded([*grid["value"], *([] if chance is None else [chance])])
    panel = Panel.over((low - 0.2, max(high, low + 1) + 0.2), values, width=440, height=340)
    marks = panel.axes("Training people", label, x_ticks=_ticks(sizes))
    if chance is not None:
        marks.append(polyline([(panel.x.start, panel.y(chance)), (panel.x.end, panel.y(chance))], "reference"))
    said, traces = [], []
    for system in reversed(systems):  # the first system lies on top
        drawn = system.rows(grid).groupby(["n_people", "draw"])["value"].mean()
        mean = drawn.groupby("n_people").mean()
        at = np.log2(drawn.index.get_level_values("n_people").to_numpy(float))
        marks.append(dots(panel.points(at, drawn), f"{system.css} faint"))
        points = panel.points(np.log2(mean.index.to_numpy(float)), mean)
        marks.append(polyline(points, f"curve {system.css}", system.label))
        marks += [
            circle(x, y, 4, f"mark {system.css}", f"{system.label}, {n} people: {value:.3f}")
            for (x, y), (n, value) in zip(points, mean.items(), strict=True)
        ]
        said.insert(0, f"{system.label} from {mean.iloc[0]:.2f} to {mean.iloc[-1]:.2f}")
        traces.insert(
            0, Trace(system.label, system.css, mean.index.to_numpy(float), mean.to_numpy(float), "lines+markers")
        )
    drawing = panel.draw(marks, f"{label} from {sizes[0]} to {sizes[-1]} training people: {'; '.join(said)}.")
    caption = f"{label} by how many people the {learner} learned from; dots are draws of people"
    return Figure(caption, drawing, list(systems), plot=Plot("Training people", label, traces, log_x=True))


def over_folds(grid: pd.DataFrame) -> pd.DataFrame:
    """Return the points that all folds have, so that no point is of other folds than its neighbours.

    Everybody of a fold, its last point, is drawn at the mean size of training sides.
    """
    folds = grid.groupby(["repeat", "fold"], dropna=False)["n_people"]
    if folds.ngroups < 2:
        return grid
    last = grid["n_people"] == folds.transform("max")
    everybody = round(float(folds.max().mean()))
    placed = grid.assign(place=grid["fold"].astype(str) + "/" + grid["repeat"].astype(str))
    shared = placed[~last].groupby("n_people")["place"].nunique() == folds.ngroups
    inner = grid["n_people"].isin(shared.index[shared]) & (grid["n_people"] < everybody) & ~last
    return grid.assign(n_people=grid["n_people"].mask(last, everybody))[last | inner]


def _ticks(sizes: Sequence[int], apart: float = 0.45) -> dict[float, str]:
    """Return labels of the sizes by their places; a size that is too near to the one before it has none."""
    ticks: dict[float, str] = {}
    for n in sizes:
        place = float(np.log2(float(n)))
        if not ticks or place - max(ticks) >= apart:
            ticks[place] = f"{n}"
    return ticks

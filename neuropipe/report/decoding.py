"""Figures of state decoding: confusion matrices, single people, and what more training people bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe.report.svg import Panel, circle, dots, figure, polyline, text
from neuropipe.report.systems import System

MATRIX = 300  # pixels that the cells of a confusion matrix fill at most
CELL = 56  # their largest edge, pixels
COUNTED = 26  # edge from which cells carry their numbers, pixels
LABEL_WIDTH = 96  # left of a confusion matrix, and below it
LETTERS = 14  # of a label
PALE = 0.06  # of the colour, so that an empty cell is still seen
DARK = 0.55  # share from which a number is written in the page's light colour


@dataclass(frozen=True)
class Clips:
    """The tables of decoding: ``decoding.parquet``, and ``efficiency.parquet`` where there is a grid."""

    predictions: pd.DataFrame
    efficiency: pd.DataFrame | None

    def tested(self, task: str) -> pd.DataFrame:
        """Return the clips of test people of one task."""
        rows = self.predictions
        return rows[(rows["task"] == task) & (rows["role"] == "test")]

    def grid(self, task: str, metric: str) -> pd.DataFrame:
        """Return the grid of one task and metric; empty where there is none."""
        if self.efficiency is None:
            return pd.DataFrame(columns=["run_id", "n_people", "draw", "value"])
        rows = self.efficiency
        return rows[(rows["task"] == task) & (rows["metric"] == metric)]


def label_names(rows: pd.DataFrame) -> list[str]:
    """Return the labels that occur or are predicted, in the order of the label map."""
    pairs = [rows[["y", "label"]].to_numpy(), rows[["yhat", "predicted"]].to_numpy()]
    return [name for _, name in sorted({(int(place), str(name)) for place, name in np.concatenate(pairs)})]


def confusion(rows: pd.DataFrame, system: System) -> Markup:
    """Return the confusion matrix of one system: rows are true labels, shades the share of a row, numbers clips.

    Parameters
    ----------
    rows : DataFrame
        Test rows of ``decoding.parquet`` of one task.
    """
    names, mine = label_names(rows), system.rows(rows)
    counts = pd.crosstab(mine["label"], mine["predicted"]).reindex(index=names, columns=names, fill_value=0).to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    edge = min(CELL, MATRIX / len(names))
    marks = []
    for i, name in enumerate(names):
        middle = (i + 0.5) * edge
        marks.append(text(LABEL_WIDTH - 8, middle + 4, _short(name), "tick", "end"))
        marks.append(_slanted(LABEL_WIDTH + middle, len(names) * edge + 14, _short(name)))
        for j, predicted in enumerate(names):
            n, share = int(counts[i, j]), float(shares[i, j])
            tip = f"{name} called {predicted}: {n} of {counts[i].sum()} clips ({share:.0%})"
            marks.append(_cell(LABEL_WIDTH + j * edge, i * edge, edge - 2, share, tip, system.css))
            if edge >= COUNTED and n:
                css = "onfill" if share > DARK else "count"
                marks.append(text(LABEL_WIDTH + (j + 0.5) * edge - 1, middle + 3.5, str(n), css))
    right = ", ".join(f"{name} {shares[i, i]:.0%}" for i, name in enumerate(names))
    size = len(names) * edge
    what = f"Clips told rightly by {system.label}: {right}."
    return figure(LABEL_WIDTH + size, size + LABEL_WIDTH * 0.75, marks, what)


def _cell(x: float, y: float, edge: float, share: float, tip: str, css: str) -> Markup:
    mark = Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2" fill-opacity="{:.2f}" class="cell {}">'
        "<title>{}</title></rect>"
    )
    return mark.format(x, y, edge, edge, PALE + (1 - PALE) * share, css, tip)


def _slanted(x: float, y: float, content: str) -> Markup:
    mark = Markup('<text transform="translate({:.1f} {:.1f}) rotate(-40)" class="tick" text-anchor="end">{}</text>')
    return mark.format(x + 4, y, content)


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def people(rows: pd.DataFrame, systems: Sequence[System]) -> Markup:
    """Return the share of each test person's clips that is told, one row of dots per system, the mean as a bar."""
    row, left = 34, 176
    panel = Panel.over((0, 1), (0, 1), width=480, height=row * len(systems) + 48, left=left)
    marks = []
    for value in panel.x.ticks(5):
        marks.append(polyline([(panel.x(value), 6), (panel.x(value), panel.y.start)], "grid"))
        marks.append(text(panel.x(value), panel.y.start + 16, f"{value:g}"))
    marks.append(text((panel.x.start + panel.x.end) / 2, panel.height - 6, "Share of a person’s clips", "label"))
    said = []
    for place, system in enumerate(systems):
        mine, middle = system.rows(rows), 20 + row * place
        hit = (mine["y"] == mine["yhat"]).astype(float)
        shares = hit.groupby([mine["dataset"], mine["participant_id"]]).mean()
        marks.append(text(left - 10, middle + 4, _fitting(system.label), "tick", "end"))
        for number, (person, share) in enumerate(shares.items()):
            shift = 6 * ((number * 0.618) % 1 - 0.5) * 2
            marks.append(circle(panel.x(share), middle + shift, 4, f"mark {system.css}", f"{person[1]}: {share:.0%}"))
        mean = float(shares.mean())
        marks.append(polyline([(panel.x(mean), middle - 12), (panel.x(mean), middle + 12)], "median"))
        said.append(f"{system.label} {shares.min():.0%} to {shares.max():.0%}, mean {mean:.0%}")
    return panel.draw(marks, f"Share of each test person’s clips that is told: {'; '.join(said)}.")


def _fitting(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:23]}…"


def efficiency(grid: pd.DataFrame, systems: Sequence[System], label: str, chance: float | None) -> Markup:
    """Return a metric over the number of training people (logarithmic): means over draws, and every draw as a dot.

    Parameters
    ----------
    grid : DataFrame
        ``run_id, repeat, fold, n_people, draw, value`` of one metric; of several folds, each draw's mean over them.
    """
    grid = grid[grid["run_id"].isin([system.run_id for system in systems])]
    sizes = sorted(grid["n_people"].unique())
    low, high = np.log2(sizes[0]), np.log2(sizes[-1])
    bottom = min(float(grid["value"].min()), 1.0 if chance is None else chance)
    panel = Panel.over((low - 0.2, max(high, low + 1) + 0.2), (max(bottom - 0.05, 0.0), 1.0), width=440, height=340)
    marks = panel.axes("Training people", label, x_ticks={float(np.log2(n)): f"{n}" for n in sizes})
    if chance is not None:
        marks.append(polyline([(panel.x.start, panel.y(chance)), (panel.x.end, panel.y(chance))], "reference"))
    said = []
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
    return panel.draw(marks, f"{label} from {sizes[0]} to {sizes[-1]} training people: {'; '.join(said)}.")

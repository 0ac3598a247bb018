"""Figures of state decoding: confusion matrices and single people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe.report import confusion
from neuropipe.report.svg import Panel, circle, polyline, text
from neuropipe.report.systems import System


@dataclass(frozen=True)
class Clips:
    """The table of decoding: ``decoding.parquet``."""

    predictions: pd.DataFrame

    def tested(self, task: str) -> pd.DataFrame:
        """Return the clips of test people of one task."""
        rows = self.predictions
        return rows[(rows["task"] == task) & (rows["role"] == "test")]


def label_names(rows: pd.DataFrame) -> list[str]:
    """Return the labels that occur or are predicted, in the order of the label map."""
    pairs = [rows[["y", "label"]].to_numpy(), rows[["yhat", "predicted"]].to_numpy()]
    return [name for _, name in sorted({(int(place), str(name)) for place, name in np.concatenate(pairs)})]


def confused(rows: pd.DataFrame, system: System) -> Markup:
    """Return the confusion matrix of one system over the test rows of ``decoding.parquet`` of one task."""
    mine = system.rows(rows)
    return confusion.draw(mine["label"], mine["predicted"], label_names(rows), system, "clips")


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

"""Confusion matrices: true classes in rows, answers in columns, shades for the share of a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe.report.svg import figure, text
from neuropipe.report.systems import System

MATRIX = 300  # pixels that the cells fill at most
CELL = 56  # their largest edge, pixels
COUNTED = 26  # edge from which cells carry their numbers, pixels
LABEL_WIDTH = 96  # left of the matrix, and below it
LETTERS = 14  # of a label
PALE = 0.06  # of the colour, so that an empty cell is still seen
DARK = 0.55  # share from which a number is written in the page's light colour


def draw(truth: pd.Series, answer: pd.Series, names: Sequence[str], system: System, what: str) -> Markup:
    """Return the confusion matrix of one system.

    Parameters
    ----------
    truth, answer : Series
        Names of classes, one row per judged item.
    names : sequence of str
        All classes in order.
    what : str
        What is judged, in the plural: clips, people.
    """
    counts = pd.crosstab(truth.to_numpy(), answer.to_numpy()).reindex(index=names, columns=names, fill_value=0)
    counts = counts.to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    edge = min(CELL, MATRIX / len(names))
    marks = []
    for i, name in enumerate(names):
        middle = (i + 0.5) * edge
        marks.append(text(LABEL_WIDTH - 8, middle + 4, _short(name), "tick", "end"))
        marks.append(_slanted(LABEL_WIDTH + middle, len(names) * edge + 14, _short(name)))
        for j, predicted in enumerate(names):
            n, share = int(counts[i, j]), float(shares[i, j])
            tip = f"{name} called {predicted}: {n} of {counts[i].sum()} {what} ({share:.0%})"
            marks.append(_cell(LABEL_WIDTH + j * edge, i * edge, edge - 2, share, tip, system.css))
            if edge >= COUNTED and n:
                css = "onfill" if share > DARK else "count"
                marks.append(text(LABEL_WIDTH + (j + 0.5) * edge - 1, middle + 3.5, str(n), css))
    right = ", ".join(f"{name} {shares[i, i]:.0%}" for i, name in enumerate(names))
    size = len(names) * edge
    said = f"{what.capitalize()} told rightly by {system.label}: {right}."
    return figure(LABEL_WIDTH + max(size, LABEL_WIDTH), size + LABEL_WIDTH * 0.75, marks, said)


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

"""The forest plot of a leaderboard: one row per system, drawn in shares of the width so that it fits any screen.

Labels and values are text of the page, so they keep their size on a phone; only the marks between
them are drawn, in percent of whatever width is there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from neuropipe.report.svg import Scale, number, padded
from neuropipe.report.systems import SQUARE
from neuropipe.report.tables import NAMES, Board, Entry
from neuropipe.report.words import amount, interval, probability


@dataclass(frozen=True)
class Row:
    """One system: its label, whether pretraining saw test people, its drawing, its value as text.

    ``p`` is the corrected p of its difference to the reference; empty where there is none.
    """

    label: str
    tainted: bool
    drawing: Markup
    value: str
    between: str
    p: str = ""


@dataclass(frozen=True)
class Forest:
    """The whole plot.

    Attributes
    ----------
    rows : list of Row
        In the order of the leaderboard.
    axis : Markup
        Ticks and their labels.
    keys : list of (css, words)
        What the vertical lines and the band mean.
    description : str
        For screen readers.
    """

    rows: list[Row]
    axis: Markup
    keys: list[tuple[str, str]]
    description: str


def draw(board: Board) -> Forest:
    """Return the forest plot of a leaderboard, with the central 95 % of permuted scores as bands."""
    bands = {run: tuple(np.percentile(draws, [2.5, 97.5])) for run, draws in board.nulls.items()}
    lines = _lines(board)
    extremes = [limit for band in bands.values() for limit in band] + [value for _, _, value in lines]
    extremes += [v for entry in board.entries for v in (entry.value, entry.ci_low, entry.ci_high)]
    low, high = padded(extremes)
    if board.metric != "mae":
        low, high = max(low, 0.0), min(high, 1.0)
    scale = Scale(low, high, 0.0, 100.0)
    rows = [_row(board, entry, bands.get(entry.system.run_id), lines, scale) for entry in board.entries]
    keys = [(css, words) for css, words, _ in lines]
    if bands:
        keys.append(("band", "central 95 % of shuffled labels"))
    listed = "; ".join(f"{row.label} " + ", ".join(filter(None, (row.value, row.between, row.p))) for row in rows)
    description = f"{NAMES[board.metric]} with 95 % intervals on {board.name}: {listed}."
    return Forest(rows, _axis(scale), keys, description)


def _lines(board: Board) -> list[tuple[str, str, float]]:
    """Return the vertical lines: class, words, value."""
    found = []
    if board.chance is not None:
        shown = amount(board.chance, board.metric)
        found.append(("l-chance", f"{'knowing nothing' if board.lower_is_better else 'chance'} {shown}", board.chance))
    model = board.best("model")
    for role, words in (("reference", board.reference.words.removeprefix("the ")), ("confounds", "confounds only")):
        entry = board.twin(model, role) if model else board.best(role)
        if entry is not None:
            found.append((f"l-{role}", f"{words} {amount(entry.value, board.metric)}", entry.value))
    return found


def _row(
    board: Board,
    entry: Entry,
    band: tuple[float, float] | None,
    lines: list[tuple[str, str, float]],
    scale: Scale,
) -> Row:
    marks = []
    if band is not None:
        mark = Markup('<rect x="{:.2f}%" y="20%" width="{:.2f}%" height="60%" class="band"/>')
        marks.append(mark.format(scale(band[0]), scale(band[1]) - scale(band[0])))
    for css, _, value in lines:
        mark = Markup('<line x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="100%" class="{1}"/>')
        marks.append(mark.format(scale(value), css))
    between = interval(entry.ci_low, entry.ci_high, board.metric)
    value = amount(entry.value, board.metric)
    if between != "–":
        mark = Markup('<line x1="{:.2f}%" x2="{:.2f}%" y1="50%" y2="50%" class="interval {}"/>')
        marks.append(mark.format(scale(entry.ci_low), scale(entry.ci_high), entry.system.css))
    if math.isfinite(entry.value):
        tip = f"{entry.system.label}: {value}" + (f" ({between})" if between != "–" else "")
        marks.append(_point(scale(entry.value), entry, tip))
    tainted = entry.n_seen > 0
    label = f"{entry.system.label}, saw test people" if tainted else entry.system.label
    return Row(label, tainted, Markup("").join(marks), value, "" if between == "–" else between, _p(board, entry))


def _p(board: Board, entry: Entry) -> str:
    reference = board.best("reference")
    difference = entry.differences.get(reference.system.name) if reference else None
    if difference is None or not math.isfinite(difference.p_corrected):
        return ""
    shown = probability(difference.p_corrected)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def _point(at: float, entry: Entry, tip: str) -> Markup:
    """Return the mark of a value: squares for baselines, circles for networks, hollow where untrained."""
    if entry.system.role in SQUARE:
        mark = Markup(
            '<rect x="{:.2f}%" y="50%" width="10" height="10" transform="translate(-5 -5)" class="point {}">'
            "<title>{}</title></rect>"
        )
        return mark.format(at, entry.system.css, tip)
    mark = Markup('<circle cx="{:.2f}%" cy="50%" r="6" class="point {}"><title>{}</title></circle>')
    return mark.format(at, entry.system.css, tip)


def _axis(scale: Scale) -> Markup:
    marks = [Markup('<line x1="0" x2="100%" y1="1" y2="1" class="axis"/>')]
    for value in scale.ticks(4):
        mark = Markup('<line x1="{0:.2f}%" x2="{0:.2f}%" y1="1" y2="6" class="axis"/>')
        label = Markup('<text x="{:.2f}%" y="20" class="tick" text-anchor="middle">{}</text>')
        marks += [mark.format(scale(value)), label.format(scale(value), number(value))]
    return Markup("").join(marks)

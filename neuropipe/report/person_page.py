"""The page of one person's prediction, and the index of them all: everything inline, nothing loaded from elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
from markupsafe import Markup

from neuropipe import __version__
from neuropipe.report import stacks
from neuropipe.report.page import asset, csp, environment
from neuropipe.report.svg import Scale, circle, figure, line, number, rect, text

BASE_BYTES, OVERLAY_BYTES = 1_500_000, 300_000  # of PNG; base64 adds a third, and a page stays below 3 MB
RESEARCH = (
    "For research only. This is the output of a statistical model for one scan: not a diagnosis, not a finding, and "
    "no ground for a decision about a person’s care."
)
# axis that is cut, axis to the right, axis up, the words at the left and right edge
VOLUME_PLANES = (
    ("Sagittal", 0, 1, 2, "back", "front"),
    ("Coronal", 1, 0, 2, "left", "right"),
    ("Axial", 2, 0, 1, "left", "right"),
)
SLICE_PLANES = (("Slice", 0, 2, 1, "", ""),)


@dataclass(frozen=True)
class Answer:
    """What the network said of one person; NaN and None where it says nothing.

    Attributes
    ----------
    target : str
        What was predicted, e.g. ``"diagnosis"``.
    kind : {"binary", "regression"}
    positive : str
        Class that the probability is of.
    unit : str
        Of the value, e.g. ``"years"``; empty where not known.
    raw, calibrated : float
        Probability as the network gives it, and after the calibration on validation people.
    value : float
        Predicted value.
    uncertainty : float
        Standard deviation over stochastic passes and networks, of the probability or the value.
    entropy, mutual_information : float
        In nats.
    n_passes, n_networks : int
    distance, limit : float
        How far the scan lies from the training data, and from where on it counts as unlike them.
    unfamiliar : bool or None
    threshold : float
        Calibrated probability from which on the label is the positive class.
    threshold_source : str
        Where it is from, in words.
    label : str
    scale : (float, float) or None
        Mean and standard deviation of the value among the people of the training.
    """

    target: str
    kind: Literal["binary", "regression"]
    positive: str = ""
    unit: str = ""
    raw: float = math.nan
    calibrated: float = math.nan
    value: float = math.nan
    uncertainty: float = math.nan
    entropy: float = math.nan
    mutual_information: float = math.nan
    n_passes: int = 0
    n_networks: int = 1
    distance: float = math.nan
    limit: float = math.nan
    unfamiliar: bool | None = None
    threshold: float = math.nan
    threshold_source: str = ""
    label: str = ""
    scale: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Picture:
    """What is looked at.

    Attributes
    ----------
    base : float array (x, y, z) in RAS order, or (slice, row, column)
        What the network read.
    overlay : float array with as many axes, optional
        In [0, 1], over the same field of view; for slices one map per slice.
    planes : {"volume", "slices"}
    positions : sequence of three sequences of str
        The name of every place along each axis of `base`; for slices the first only.
    size : three float
        Extent along each axis in one unit.
    overlay_name, overlay_meaning : str
        A title, and what it is and is not.
    """

    base: np.ndarray
    overlay: np.ndarray | None
    planes: Literal["volume", "slices"]
    positions: Sequence[Sequence[str]]
    size: tuple[float, float, float]
    overlay_name: str = ""
    overlay_meaning: str = ""


@dataclass(frozen=True)
class Person:
    """All that a page says of one person; `facts` of the network are pairs of a label and words."""

    participant_id: str
    files: list[str]
    answer: Answer
    picture: Picture
    notes: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Listed:
    """One row of the index."""

    participant_id: str
    page: str
    answer: Answer


def render(person: Person, made_at: datetime) -> str:
    """Return the page of one person."""
    answer = person.answer
    return _page(
        "person.html.j2",
        made_at,
        script="viewer.js",
        person=person,
        headline=headline(answer),
        sentences=sentences(answer),
        warning=unfamiliar(answer),
        drawing=_bar(answer) if answer.kind == "binary" else _ruler(answer),
        tiles=tiles(answer),
        planes=VOLUME_PLANES if person.picture.planes == "volume" else SLICE_PLANES,
        data=_data(person.picture),
    )


def render_index(listed: Sequence[Listed], excluded: Sequence[dict[str, str]], made_at: datetime) -> str:
    """Return the page that leads to the others and says which files were left out."""
    return _page("people.html.j2", made_at, script="", listed=listed, excluded=excluded)


def _page(template: str, made_at: datetime, script: str, **values: object) -> str:
    style = asset("style.css") + asset("person.css")
    code = (asset(script) if script else "") + asset("page.js")
    return (
        environment()
        .get_template(template)
        .render(
            style=Markup(style),
            script=Markup(code),
            style_hash=csp(style),
            script_hash=csp(code),
            research=RESEARCH,
            date=f"{made_at:%d %B %Y}".lstrip("0"),
            version=__version__,
            shown=shown,
            in_words=in_words,
            **values,
        )
    )


# ------------------------------------------------------------------ words


def shown(value: float, digits: int = 2) -> str:
    """Return a number with a true minus sign; a dash where there is none."""
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def in_words(answer: Answer) -> str:
    """Return the answer in a few words: a probability or a value with its unit."""
    if answer.kind == "binary":
        return shown(_probability(answer))
    return f"{shown(answer.value, 1)} {answer.unit}".rstrip()


def headline(answer: Answer) -> str:
    """Return the answer as a sentence."""
    if answer.kind == "binary":
        how = "calibrated" if math.isfinite(answer.calibrated) else "not calibrated"
        return f"Probability of {answer.target} “{answer.positive}”: {in_words(answer)} ({how})"
    return f"Predicted {answer.target}: {in_words(answer)}"


def sentences(answer: Answer) -> list[str]:
    """Return what the numbers mean, one sentence each; they never judge how sure one may be."""
    said = []
    if answer.label:
        side = "at or above" if _probability(answer) >= answer.threshold else "below"
        said.append(
            f"It is {side} the threshold of {shown(answer.threshold)} ({answer.threshold_source}), "
            f"so the table has the label “{answer.label}”."
        )
    if math.isfinite(answer.uncertainty):
        among = [f"{answer.n_passes} passes with dropout"] if answer.n_passes else []
        among += [f"{answer.n_networks} networks"] if answer.n_networks > 1 else []
        unit = f" {answer.unit}" if answer.kind == "regression" and answer.unit else ""
        said.append(
            f"Over {' and '.join(among)} it varies with a standard deviation of "
            f"{shown(answer.uncertainty, 3 if answer.kind == 'binary' else 1)}{unit}; this is how much the network "
            "disagrees with itself, not how often it is wrong."
        )
    if answer.kind == "binary" and not math.isfinite(answer.calibrated):
        said.append("No calibration is stored with the network: the number ranks people, and is no frequency.")
    if answer.unfamiliar is None:
        said.append("Nothing stored with the network tells how much this scan is like those it was trained on.")
    return said


def unfamiliar(answer: Answer) -> str:
    """Return the warning of a scan unlike the training data; empty where it is like them or nothing is known."""
    if not answer.unfamiliar:
        return ""
    return (
        f"This scan is unlike those that the network was trained on: its distance is {shown(answer.distance)}, the "
        f"limit {shown(answer.limit)}. The numbers below were computed all the same and should not be relied on."
    )


def tiles(answer: Answer) -> list[tuple[str, str]]:
    """Return the numbers of the page with their names."""
    if answer.kind == "binary":
        found = [("probability, calibrated", answer.calibrated, 3), ("probability, raw", answer.raw, 3)]
    else:
        found = [(f"predicted value{f' ({answer.unit})' if answer.unit else ''}", answer.value, 1)]
    found.append(("uncertainty (SD)", answer.uncertainty, 3 if answer.kind == "binary" else 1))
    if answer.kind == "binary":
        found += [("entropy (nats)", answer.entropy, 3), ("mutual information (nats)", answer.mutual_information, 3)]
    limit = f", limit {shown(answer.limit)}" if math.isfinite(answer.limit) else ""
    found.append((f"distance to the training data{limit}", answer.distance, 2))
    return [(name, shown(value, digits)) for name, value, digits in found]


def _probability(answer: Answer) -> float:
    return answer.calibrated if math.isfinite(answer.calibrated) else answer.raw


# ------------------------------------------------------------------ drawings

WIDTH, LEFT, RIGHT, TRACK, THICK = 340.0, 14.0, 326.0, 34.0, 12.0


def _bar(answer: Answer) -> Markup:
    """Return the probabilities on a line from 0 to 1, with the spread over passes and the threshold."""
    x, p = Scale(0, 1, LEFT, RIGHT), _probability(answer)
    middle = TRACK + THICK / 2
    marks = [rect(LEFT, TRACK, RIGHT - LEFT, THICK, "track"), rect(LEFT, TRACK, x(p) - LEFT, THICK, "filled")]
    if answer.uncertainty > 0:
        marks.append(line(x(p - answer.uncertainty), middle, x(p + answer.uncertainty), middle, "spread"))
    if math.isfinite(answer.threshold):
        at = x(answer.threshold)
        marks += [line(at, TRACK - 6, at, TRACK + THICK + 6, "threshold")]
        marks += [text(min(max(at, 50), WIDTH - 50), TRACK - 11, f"threshold {shown(answer.threshold)}")]
    marks.append(circle(x(answer.raw), middle, 5, "rawmark", f"raw {shown(answer.raw, 3)}"))
    if math.isfinite(answer.calibrated):
        marks.append(circle(x(p), middle, 6, "calibratedmark", f"calibrated {shown(p, 3)}"))
    marks += [text(x(tick), TRACK + THICK + 20, number(tick)) for tick in (0, 0.25, 0.5, 0.75, 1)]
    return figure(WIDTH, 72, marks, f"{headline(answer)}; raw {shown(answer.raw, 3)}.")


def _ruler(answer: Answer) -> Markup:
    """Return the value with its spread on an axis about what the training had."""
    mean, sd = answer.scale or (answer.value, max(abs(answer.value) / 4, 1.0))
    low, high = min(mean - 3 * sd, answer.value), max(mean + 3 * sd, answer.value)
    x, top = Scale(low, high, LEFT, RIGHT), 6.0
    middle = top + THICK / 2
    marks = [rect(LEFT, top, RIGHT - LEFT, THICK, "track")]
    if answer.scale:
        marks.append(rect(x(mean - sd), top, x(mean + sd) - x(mean - sd), THICK, "usual"))
    if answer.uncertainty > 0:
        ends = (answer.value - answer.uncertainty, answer.value + answer.uncertainty)
        marks.append(line(x(ends[0]), middle, x(ends[1]), middle, "spread"))
    marks.append(circle(x(answer.value), middle, 6, "calibratedmark", in_words(answer)))
    marks += [text(x(tick), top + THICK + 20, number(tick)) for tick in x.ticks(5)]
    return figure(WIDTH, 44, marks, f"{headline(answer)}.")


def _data(picture: Picture) -> Markup:
    """Return what the viewer's script reads, as JSON that is safe inside a script element."""
    base = stacks.pack(picture.base, BASE_BYTES)
    overlay = None if picture.overlay is None else stacks.pack(picture.overlay, OVERLAY_BYTES, (0.0, 1.0))
    planes = VOLUME_PLANES if picture.planes == "volume" else SLICE_PLANES
    content = {
        "base": vars(base),
        "overlay": None if overlay is None else vars(overlay),
        "planes": [
            {"axis": axis, "across": across, "up": up, "flip": picture.planes == "volume"}
            for _, axis, across, up, _, _ in planes
        ],
        "positions": [list(names) for names in picture.positions],
        "size": list(picture.size),
    }
    return Markup(json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))

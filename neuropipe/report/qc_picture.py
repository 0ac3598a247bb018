"""The picture of one run: displacement, DVARS and carpets before and after cleaning, and its coverage.

One SVG that stands alone: it is loaded as an image, only when somebody looks, and follows the light or
dark theme of its page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe.report import brain, png
from neuropipe.report.svg import Scale, line, number, rect, text
from neuropipe.signals.traces import LEVELS, Traces

WIDTH, LEFT, RIGHT = 720.0, 92.0, 708.0
CARPET_HEIGHT, MAX_ROWS = 150.0, 230  # pixels, and rows of regions of a carpet's picture
GREYS = [(0, 0, 0, 0)] + [(round(255 * i / (LEVELS - 1)),) * 3 + (255,) for i in range(LEVELS)]
# Lowest coverage of each class of dots on the glass brain.
COVERAGE = ((0.95, "c-full", "95 % and more"), (0.75, "c-most", "75 to 95 %"), (0.0, "c-part", "below 75 %"))
MISSING = "c-none"


@dataclass(frozen=True, eq=False)
class Layout:
    """What the pictures of a dataset share.

    Attributes
    ----------
    order : int array (region,)
        Regions by network, left before right.
    networks : list of (str, float, float)
        Name, and start and end of its rows as shares of a carpet's height.
    centres : array (region, 3)
        In mm; NaN where unknown.
    fd_threshold_mm, min_coverage : float
        Limits to be drawn.
    """

    order: np.ndarray
    networks: list[tuple[str, float, float]]
    centres: np.ndarray
    fd_threshold_mm: float
    min_coverage: float

    @classmethod
    def of(cls, regions: pd.DataFrame, fd_threshold_mm: float, min_coverage: float | None) -> Layout:
        """Return the layout of a region table."""
        named = regions["network"].where(regions["network"] != "", regions["atlas"])
        rank = {name: i for i, name in enumerate(dict.fromkeys(named))}
        order = np.lexsort([np.arange(len(named)), regions["hemisphere"].to_numpy(), named.map(rank).to_numpy()])
        ends = np.cumsum([(named == name).sum() for name in rank]) / len(named)
        networks = list(zip(rank, [0.0, *ends[:-1]], ends, strict=True))
        centres = regions[["x", "y", "z"]].to_numpy(float)
        return cls(order, networks, centres, fd_threshold_mm, min_coverage or 0.0)


def draw(traces: Traces, layout: Layout) -> str:
    """Return the SVG of one run; what is not known of it is not there."""
    duration = len(traces.fd_mm) * traces.t_r
    time = Scale(0, duration, LEFT, RIGHT)
    marks, top = [], 8.0
    if np.isfinite(traces.fd_mm).any():
        marks += _trace([(traces.fd_mm, "before")], traces, time, top, "FD", "mm", layout.fd_threshold_mm)
        top += 92
    if np.isfinite(traces.dvars_before).any():
        pair = [(traces.dvars_before, "before"), (traces.dvars_after, "after")]
        marks += _trace(pair, traces, time, top, "DVARS", "%", None)
        top += 92
    for words, levels in (("Before cleaning", traces.before), ("After cleaning", traces.after)):
        if levels.size:
            marks += _carpet(words, levels, time, top, layout)
            top += CARPET_HEIGHT + 26
    marks += _time_axis(time, top - 4)
    top += 30
    if np.isfinite(traces.coverage).any() and np.isfinite(layout.centres).any():
        marks += _coverage(traces.coverage, layout, top)
        top += brain.HEIGHT + 46
    frame = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0:.0f} {1:.0f}" width="{0:.0f}" height="{1:.0f}">'
    return f"{frame.format(WIDTH, top)}<style>{_style()}</style>{Markup('').join(marks)}</svg>\n"


@cache
def _style() -> str:
    return (Path(__file__).parent / "templates" / "qc_picture.css").read_text(encoding="utf-8")


def _trace(
    lines: Sequence[tuple[np.ndarray, str]],
    traces: Traces,
    time: Scale,
    top: float,
    name: str,
    unit: str,
    limit: float | None,
) -> list[Markup]:
    """Return one panel of lines over time; censored volumes are bands behind them."""
    known = np.concatenate([values[np.isfinite(values)] for values, _ in lines])
    # Single huge jumps are cut off at the frame, so that the rest can be seen.
    high = float(max(min(known.max(), 4 * np.percentile(known, 95)), 1.25 * (limit or 0))) or 1.0
    value = Scale(0, high, top + 70, top)
    marks = [rect(time(a), top, max(time(b) - time(a), 1), 70, "censored") for a, b in _stretches(traces)]
    for tick in value.ticks(2):
        marks.append(line(LEFT, value(tick), RIGHT, value(tick), "grid"))
        marks.append(text(LEFT - 6, value(tick) + 4, number(tick), "tick", "end"))
    marks.append(text(4, top + 14, name, "name", "start"))
    marks.append(text(4, top + 30, unit, "tick", "start"))
    if limit is not None:
        marks.append(line(LEFT, value(limit), RIGHT, value(limit), "limit"))
    for row, (values, css) in enumerate(lines):
        marks.append(_line_with_gaps(values, traces.t_r, time, value, css))
        if len(lines) > 1:
            marks.append(text(4, top + 48 + 16 * row, css, f"name {css}", "start"))
    return marks


def _stretches(traces: Traces) -> list[tuple[float, float]]:
    """Return start and end in s of each stretch of censored volumes."""
    edges = np.diff(np.concatenate([[0], traces.censored.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(a * traces.t_r, b * traces.t_r) for a, b in zip(starts, ends, strict=True)]


def _line_with_gaps(values: np.ndarray, t_r: float, time: Scale, value: Scale, css: str) -> Markup:
    """Return a line that is broken where a value is not known; a single value is a dot."""
    steps, pen = [], "M"
    for i, one in enumerate(values):
        if not np.isfinite(one):
            pen = "M"
            continue
        steps.append(f"{pen}{time((i + 0.5) * t_r):.1f} {value(float(one)):.1f}")
        steps += ["h0"] if pen == "M" else []
        pen = "L"
    return Markup('<path d="{}" class="trace {}"/>').format("".join(steps), css)


def _carpet(words: str, levels: np.ndarray, time: Scale, top: float, layout: Layout) -> list[Markup]:
    """Return a carpet under its title, its networks named at the left."""
    rows = _shrunk(levels[layout.order])
    uri = png.data_uri(png.encode(rows, GREYS))
    marks = [text(LEFT, top + 10, words, "name", "start")]
    top += 16
    image = '<image x="{}" y="{}" width="{}" height="{}" preserveAspectRatio="none" href="{}" class="carpet"/>'
    marks.append(Markup(image).format(LEFT, f"{top:.1f}", RIGHT - LEFT, CARPET_HEIGHT, uri))
    for n, (name, start, end) in enumerate(layout.networks):
        height = (end - start) * CARPET_HEIGHT
        marks.append(rect(LEFT - 6, top + start * CARPET_HEIGHT, 4, height, "bar even" if n % 2 else "bar"))
        if height >= 9:
            shown = name if len(name) <= 11 else name[:10] + "…"
            marks.append(text(LEFT - 10, top + (start + end) / 2 * CARPET_HEIGHT + 4, shown, "tick", "end"))
    return marks


def _shrunk(levels: np.ndarray) -> np.ndarray:
    """Return at most `MAX_ROWS` rows: neighbours are averaged, missing regions do not count."""
    if len(levels) <= MAX_ROWS:
        return levels
    edges = np.linspace(0, len(levels), MAX_ROWS + 1).round().astype(int)[:-1]
    known = np.add.reduceat((levels > 0).astype(np.uint16), edges, axis=0)
    total = np.add.reduceat(levels.astype(np.uint16), edges, axis=0)
    return np.where(known > 0, np.rint(total / np.maximum(known, 1)), 0).astype(np.uint8)


def _time_axis(time: Scale, top: float) -> list[Markup]:
    marks = []
    for tick in time.ticks(6):
        marks += [line(time(tick), top - 4, time(tick), top, "axis"), text(time(tick), top + 14, number(tick))]
    return [*marks, text(LEFT - 10, top + 14, "s", "tick", "end")]


def _coverage(coverage: np.ndarray, layout: Layout, top: float) -> list[Markup]:
    """Return the glass brain of one run's coverage with its key."""
    classes = [coverage_class(value, layout.min_coverage) for value in coverage]
    marks = [text(LEFT, top + 12, "Coverage of the regions", "name", "start")]
    shown = set(classes)
    left = LEFT
    for css, words in coverage_key(layout.min_coverage):
        if css in shown:
            count = classes.count(css)
            marks.append(Markup('<path d="M{} {}h0" class="dots {}"/>').format(left + 4, top + 30, css))
            label = f"{words} ({count})"
            marks.append(text(left + 13, top + 34, label, "tick", "start"))
            left += 34 + 6.6 * len(label)
    inside = Markup("").join(brain.glass(layout.centres, classes))
    place = Markup('<g transform="translate({} {})">{}</g>')
    return [*marks, place.format((WIDTH - brain.WIDTH) / 2, f"{top + 44:.1f}", inside)]


def coverage_class(value: float, min_coverage: float) -> str:
    """Return the CSS class of a region by its coverage."""
    if not value >= max(min_coverage, 1e-9):
        return MISSING
    return next(css for low, css, _ in COVERAGE if value >= low)


def coverage_key(min_coverage: float) -> list[tuple[str, str]]:
    """Return the classes of coverage with what they mean."""
    lowest = f"missing (below {min_coverage:.0%})".replace("%", " %") if min_coverage else "missing"
    return [(css, words) for _, css, words in COVERAGE] + [(MISSING, lowest)]

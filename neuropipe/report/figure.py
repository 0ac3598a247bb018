"""A figure of the page: a static drawing, and where a closer look is worth it the same data for Plotly."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

from neuropipe.report.systems import System

DIGITS = 3  # significant digits of the data that a reader can point at


@dataclass(frozen=True)
class Trace:
    """One line or one group of dots.

    Attributes
    ----------
    name : str
        As the legend says it.
    css : str
        Class that gives the colour, so that the plot follows the page's theme.
    x, y : sequence of float
        Points.
    mode : {"lines", "markers", "lines+markers"}
        How they are drawn.
    text : sequence of str
        What is said of each point; empty for its coordinates alone.
    """

    name: str
    css: str
    x: Sequence[float]
    y: Sequence[float]
    mode: Literal["lines", "markers", "lines+markers"] = "lines"
    text: Sequence[str] = ()


@dataclass(frozen=True)
class Plot:
    """What Plotly draws in place of a static drawing when a reader asks for it."""

    x_label: str
    y_label: str
    traces: list[Trace]
    log_x: bool = False

    def json(self) -> Markup:
        """Return the data as JSON that can stand inside a ``script`` element of any page."""
        traces = [
            {"name": one.name, "css": one.css, "x": rounded(one.x), "y": rounded(one.y), "mode": one.mode}
            | ({"text": list(one.text)} if len(one.text) else {})
            for one in self.traces
        ]
        content = {"x": self.x_label, "y": self.y_label, "traces": traces} | ({"log": True} if self.log_x else {})
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption, the systems that its legend names, and whether three fit side by side.

    ``keys`` are entries of the legend that are no systems: class and words. ``plot`` is what "Explore" draws.
    """

    caption: str
    drawing: Markup
    systems: list[System] = field(default_factory=list)
    small: bool = False
    keys: list[tuple[str, str]] = field(default_factory=list)
    plot: Plot | None = None


def rounded(values: Iterable[float]) -> list[float | int | None]:
    """Return numbers with `DIGITS` significant digits; whole ones as they are, missing ones as None."""
    found: list[float | int | None] = []
    for value in values:
        if not math.isfinite(value):
            found.append(None)
            continue
        short = value if float(value).is_integer() else float(f"{value:.{DIGITS}g}")
        found.append(int(short) if float(short).is_integer() else short)
    return found

"""Small SVG: a scale, a framed panel and a few marks, coloured by the page's style sheet.

Every mark is one function that returns escaped markup. Colours, strokes and fonts are classes of
``templates/style.css``, so a figure follows the page's light and dark themes. Coordinates are
rounded to a tenth of a pixel, which keeps a page of many figures small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup


@dataclass(frozen=True)
class Scale:
    """A linear map from data to pixels.

    Attributes
    ----------
    low, high : float
        Ends of the data's range.
    start, end : float
        The pixels that they fall on (`end` < `start` for an axis that points up).
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of `value`; values outside the range are held at its ends."""
        span = self.high - self.low or 1.0
        share = min(max((value - self.low) / span, 0.0), 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self, n: int = 5) -> list[float]:
        """Return about `n` round numbers inside the range."""
        return round_ticks(self.low, self.high, n)


def round_ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Return about `n` round numbers (steps of 1, 2, 2.5 or 5 times a power of ten) in [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / max(n, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def padded(values: Iterable[float], share: float = 0.05) -> tuple[float, float]:
    """Return the range of the finite `values` widened by `share` on both sides; (0, 1) where there are none."""
    finite = np.asarray([v for v in values if v is not None and math.isfinite(v)], dtype=float)
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = (high - low) * share or abs(high) * share or 1.0
    return low - margin, high + margin


def number(value: float) -> str:
    """Return a tick's label: short, with a true minus sign."""
    shown = f"{value / 1000:g}k" if abs(value) >= 10000 else f"{value:.6g}"
    return shown.replace("-", "−")


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """Return a straight line between two pixels."""
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(_at(x1), _at(y1), _at(x2), _at(y2), css)


def rect(x: float, y: float, width: float, height: float, css: str, title: str = "") -> Markup:
    """Return a rectangle; `title` is shown when it is pointed at."""
    mark = Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}">{}</rect>')
    return mark.format(_at(x), _at(y), _at(max(width, 0)), _at(max(height, 0)), css, _title(title))


def circle(x: float, y: float, radius: float, css: str, title: str = "") -> Markup:
    """Return a dot; `title` is shown when it is pointed at."""
    mark = Markup('<circle cx="{}" cy="{}" r="{}" class="{}">{}</circle>')
    return mark.format(_at(x), _at(y), _at(radius), css, _title(title))


def text(x: float, y: float, content: str, css: str = "tick", anchor: str = "middle") -> Markup:
    """Return a label whose baseline is at `y`."""
    return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(
        _at(x), _at(y), css, anchor, content
    )


def polyline(points: Sequence[tuple[float, float]], css: str, title: str = "") -> Markup:
    """Return a line through pixel `points`."""
    steps = "L".join(f"{_at(x)} {_at(y)}" for x, y in points)
    return Markup('<path d="M{}" class="{}">{}</path>').format(steps, css, _title(title))


def area(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], css: str) -> Markup:
    """Return the filled band between two lines with the same horizontal pixels."""
    steps = "L".join(f"{_at(x)} {_at(y)}" for x, y in [*upper, *reversed(lower)])
    return Markup('<path d="M{}Z" class="{}"/>').format(steps, css)


def dots(points: Iterable[tuple[float, float]], css: str) -> Markup:
    """Return many equal dots as one path of zero-length strokes with round ends (about ten bytes a dot)."""
    steps = "".join(f"M{_at(x)} {_at(y)}h0" for x, y in points)
    return Markup('<path d="{}" class="dots {}"/>').format(steps, css) if steps else Markup("")


def _title(content: str) -> Markup:
    return Markup("<title>{}</title>").format(content) if content else Markup("")


def figure(width: float, height: float, marks: Iterable[Markup], description: str) -> Markup:
    """Return the whole drawing; `description` is what a screen reader says instead of it."""
    body = Markup("").join(marks)
    frame = Markup('<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">{3}</svg>')
    return frame.format(_at(width), _at(height), description, body)


@dataclass(frozen=True)
class Panel:
    """A framed plot: an x and a y scale inside margins.

    Attributes
    ----------
    x, y : Scale
        From data to pixels; `y` points up.
    width, height : float
        Of the whole drawing in pixels.
    """

    x: Scale
    y: Scale
    width: float
    height: float

    @classmethod
    def over(
        cls,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        width: float = 380,
        height: float = 330,
        left: float = 50,
        bottom: float = 44,
    ) -> Panel:
        """Return a panel over two data ranges; `left` and `bottom` leave room for labels (pixels)."""
        return cls(
            Scale(*x_range, left, width - 12),
            Scale(*y_range, height - bottom, 12),
            width,
            height,
        )

    def axes(
        self, x_label: str, y_label: str, n_x: int = 5, n_y: int = 5, x_ticks: Mapping[float, str] | None = None
    ) -> list[Markup]:
        """Return grid lines, tick labels and axis titles (empty for none); `x_ticks` are labels by their places."""
        left, right = self.x.start, self.x.end
        floor, top = self.y.start, self.y.end
        marks = []
        for value in self.y.ticks(n_y):
            marks.append(line(left, self.y(value), right, self.y(value), "grid"))
            marks.append(text(left - 6, self.y(value) + 3.5, number(value), "tick", "end"))
        shown = x_ticks if x_ticks is not None else {value: number(value) for value in self.x.ticks(n_x)}
        for value, label in shown.items():
            marks.append(line(self.x(value), floor, self.x(value), floor + 4, "axis"))
            marks.append(text(self.x(value), floor + 17, label))
        marks.append(line(left, floor, right, floor, "axis"))
        marks.append(text((left + right) / 2, self.height - 6, x_label, "label"))
        title = Markup('<text transform="translate(11 {}) rotate(-90)" class="label" text-anchor="middle">{}</text>')
        marks.append(title.format(_at((floor + top) / 2), y_label))
        return marks

    def points(self, x: Iterable[float], y: Iterable[float]) -> list[tuple[float, float]]:
        """Return the pixels of the finite pairs."""
        pairs = zip(x, y, strict=True)
        return [(self.x(a), self.y(b)) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]

    def draw(self, marks: Iterable[Markup], description: str) -> Markup:
        """Return the drawing of this panel."""
        return figure(self.width, self.height, marks, description)

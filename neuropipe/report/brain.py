"""A glass brain: region centres over the outline of the MNI152 brain, seen from the left, the front and above.

The outlines are a few points drawn by hand and rounded; no image is needed. They say where a region
lies, not where cortex ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from neuropipe.report.svg import circle, dots, figure, text

# Half outlines are mirrored at the midline; points in mm.
_CORONAL = [(0, 76), (14, 79), (34, 72), (52, 54), (63, 30), (68, 6), (67, -16), (60, -36), (46, -46), (34, -50)]
_CORONAL += [(28, -58), (14, -62), (0, -60)]
_AXIAL = [(0, 68), (10, 73), (26, 69), (42, 54), (55, 34), (64, 8), (69, -20), (67, -46), (57, -74), (42, -94)]
_AXIAL += [(22, -105), (6, -105), (0, -101)]
_SAGITTAL = [(72, 4), (69, 24), (58, 46), (38, 63), (12, 74), (-20, 79), (-48, 75), (-74, 60), (-94, 36), (-105, 8)]
_SAGITTAL += [(-104, -12), (-94, -24), (-93, -40), (-82, -56), (-64, -63), (-46, -58), (-34, -62), (-22, -60)]
_SAGITTAL += [(-14, -40), (2, -46), (20, -42), (30, -30), (44, -22), (60, -16), (69, -8)]


@dataclass(frozen=True)
class View:
    """One projection: which axes of the brain go right and up, and what is drawn around them."""

    name: str
    right: int
    up: int
    outline: list[tuple[float, float]]
    left_mm: float
    right_mm: float
    mirrored: bool = False


def _both_sides(half: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return half + [(-x, y) for x, y in reversed(half[1:-1])]


TOP_MM, BOTTOM_MM = 82.0, -108.0
VIEWS = (
    View("Left", 1, 2, _SAGITTAL, -110, 78, mirrored=True),  # the nose points to the left
    View("Front", 0, 2, _both_sides(_CORONAL), -74, 74),
    View("Top", 0, 1, _both_sides(_AXIAL), -74, 74),
)
PIXELS_PER_MM = 1.05
GAP = 14.0
MAX_SPECKS = 160
MAX_RADIUS = 6.5  # pixels of the largest weight
HEIGHT = (TOP_MM - BOTTOM_MM) * PIXELS_PER_MM + 18
WIDTH = sum(view.right_mm - view.left_mm for view in VIEWS) * PIXELS_PER_MM + GAP * (len(VIEWS) - 1)


def glass(
    centres: np.ndarray, classes: Sequence[str], titles: Sequence[str] | None = None, top: float = 0
) -> list[Markup]:
    """Return the three views, side by side, with one dot per region.

    Parameters
    ----------
    centres : array (region, 3)
        x, y, z in mm; regions with unknown centres are not drawn.
    classes : sequence of str
        CSS class of each region's dot; classes are drawn in their order of first appearance backwards,
        so that the rarest should come first.
    titles : sequence of str, optional
        What each dot says when it is pointed at; without titles the dots of a class are one small path.
    top : float
        Pixels above.
    """
    marks, left = [], 0.0
    known = np.flatnonzero(np.isfinite(centres).all(axis=1))
    by_class: dict[str, list[int]] = {}
    for i in known:
        by_class.setdefault(classes[i], []).append(int(i))
    order = sorted(by_class.items(), key=lambda item: -len(item[1]))  # the rare ones lie on top
    for view in VIEWS:
        place = _placing(view, left, top)
        marks.append(_outline([place(*point) for point in view.outline]))
        for css, members in order:
            points = [place(centres[i, view.right], centres[i, view.up]) for i in members]
            if titles is None:
                marks.append(dots(points, css))
            else:
                marks += [
                    circle(x, y, 2.6, f"mark {css}", titles[i]) for i, (x, y) in zip(members, points, strict=True)
                ]
        width = (view.right_mm - view.left_mm) * PIXELS_PER_MM
        marks.append(text(left + width / 2, top + HEIGHT - 2, view.name))
        if not view.mirrored:
            marks += [text(left + 4, top + 12, "L"), text(left + width - 4, top + 12, "R")]
        left += width + GAP
    return marks


def weighted(
    centres: np.ndarray, weights: np.ndarray, titles: Sequence[str], largest: int = 30
) -> list[tuple[str, Markup]]:
    """Return name and drawing of each view: the regions of the largest weights as dots of their size and sign.

    Parameters
    ----------
    centres : array (region, 3)
        x, y, z in mm; regions with unknown centres are not drawn. Of the others some are specks.
    weights : array (region,)
        Signed; NaN counts as 0.
    titles : sequence of str
        What each dot says when it is pointed at.
    largest : int
        How many regions are dots.
    """
    weights = np.nan_to_num(weights)
    known = np.flatnonzero(np.isfinite(centres).all(axis=1))
    shown = known[np.argsort(-np.abs(weights[known]), kind="stable")][:largest]
    shown = shown[weights[shown] != 0]
    unit = np.abs(weights[known]).max(initial=0.0) or 1.0
    specks = known[:: -(-len(known) // MAX_SPECKS) or 1]  # they only show where the others lie
    pictures = []
    for view in VIEWS:
        place = _placing(view, 0.0, 0.0)
        width = (view.right_mm - view.left_mm) * PIXELS_PER_MM
        edge = [place(*point) for point in view.outline]
        marks = [_outline(edge)]
        marks.append(dots([place(centres[i, view.right], centres[i, view.up]) for i in specks], "w-none"))
        for i in shown:  # the largest lie below, so that they hide none
            x, y = place(centres[i, view.right], centres[i, view.up])
            radius = MAX_RADIUS * float(np.sqrt(abs(weights[i]) / unit))  # areas compare
            marks.append(circle(x, y, radius, "mark w-plus" if weights[i] > 0 else "mark w-minus", titles[i]))
        if not view.mirrored:
            marks += [text(7, 16, "L", "side"), text(width - 7, 16, "R", "side")]
        described = f"{view.name} view: {len(shown)} regions of the largest weights among {len(known)}."
        pictures.append((view.name, figure(width, max(y for _, y in edge) + 6, marks, described)))
    return pictures


def _placing(view: View, left: float, top: float) -> Callable[[float, float], tuple[float, float]]:
    """Return the function that puts a view's millimetres on pixels."""

    def place(right_mm: float, up_mm: float) -> tuple[float, float]:
        across = view.right_mm - right_mm if view.mirrored else right_mm - view.left_mm
        # Views that go up to z = 82 stand on the same line as the one that goes down to y = -108.
        return left + across * PIXELS_PER_MM, top + (TOP_MM - up_mm) * PIXELS_PER_MM

    return place


def _outline(points: list[tuple[float, float]]) -> Markup:
    """Return a smooth closed line through pixels: Catmull and Rom's spline as cubic Bezier curves."""
    n, steps = len(points), []
    for i in range(n):
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (points[(i + k) % n] for k in (-1, 0, 1, 2))
        first = (x1 + (x2 - x0) / 6, y1 + (y2 - y0) / 6)
        second = (x2 - (x3 - x1) / 6, y2 - (y3 - y1) / 6)
        steps.append("C" + " ".join(f"{x:.1f} {y:.1f}" for x, y in (first, second, (x2, y2))))
    start = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    return Markup('<path d="{}Z" class="outline"/>').format(start + "".join(steps))

"""Figures of a dataset's quality: motion in connectivity, cleaning's effect, regions on the glass brain."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe.report import brain
from neuropipe.report.qc_picture import coverage_class, coverage_key
from neuropipe.report.svg import Panel, dots, figure, line, padded, polyline, rect

N_DISTANCE, N_R = 26, 24  # cells of the density of QC-FC over distance
LEVELS = 6  # shades of the density
MAX_DOTS = 3000
TSNR_CLASSES = ("t-1", "t-2", "t-3", "t-4", "t-5")


def distance_dependence(r: np.ndarray, distance: np.ndarray) -> Markup:
    """Return QC-FC of all edges over the distance of their regions: a density, and the median at each distance.

    Parameters
    ----------
    r, distance : arrays (edge,)
        Finite; distance in mm.
    """
    extent = max(float(np.percentile(np.abs(r), 99.8)), 0.05) * 1.05
    panel = Panel.over((0.0, float(distance.max())), (-extent, extent), width=460, height=320)
    counts, x_edges, y_edges = np.histogram2d(
        distance, np.clip(r, -extent, extent), [N_DISTANCE, N_R], [(0, distance.max()), (-extent, extent)]
    )
    marks = []
    shades = np.ceil(LEVELS * np.sqrt(counts / counts.max())).astype(int)
    for i, j in zip(*np.nonzero(shades), strict=True):
        left, right = panel.x(x_edges[i]), panel.x(x_edges[i + 1])
        bottom, top = panel.y(y_edges[j]), panel.y(y_edges[j + 1])
        marks.append(rect(left, top, right - left + 0.2, bottom - top + 0.2, f"d{shades[i, j]}"))
    marks += panel.axes("Distance of the two regions (mm)", "Correlation with mean FD")
    marks.append(line(panel.x.start, panel.y(0), panel.x.end, panel.y(0), "reference"))
    bins = np.clip(np.digitize(distance, x_edges) - 1, 0, N_DISTANCE - 1)
    filled = [b for b in range(N_DISTANCE) if (bins == b).sum() >= 20]
    middles = [(x_edges[b] + x_edges[b + 1]) / 2 for b in filled]
    medians = [float(np.median(r[bins == b])) for b in filled]
    marks.append(polyline(panel.points(middles, medians), "curve s-fc thick", "Median"))
    described = f"QC-FC of {len(r)} edges over the distance of their regions"
    if medians:
        described += f"; the median goes from {medians[0]:.2f} for near to {medians[-1]:.2f} for far regions."
    return panel.draw(marks, described)


def histogram(r: np.ndarray, n_people: int) -> Markup:
    """Return how QC-FC is distributed over edges, and how it would be without any relation to motion.

    Parameters
    ----------
    r : array (edge,)
        Finite.
    n_people : int
        Behind the correlations; decides how wide chance is.
    """
    extent = max(float(np.abs(r).max()), 4 / np.sqrt(n_people))
    extent = min(extent * 1.05, 1.0)
    counts, edges = np.histogram(r, 41, (-extent, extent))
    share = counts / counts.sum()
    middles = (edges[1:] + edges[:-1]) / 2
    # The density of r without correlation: (1 - r^2)^((n - 4) / 2), brought to the same area.
    chance = np.maximum(1 - middles**2, 0) ** ((n_people - 4) / 2)
    chance = chance / chance.sum()
    panel = Panel.over((-extent, extent), (0, 1.08 * float(max(share.max(), chance.max()))), width=380, height=320)
    marks = panel.axes("Correlation of an edge with mean FD", "Share of edges", 5, 4)
    for left, right, value in zip(edges[:-1], edges[1:], share, strict=True):
        top = panel.y(value)
        width = panel.x(right) - panel.x(left) - 0.6
        marks.append(rect(panel.x(left), top, width, panel.y.start - top, "column"))
    marks.append(polyline(panel.points(middles, chance), "curve s-majority v3", "Without any relation"))
    marks.append(line(panel.x(0), panel.y.start, panel.x(0), panel.y.end, "reference"))
    described = f"Distribution of QC-FC over {len(r)} edges; median {np.median(r):.3f}, dashed: without any relation."
    return panel.draw(marks, described)


def before_after(before: np.ndarray, after: np.ndarray, label: str) -> Markup:
    """Return a measure of every run before (across) and after (up) cleaning; below the diagonal it fell."""
    known = np.isfinite(before) & np.isfinite(after)
    before, after = before[known][:MAX_DOTS], after[known][:MAX_DOTS]
    high = padded([0.0, *before, *after])[1]
    panel = Panel.over((0.0, high), (0.0, high), width=308, height=290)
    marks = panel.axes(f"{label}, before", "After", 4, 4)
    marks.append(line(panel.x(0), panel.y(0), panel.x(high), panel.y(high), "reference"))
    marks.append(dots(panel.points(before, after), "s-model"))
    described = f"{label} of {len(before)} runs: median {np.median(before):.3g} before, {np.median(after):.3g} after."
    return panel.draw(marks, described)


def group_coverage(regions: pd.DataFrame, min_coverage: float) -> tuple[Markup, list[tuple[str, str]]]:
    """Return the regions on the glass brain by mean coverage, and the key of the classes that occur.

    Parameters
    ----------
    regions : DataFrame
        name, mean_coverage, share_missing and the centre x, y, z in mm.
    """
    classes = [coverage_class(value, min_coverage) for value in regions["mean_coverage"]]
    titles = [
        f"{row.name}: coverage {row.mean_coverage:.2f}, missing in {row.share_missing:.0%}".replace("%", " %")
        for row in regions.rename_axis(None).itertuples(index=False, name="Region")
    ]
    low = sum(css != "c-full" for css in classes)
    described = f"Mean coverage of {len(regions)} regions on a glass brain; {low} lie below 95 %."
    return _glass(regions, classes, titles, described), _used(coverage_key(min_coverage), classes)


def group_tsnr(regions: pd.DataFrame, tsnr: np.ndarray) -> tuple[Markup, list[tuple[str, str]]]:
    """Return the regions on the glass brain by fifths of their mean tSNR over runs, and the key."""
    known = np.isfinite(tsnr)
    cuts = np.percentile(tsnr[known], [20, 40, 60, 80])
    classes = [TSNR_CLASSES[int(np.searchsorted(cuts, v, side="right"))] if np.isfinite(v) else "c-none" for v in tsnr]
    titles = [f"{name}: tSNR {value:.0f}" for name, value in zip(regions["name"], tsnr, strict=True)]
    edges = [float(tsnr[known].min()), *cuts, float(tsnr[known].max())]
    key = [
        (css, f"{low:.0f} to {high:.0f}") for css, low, high in zip(TSNR_CLASSES, edges[:-1], edges[1:], strict=True)
    ]
    described = f"Mean tSNR of {known.sum()} regions on a glass brain, from {edges[0]:.0f} to {edges[-1]:.0f}."
    return _glass(regions, classes, titles, described), _used([*key, ("c-none", "unknown")], classes)


def _glass(regions: pd.DataFrame, classes: list[str], titles: list[str], described: str) -> Markup:
    marks = brain.glass(regions[["x", "y", "z"]].to_numpy(float), classes, titles)
    return figure(brain.WIDTH, brain.HEIGHT, marks, described)


def _used(key: Iterable[tuple[str, str]], classes: list[str]) -> list[tuple[str, str]]:
    return [(css, f"{words} ({classes.count(css)})") for css, words in key if css in classes]

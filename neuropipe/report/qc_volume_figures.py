"""Figures of maps of anatomy: grades of image quality, and volumes against age."""

from __future__ import annotations

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe.report.quality import GRADES
from neuropipe.report.svg import Panel, dots, line, padded, rect, text

STEP, WORD = 0.25, 78  # grades of one column; pixels of a grade, which its word needs
SEXES = ("s-model", "s-fc", "s-confounds", "s-majority")


def grades(values: np.ndarray, limit: float | None) -> Markup:
    """Return how grades of image quality are distributed, under CAT12's words for them.

    Parameters
    ----------
    values : array (run,)
        Finite; 1 is excellent, 6 unacceptable.
    limit : float or None
        The study's limit, drawn as a line.
    """
    last = max(float(values.max()), limit or 0.0, 4.5)
    high = next((end for end, _ in GRADES[:-1] if end >= last), np.ceil(last * 2) / 2)
    low = min(0.5, STEP * np.floor(float(values.min()) / STEP))
    edges = np.arange(low, high + STEP, STEP)
    counts, _ = np.histogram(values, edges)
    panel = Panel.over(
        (low, float(edges[-1])), (0, 1.25 * counts.max()), width=62 + WORD * (edges[-1] - low), height=300
    )
    marks = panel.axes("IQR grade", "Count", 6, 4)
    start = low
    for end, word in GRADES:
        if start >= edges[-1]:
            break
        end = min(end, float(edges[-1]))
        marks.append(text(panel.x((start + end) / 2), 22, word))
        if end < edges[-1]:
            marks.append(line(panel.x(end), panel.y.start, panel.x(end), 10, "reference"))
        start = end
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            x, top = panel.x(left), panel.y(count)
            tip = f"{left:g} to {right:g}: {count}"
            marks.append(rect(x, top, panel.x(right) - x - 0.8, panel.y.start - top, "column", tip))
    if limit is not None:
        marks.append(line(panel.x(limit), 30, panel.x(limit), panel.y.start, "limit"))
    return panel.draw(marks, f"Image quality of {len(values)} maps; the median grade is {np.median(values):.2f}.")


def against_age(people: pd.DataFrame, column: str, label: str) -> tuple[Markup, list[tuple[str, str]]]:
    """Return a volume over age, coloured by sex, and the key of the colours.

    Parameters
    ----------
    people : DataFrame
        age (years) and `column`, both finite, and sex as text.
    """
    age, values = people["age"].to_numpy(float), people[column].to_numpy(float)
    panel = Panel.over(padded(age), padded(values), width=340, height=300, left=60)
    marks, key = panel.axes("Age (years)", label), []
    named = sorted(set(people["sex"]), key=lambda sex: (sex == "", sex))
    for n, sex in enumerate(named):
        own, css = (people["sex"] == sex).to_numpy(), SEXES[min(n, len(SEXES) - 1)]
        marks.append(dots(panel.points(age[own], values[own]), css))
        key.append((css, f"{sex or 'sex unknown'} ({own.sum()})"))
    r = float(np.corrcoef(age, values)[0, 1]) if len(age) > 2 and age.std() > 0 and values.std() > 0 else np.nan
    said = f"; the correlation is {r:.2f}" if np.isfinite(r) else ""
    return panel.draw(marks, f"{label} of {len(people)} maps against age{said}."), key

"""Motion and coverage: distributions by group, coverage by network, and one summary table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe.report.svg import Panel, circle, dots, figure, line, number, padded, rect, text

MAX_DOTS = 400  # recordings of one group; a figure with a larger group shows boxes only
ROW = 30  # height of a group in pixels
MEASURES = {  # column of qc/<dataset>/runs.parquet: (words, unit, decimals)
    "mean_fd_mm": ("Mean framewise displacement", "mm", 3),
    "max_fd_mm": ("Largest framewise displacement", "mm", 2),
    "censored_share": ("Share of volumes censored", "", 3),
    "degrees_of_freedom": ("Degrees of freedom left", "", 0),
    "duration_s": ("Duration", "s", 0),
    "t_r": ("Repetition time after cleaning", "s", 2),
    "tsnr_median": ("Temporal signal-to-noise, median over regions", "", 1),
    "mean_coverage": ("Mean coverage of regions", "", 3),
    "n_missing_regions": ("Missing regions", "", 0),
    "iqr_grade": ("Image quality rating (IQR)", "grade", 2),
    "tiv_ml": ("Total intracranial volume", "mL", 0),
    "total_ml": ("Sum of the map", "mL", 0),
    "group_dice": ("Overlap with the group’s mask", "Dice", 3),
    "group_correlation": ("Correlation with the group’s mean", "", 3),
}
# Upper end of each of CAT12's grades and its word. A grade is ten points: 105 - 10 IQR of a hundred (its manual).
GRADES = (
    (1.5, "excellent"),
    (2.5, "good"),
    (3.5, "satisfactory"),
    (4.5, "sufficient"),
    (5.5, "critical"),
    (10.5, "unacceptable"),
)


def grade_word(grade: float) -> str:
    """Return CAT12's word for a grade of image quality (its IQR), from 0.5 to 10.5."""
    return next((word for end, word in GRADES if grade < end), GRADES[-1][1])


def anatomy(dataset: str, runs: pd.DataFrame, outliers: pd.DataFrame | None) -> str:
    """Return one sentence on the maps or scans of a dataset: how many, of which quality, how many stand out.

    Parameters
    ----------
    runs : DataFrame
        The dataset's rows of ``runs.parquet``.
    outliers : DataFrame or None
        Its ``outliers.tsv``.
    """
    parts = [f"{dataset}: {len(runs)} maps or scans"]
    grades = runs["iqr_grade"].dropna().to_numpy(float) if "iqr_grade" in runs else np.array([])
    if grades.size:
        median = float(np.median(grades))
        parts.append(f"median image quality {median:.2f} ({grade_word(median)})")
    if outliers is not None:
        parts.append(f"{outliers['run_id'].nunique()} unlike the others")
    return ", ".join(parts) + "."


def groups(table: pd.DataFrame, by: str, column: str) -> dict[str, np.ndarray]:
    """Return the finite values of `column` in each group, the groups by name."""
    known = table[[by, column]].dropna()
    known = known[known[by].astype(str).str.strip().isin(["", "n/a"]).eq(False)]
    return {str(name): part[column].to_numpy(float) for name, part in known.groupby(by, sort=True)}


def strips(
    values: Mapping[str, np.ndarray], label: str, limit: float | None, what: str, *, from_zero: bool = True
) -> Markup:
    """Return horizontal distributions: a box from quartile to quartile, whiskers to 5 and 95 %, single recordings.

    Parameters
    ----------
    values : mapping of group name to ndarray
        Finite values.
    label : str
        Of the axis, with its unit.
    limit : float or None
        The study's limit, drawn as a line.
    what : str
        The start of the description for screen readers.
    from_zero : bool
        Whether the axis starts at zero; else it spans the values.
    """
    everything = np.concatenate([*values.values(), [] if limit is None else [limit]])
    span = (0.0, float(everything.max()) * 1.05 or 1.0) if from_zero else padded(everything)
    panel, height = _rows_panel(span, len(values))
    marks = _rows_axis(panel, height, label)
    single = max(map(len, values.values())) <= MAX_DOTS
    for row, (name, group) in enumerate(values.items()):
        middle = 20 + ROW * row
        marks.append(_row_label(panel, middle, name, len(group)))
        if single:
            marks.append(dots([(panel.x(v), middle + _jitter(i)) for i, v in enumerate(group)], "s-model faint"))
        low5, q1, median, q3, high95 = np.percentile(group, [5, 25, 50, 75, 95])
        tip = f"{name}: median {median:.3f}, quartiles {q1:.3f} to {q3:.3f}, n = {len(group)}"
        marks.append(line(panel.x(low5), middle, panel.x(high95), middle, "whisker"))
        marks.append(rect(panel.x(q1), middle - 6, panel.x(q3) - panel.x(q1), 12, "box", tip))
        marks.append(line(panel.x(median), middle - 6, panel.x(median), middle + 6, "median"))
    if limit is not None:
        marks.append(line(panel.x(limit), 4, panel.x(limit), height - 40, "limit"))
    medians = "; ".join(f"{name}: median {np.median(group):.3g}, n = {len(group)}" for name, group in values.items())
    return figure(panel.width, height, marks, f"{what}. {medians}.")


def coverage(regions: pd.DataFrame, limit: float | None) -> Markup:
    """Return each region's mean coverage, one row per network, regions under the limit in red.

    Parameters
    ----------
    regions : DataFrame
        name, network, mean_coverage, share_missing; one row per region.
    """
    known = regions[regions["mean_coverage"].notna()]
    network = known["network"].where(known["network"].fillna("") != "", "no network")
    parts = dict(iter(known.groupby(network, sort=False)))
    floor = min(known["mean_coverage"].min(), 1.0 if limit is None else limit)
    panel, height = _rows_panel((max(floor - 0.05, 0.0), 1.0), len(parts))
    marks = _rows_axis(panel, height, "Mean coverage over recordings")
    for row, (name, part) in enumerate(parts.items()):
        middle = 20 + ROW * row
        marks.append(_row_label(panel, middle, name, len(part)))
        values = part["mean_coverage"].to_numpy(float)
        for i, (region, value) in enumerate(zip(part["name"], values, strict=True)):
            low = limit is not None and value < limit
            tip = f"{region}: {value:.3f}"
            marks.append(
                circle(panel.x(value), middle + _jitter(i), 2.4, "mark bad" if low else "mark s-fc faint", tip)
            )
        marks.append(line(panel.x(np.median(values)), middle - 8, panel.x(np.median(values)), middle + 8, "median"))
    if limit is not None:
        marks.append(line(panel.x(limit), 4, panel.x(limit), height - 40, "limit"))
    lowest = known.loc[known["mean_coverage"].idxmin()]
    described = (
        f"Mean coverage of {len(known)} regions in {len(parts)} networks; the lowest is {lowest['name']} "
        f"with {lowest['mean_coverage']:.3f}."
    )
    return figure(panel.width, height, marks, described)


def lowest(regions: pd.DataFrame, n: int = 8) -> pd.DataFrame:
    """Return the `n` regions that are missing most often or covered least."""
    order = regions.sort_values(["share_missing", "mean_coverage"], ascending=[False, True], kind="stable")
    return order.head(n)


def summary(runs: pd.DataFrame) -> list[dict[str, str]]:
    """Return one row per measure and dataset: median, quartiles, range and number of recordings as text."""
    rows = []
    for dataset, part in runs.groupby("dataset", sort=False):
        for column, (words, unit, decimals) in MEASURES.items():
            values = part[column].dropna().to_numpy(float) if column in part else np.array([])
            if values.size:
                low, q1, median, q3, high = (f"{v:.{decimals}f}" for v in np.percentile(values, [0, 25, 50, 75, 100]))
                rows.append(
                    {
                        "dataset": str(dataset),
                        "measure": f"{words} ({unit})" if unit else words,
                        "median": median,
                        "quartiles": f"{q1} to {q3}",
                        "range": f"{low} to {high}",
                        "n": str(values.size),
                    }
                )
    return rows


def _jitter(i: int) -> float:
    """Return an offset in (-8, 8) pixels that looks irregular and is always the same."""
    return ((i * 0.6180339887) % 1 - 0.5) * 16


def _rows_panel(x_range: tuple[float, float], n_rows: int) -> tuple[Panel, float]:
    height = ROW * n_rows + 50
    return Panel.over(x_range, (0, 1), width=380, height=height, left=118), height


def _rows_axis(panel: Panel, height: float, label: str) -> list[Markup]:
    marks = []
    for value in panel.x.ticks(5):
        marks.append(line(panel.x(value), 4, panel.x(value), height - 40, "grid"))
        marks.append(text(panel.x(value), height - 26, number(value)))
    marks.append(text((panel.x.start + panel.x.end) / 2, height - 6, label, "label"))
    return marks


def _row_label(panel: Panel, middle: float, name: str, n: int) -> Markup:
    shown = name if len(name) <= 12 else name[:11] + "…"
    return text(panel.x.start - 10, middle + 4, f"{shown} ({n})", "tick", "end")

"""The quality page of a dataset: every run with its numbers and its picture, and what the group shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe import __version__
from neuropipe.config import Exclude
from neuropipe.report import qc_figures, quality
from neuropipe.report.page import asset, csp, environment
from neuropipe.report.task import Figure

SECTIONS = [("top", "Summary"), ("runs", "Runs"), ("motion", "Motion"), ("sites", "Sites"), ("coverage", "Regions")]
MAX_SITES = 40  # drawn in one figure


@dataclass(frozen=True)
class Measure:
    """A column of the table: where it comes from, how it is called and shown."""

    column: str
    title: str
    meaning: str
    decimals: int
    limit: str = ""  # key of `exclude`
    percent: bool = False

    def shown(self, value: float) -> str:
        """Return a value as text; empty where it is not known."""
        if not math.isfinite(value):
            return ""
        return f"{100 * value:.{self.decimals}f}" if self.percent else f"{value:.{self.decimals}f}"


MEASURES = (
    Measure("mean_fd_mm", "FD mean", "mean framewise displacement, mm", 3, "max_mean_fd_mm"),
    Measure("max_fd_mm", "FD max", "largest framewise displacement, mm", 2, "max_fd_mm"),
    Measure("high_motion_share", "High FD %", "share of volumes above the displacement threshold", 1, percent=True),
    Measure("censored_share", "Cens. %", "share of volumes censored", 1, "max_censored_share", percent=True),
    Measure("dvars_before_percent", "DVARS before", "DVARS over regions before cleaning, percent of the mean", 2),
    Measure("dvars_after_percent", "DVARS after", "the same after cleaning", 2, "max_dvars_percent"),
    Measure("edge_motion_before", "Edge–FD before", "mean |correlation| of FD with edge co-fluctuation, before", 3),
    Measure("edge_motion_after", "Edge–FD after", "the same after cleaning", 3, "max_edge_motion"),
    Measure("tsnr_median", "tSNR", "temporal signal-to-noise before cleaning, median over regions", 0, "min_tsnr"),
    Measure("degrees_of_freedom", "DoF left", "degrees of freedom left after cleaning", 0, "min_degrees_of_freedom"),
    Measure("lost_to_filter", "DoF filter", "degrees of freedom lost to the pass-band", 0),
    Measure("lost_to_censoring", "DoF cens.", "degrees of freedom lost to censored volumes", 0),
    Measure("lost_to_confounds", "DoF conf.", "degrees of freedom lost to confounds", 0),
    Measure("variance_retained_median", "Var. kept %", "share of the pass-band's variance that confounds left, median "
            "over regions", 1, "min_variance_retained", percent=True),
    Measure("mean_coverage", "Cover. %", "mean coverage of the regions", 1, "min_mean_coverage", percent=True),
    Measure("n_missing_regions", "Missing", "regions that are missing", 0, "max_missing_regions"),
    Measure("duration_s", "Length s", "length of the run, s", 0, "min_duration_s"),
)  # fmt: skip
BY_COLUMN = {measure.column: measure for measure in MEASURES}
STRIPS = ("mean_fd_mm", "dvars_after_percent", "tsnr_median", "edge_motion_after", "mean_coverage")


@dataclass(frozen=True, eq=False)
class Group:
    """Everything the page of a dataset shows.

    Attributes
    ----------
    study, dataset : str
        Names.
    runs : DataFrame
        One row per run, kept or left out: run_id, participant_id, site (empty where unknown), `MEASURES`
        (NaN where unknown), ``reason`` and ``detail`` (empty for runs that were kept), ``picture`` (path
        relative to the page, empty without).
    regions : DataFrame
        Region table with mean_coverage, share_missing and tsnr (mean over runs; NaN where unknown).
    edges : DataFrame
        ``qc_fc`` and ``distance_mm`` of every edge; empty without.
    qc_fc : dict
        As of `group_quality.summary`; empty without.
    sites, outliers : DataFrame
        As of `group_quality`.
    limits : Exclude
        Of the study.
    """

    study: str
    dataset: str
    runs: pd.DataFrame
    regions: pd.DataFrame
    edges: pd.DataFrame
    qc_fc: dict[str, Any]
    sites: pd.DataFrame
    outliers: pd.DataFrame
    limits: Exclude

    @property
    def kept(self) -> pd.DataFrame:
        """The runs that were kept."""
        return self.runs[self.runs["reason"] == ""]


def render(group: Group, made_at: datetime) -> str:
    """Return the page."""
    style, script = asset("style.css") + asset("qc.css"), asset("page.js") + asset("qc.js")
    measures = [m for m in MEASURES if m.column in group.runs and group.runs[m.column].notna().any()]
    return (
        environment()
        .get_template("qc.html.j2")
        .render(
            study=group.study,
            dataset=group.dataset,
            date=f"{made_at:%d %B %Y}".lstrip("0"),
            version=__version__,
            sections=SECTIONS,
            style=Markup(style),
            script=Markup(script),
            style_hash=csp(style),
            script_hash=csp(script),
            lead=_lead(group),
            tiles=_tiles(group),
            measures=measures,
            has_sites=(group.runs["site"] != "").any(),
            rows=_rows(group, measures),
            qc_fc=_qc_fc_sentences(group.qc_fc),
            motion=_motion_figures(group),
            strips=_strips(group),
            sites=_sites(group),
            outliers=_outliers(group),
            regions=_region_figures(group),
            lowest=quality.lowest(group.regions, 12).to_dict("records"),
        )
    )


def _lead(group: Group) -> str:
    """Return what was found, in sentences."""
    left_out = len(group.runs) - len(group.kept)
    far = group.outliers["run_id"].nunique()
    parts = [f"{len(group.kept)} of {len(group.runs)} runs were kept, {left_out} left out."]
    parts.append(f"{far} of the kept runs {'is' if far == 1 else 'are'} unlike the others in a main measure.")
    if (median := group.qc_fc.get("median_abs_r")) is not None:
        expected = group.qc_fc["expected_median_abs_r"]
        parts.append(f"Median |QC-FC| is {median:.3f}; {expected:.3f} would be chance.")
    return " ".join(parts)


def _tiles(group: Group) -> list[tuple[str, str]]:
    kept = group.kept
    tiles = [("runs kept", str(len(kept))), ("left out", str(len(group.runs) - len(kept)))]
    tiles.append(("people kept", str(kept["participant_id"].nunique())))
    named = set(kept["site"]) - {""}
    tiles += [("sites", str(len(named)))] if named else []
    tiles.append(("outlying runs", str(group.outliers["run_id"].nunique())))
    if (share := group.qc_fc.get("share_significant")) is not None:
        tiles.append(("edges that follow motion", f"{share:.1%}".replace("%", " %")))
    return tiles


def _rows(group: Group, measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Return the table: the runs in order of their names, each cell with its value and what is shown."""
    far = {name: set(part["measure"]) for name, part in group.outliers.groupby("run_id")}
    values = {m.column: group.runs[m.column].to_numpy(dtype=float, na_value=np.nan) for m in measures}
    rows = []
    for i, run in enumerate(group.runs.to_dict("records")):
        marked = far.get(run["run_id"], set())
        state = "left out" if run["reason"] else "outlier" if marked else "kept"
        cells = [
            (f"{values[m.column][i]:.5g}" if math.isfinite(values[m.column][i]) else "",
             m.shown(values[m.column][i]), m.column in marked or _beyond(values[m.column][i], m, group.limits))
            for m in measures
        ]  # fmt: skip
        why = f"{run['reason']}: {run['detail']}" if run["reason"] else ", ".join(
            BY_COLUMN[name].title for name in BY_COLUMN if name in marked
        )  # fmt: skip
        picture = quote(run["picture"]) if run["picture"] else ""
        rows.append(
            {"id": run["run_id"], "site": run["site"], "state": state, "why": why, "cells": cells, "picture": picture}
        )
    return rows


def _beyond(value: float, measure: Measure, limits: Exclude) -> bool:
    """Return whether a value is beyond the study's limit."""
    limit = getattr(limits, measure.limit) if measure.limit else None
    if limit is None or not math.isfinite(value):
        return False
    return value < limit if measure.limit.startswith("min_") else value > limit


def _qc_fc_sentences(found: dict[str, Any]) -> list[str]:
    """Return QC-FC in words; what is missing is said."""
    if found.get("median_abs_r") is None:
        n = found.get("n_people", 0)
        return [f"QC-FC needs at least 10 people with a known displacement; this dataset has {n}."]
    significant, uncorrected = (found[f"share_significant{end}"] for end in ("", "_uncorrected"))
    sentences = [
        f"Over {found['n_people']} people, the median absolute correlation of an edge with mean displacement is "
        f"{found['median_abs_r']:.3f} (without any relation {found['expected_median_abs_r']:.3f} is expected).",
        f"{significant:.1%} of {found['n_edges']:,} edges are significant at a false discovery rate of 5 % "
        f"(uncorrected {uncorrected:.1%}, where chance gives 5 %).",
    ]
    if found["distance_rho"] is not None:
        direction = "stronger between near regions" if found["distance_rho"] < 0 else "stronger between far regions"
        tail = f": more positive, or {direction}" if abs(found["distance_rho"]) > 0.1 else ": none to speak of"
        sentences.append(f"Spearman’s correlation of QC-FC with distance is {found['distance_rho']:+.3f}{tail}.")
    return [_spaced(sentence) for sentence in sentences]


def _spaced(sentence: str) -> str:
    """Return a sentence with a true minus sign, and percent signs that stay with their number."""
    return sentence.replace(" %", "%").replace("%", "\N{NO-BREAK SPACE}%").replace("-0.", "−0.")


def _motion_figures(group: Group) -> list[Figure]:
    figures = []
    if len(group.edges):
        r = group.edges["qc_fc"].to_numpy(float)
        distance = group.edges["distance_mm"].to_numpy(float)
        known, placed = np.isfinite(r), np.isfinite(r) & np.isfinite(distance)
        if placed.any():
            drawing = qc_figures.distance_dependence(r[placed], distance[placed])
            figures.append(Figure("QC-FC by distance; line: median", drawing))
        if known.any():
            drawing = qc_figures.histogram(r[known], group.qc_fc["n_people"])
            figures.append(Figure("QC-FC over edges; dashed: without any relation to motion", drawing))
    for name, label in (("edge_motion_{}", "Edge–FD correlation"), ("dvars_{}_percent", "DVARS (%)")):
        columns = [name.format(when) for when in ("before", "after")]
        if set(columns) <= set(group.kept) and group.kept[columns].notna().all(axis=1).any():
            values = [group.kept[column].to_numpy(dtype=float, na_value=np.nan) for column in columns]
            drawing = qc_figures.before_after(*values, label)
            figures.append(Figure(f"{label}: below the diagonal, cleaning lowered it", drawing, small=True))
    return figures


def _strips(group: Group) -> list[Figure]:
    """Return the distributions of the main measures, by site where there are some."""
    kept = group.kept
    by = "site" if 0 < len(set(kept["site"]) - {""}) <= MAX_SITES else "everyone"
    table, figures = kept.assign(everyone=group.dataset), []
    for name in STRIPS:
        if name not in kept or not kept[name].notna().any():
            continue
        measure = BY_COLUMN[name]
        values = quality.groups(table, by, name)
        limit = getattr(group.limits, measure.limit) if measure.limit else None
        title = measure.meaning[0].upper() + measure.meaning[1:]
        if name.endswith("_after") or name.endswith("_after_percent"):
            title = BY_COLUMN[name.replace("after", "before")].meaning.replace("before", "after")
            title = title[0].upper() + title[1:]
        shown = title if limit is None else f"{title}; dashed: the study’s limit"
        figures.append(Figure(shown, quality.strips(values, measure.title, limit, title)))
    return figures


def _sites(group: Group) -> dict[str, Any]:
    """Return the table of site means."""
    columns = [BY_COLUMN[name] for name in group.sites if name in BY_COLUMN and group.sites[name].notna().any()]
    rows = [
        {
            "site": row["site"] or "not named",
            "counts": [row["n_runs"], row["n_people"]],
            "cells": [(f"{row[m.column]:.5g}" if row[m.column] == row[m.column] else "", m.shown(row[m.column]))
                      for m in columns],
        }
        for row in group.sites.to_dict("records")
    ]  # fmt: skip
    return {"columns": columns, "rows": rows}


def _outliers(group: Group) -> list[dict[str, Any]]:
    rows = []
    for row in group.outliers.to_dict("records"):
        measure = BY_COLUMN[row["measure"]]
        side = "high" if row["robust_z"] > 0 else "low"
        shown, median = measure.shown(row["value"]), measure.shown(row["median"])
        rows.append({**row, "measure": measure.title, "meaning": measure.meaning, "side": side})
        rows[-1] |= {"shown": shown, "shown_median": median, "z": f"{row['robust_z']:+.1f}".replace("-", "−")}
    return rows


def _region_figures(group: Group) -> list[dict[str, Any]]:
    """Return the glass brains with their keys."""
    regions, figures = group.regions, []
    if not regions[["x", "y", "z"]].notna().all(axis=1).any():
        return figures
    if regions["mean_coverage"].notna().any():
        drawing, key = qc_figures.group_coverage(regions, group.limits.min_region_coverage or 0.0)
        figures.append({"caption": "Mean coverage of the regions", "drawing": drawing, "key": key})
    if regions["tsnr"].notna().sum() >= len(qc_figures.TSNR_CLASSES):
        drawing, key = qc_figures.group_tsnr(regions, regions["tsnr"].to_numpy(float))
        figures.append({"caption": "Mean tSNR of the regions, in fifths", "drawing": drawing, "key": key})
    return figures

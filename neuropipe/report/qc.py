"""The quality page of a dataset: every run with its numbers and its picture, and what the group shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe import __version__
from neuropipe.config import Exclude
from neuropipe.report import qc_figures, qc_table, quality
from neuropipe.report.figure import Figure
from neuropipe.report.page import asset, csp, environment
from neuropipe.report.qc_table import MAX_SITES, Measure

SECTIONS = [("top", "Summary"), ("runs", "Runs"), ("motion", "Motion"), ("sites", "Sites"), ("coverage", "Regions")]
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
    style, script = asset("style.css") + asset("qc.css"), asset("page.js") + asset("qc_filter.js") + asset("qc.js")
    measures = [m for m in MEASURES if m.column in group.runs and group.runs[m.column].notna().any()]
    return (
        environment()
        .get_template("qc.html.j2")
        .render(
            study=group.study,
            dataset=group.dataset,
            things="runs",
            pictures="runs",
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
            rows=qc_table.rows(group.runs, measures, group.outliers, group.limits),
            qc_fc=_qc_fc_sentences(group.qc_fc),
            motion=_motion_figures(group),
            strips=_strips(group),
            sites=qc_table.sites(group.sites, MEASURES),
            outliers=qc_table.outliers(group.outliers, MEASURES),
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

"""The quality page of a dataset of maps or slices: everyone on contact sheets, their measures, and who stands out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe import __version__
from neuropipe.config import Exclude
from neuropipe.report import contact_sheet, qc_table, qc_volume_figures, quality
from neuropipe.report.figure import Figure
from neuropipe.report.page import asset, csp, environment
from neuropipe.report.qc_table import MAX_SITES, Measure
from neuropipe.report.quality import grade_word

SECTIONS = [("top", "Summary"), ("sheets", "Pictures"), ("runs", "Table"), ("measures", "Measures"), ("sites", "Sites")]
MAPS = {"gm": "grey matter", "wm": "white matter", "t1w": "T1-weighted image"}
STRIPS = ("iqr_grade", "tiv_ml", "total_ml", "group_dice", "group_correlation")


def measures(map_name: str) -> tuple[Measure, ...]:
    """Return the columns of the table for one kind of map."""
    tissue = MAPS[map_name]
    total = ("Sum mL", "sum of the map times the volume of a voxel, mL")
    if map_name != "t1w":
        total = (f"Total {map_name.upper()} mL", f"total {tissue}, the sum of the map times the volume of a voxel, mL")
    return (
        Measure("iqr_grade", "IQR", "CAT12’s image quality rating as a grade, 1 is excellent, 6 unacceptable", 2,
                "max_iqr_grade"),
        Measure("tiv_ml", "TIV mL", "total intracranial volume, mL", 0),
        Measure("total_ml", *total, 0),
        Measure("gm_ml", "GM mL", "grey matter as the source states it, mL", 0),
        Measure("wm_ml", "WM mL", "white matter as the source states it, mL", 0),
        Measure("csf_ml", "CSF mL", "cerebrospinal fluid as the source states it, mL", 0),
        Measure("group_dice", "Overlap", "Dice coefficient of the map’s mask with the group’s", 3),
        Measure("group_correlation", "Corr. mean", "correlation with the group’s mean", 3),
        Measure("mean", "Mean", "mean of the values", 3),
        Measure("sd", "SD", "standard deviation of the values", 3),
        Measure("n_slices", "Slices", "slices of the scan", 0),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Group:
    """Everything the page of a dataset of maps or slices shows.

    Attributes
    ----------
    study, dataset : str
        Names.
    content : {"volume", "image"}
        What a sample is.
    map_name : {"gm", "wm", "t1w"}
        Of volumes.
    runs : DataFrame
        One row per map or scan, kept or left out, in the order of the contact sheet: run_id, participant_id, site and
        sex (empty where unknown), age (years), the columns of `measures` (NaN where unknown), ``reason`` and ``detail``
        (empty for those that were kept), ``note``, ``sheet`` (file name, empty without) and ``place`` on it.
    outliers : DataFrame
        As of `group_quality.outliers`, with ``n_mads``.
    duplicates : DataFrame
        group, run_id, participant_id.
    sites : DataFrame
        As of `group_quality.site_means`.
    limits : Exclude
        Of the study.
    strip : (int, int)
        Height and width of one strip of a sheet in pixels.
    pictures : list of (str, str)
        Captions and paths of the group's mean and mask.
    """

    study: str
    dataset: str
    content: Literal["volume", "image"]
    map_name: str
    runs: pd.DataFrame
    outliers: pd.DataFrame
    duplicates: pd.DataFrame
    sites: pd.DataFrame
    limits: Exclude
    strip: tuple[int, int]
    pictures: list[tuple[str, str]]

    @property
    def kept(self) -> pd.DataFrame:
        """The maps or scans that were kept."""
        return self.runs[self.runs["reason"] == ""]

    @property
    def things(self) -> str:
        """What they are called."""
        return "maps" if self.content == "volume" else "scans"

    @property
    def measures(self) -> list[Measure]:
        """The measures of which anything is known."""
        named = measures(self.map_name)
        return [m for m in named if m.column in self.runs and self.runs[m.column].notna().any()]


def render(group: Group, made_at: datetime) -> str:
    """Return the page."""
    style = asset("style.css") + asset("qc.css") + asset("qc_volumes.css") + _places(group.strip)
    script = asset("page.js") + asset("qc_filter.js") + asset("qc_volumes.js")
    rows = qc_table.rows(group.runs, group.measures, group.outliers, group.limits)
    return (
        environment()
        .get_template("qc_volumes.html.j2")
        .render(
            study=group.study,
            dataset=group.dataset,
            content=group.content,
            things=group.things,
            pictures="sheets",
            date=f"{made_at:%d %B %Y}".lstrip("0"),
            version=__version__,
            sections=SECTIONS,
            style=Markup(style),
            script=Markup(script),
            style_hash=csp(style),
            script_hash=csp(script),
            lead=_lead(group),
            tiles=_tiles(group),
            group_pictures=group.pictures,
            chips=_chips(rows, group),
            cells=_cells(group, rows),
            left_out=_left_out(group),
            measures=group.measures,
            has_sites=(group.runs["site"] != "").any(),
            rows=rows,
            outliers=qc_table.outliers(group.outliers, group.measures),
            duplicates=_duplicates(group),
            figures=_figures(group),
            strips=_strips(group),
            sites=qc_table.sites(group.sites, group.measures),
        )
    )


def _places(strip: tuple[int, int]) -> str:
    """Return the style of a strip: its aspect, and how far the sheet is moved up for each place on it."""
    rules = [f".strip {{ aspect-ratio: {strip[1]} / {strip[0]}; }}"]
    rules += [f".p{n} {{ top: -{n}00%; }}" for n in range(1, contact_sheet.PER_SHEET)]
    return "\n".join(rules) + "\n"


# --- words --------------------------------------------------------------------------------------


def _lead(group: Group) -> str:
    """Return what was found, in sentences."""
    n_kept, n_all = len(group.kept), len(group.runs)
    far = group.outliers["run_id"].nunique()
    parts = [f"{n_kept} of {n_all} {group.things} were kept, {n_all - n_kept} left out."]
    parts.append(f"{far} of the kept {group.things} {'is' if far == 1 else 'are'} unlike the others.")
    if (grades := _known(group.kept, "iqr_grade")).size:
        median, poor = float(np.median(grades)), int((grades >= 4.5).sum())
        parts.append(f"The median image quality is {median:.2f} ({grade_word(median)}); {poor} critical or worse.")
    if n := group.duplicates["group"].nunique():
        parts.append(f"{len(group.duplicates)} {group.things} are copies of one another ({n} {_sets(n)}).")
    return " ".join(parts)


def _sets(n: int) -> str:
    return "set" if n == 1 else "sets"


def _known(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return the known values of a column; none where the column is not there."""
    values = table[column].to_numpy(dtype=float, na_value=np.nan) if column in table else np.array([])
    return values[np.isfinite(values)]


def _tiles(group: Group) -> list[tuple[str, str]]:
    kept = group.kept
    tiles = [(f"{group.things} kept", str(len(kept))), ("left out", str(len(group.runs) - len(kept)))]
    tiles.append(("people kept", str(kept["participant_id"].nunique())))
    named = set(kept["site"]) - {""}
    tiles += [("sites", str(len(named)))] if named else []
    if (grades := _known(kept, "iqr_grade")).size:
        tiles.append(("median IQR grade", f"{np.median(grades):.2f}"))
    if (overlap := _known(kept, "group_dice")).size:
        tiles.append(("median overlap", f"{np.median(overlap):.3f}"))
    tiles.append((f"outlying {group.things}", str(group.outliers["run_id"].nunique())))
    if len(group.duplicates):
        tiles.append(("copies", str(len(group.duplicates))))
    return tiles


def _chips(rows: list[dict[str, Any]], group: Group) -> list[tuple[str, str]]:
    """Return the buttons of the filter: label and the words that they type."""
    chips = [("All", ""), ("Kept", "kept"), ("Outliers", "outlier"), ("Left out", "left out")]
    return [*chips, ("Copies", "identical to")] if len(group.duplicates) else chips


def _left_out(group: Group) -> list[dict[str, Any]]:
    """Return the reasons for which something was left out, the most frequent first, with their count and an example."""
    out = group.runs[group.runs["reason"] != ""]
    counts = out["reason"].value_counts()
    first = out.drop_duplicates("reason").set_index("reason")
    return [
        {"reason": reason, "count": int(n), "run_id": first.at[reason, "run_id"], "detail": first.at[reason, "detail"]}
        for reason, n in counts.items()
    ]


def _duplicates(group: Group) -> list[dict[str, Any]]:
    """Return each set of identical samples and whether it spans several people."""
    return [
        {"runs": ", ".join(part["run_id"]), "n_people": part["participant_id"].nunique()}
        for _, part in group.duplicates.groupby("group")
    ]


# --- pictures and figures -----------------------------------------------------------------------


def _cells(group: Group, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells of the contact sheet, in the order of the table's rows."""
    cells = []
    for run, row in zip(group.runs.to_dict("records"), rows, strict=True):
        place = f"p{run['place']}" if run["sheet"] else ""
        marked = row["state"] != "kept" or bool(run["note"])
        cells.append(
            {"id": row["id"], "state": row["state"], "why": row["why"], "facts": _facts(run), "sheet": run["sheet"],
             "place": place, "marked": marked}
        )  # fmt: skip
    return cells


def _facts(run: dict[str, Any]) -> list[str]:
    """Return what a cell says of a run under its name."""
    facts = []
    if pd.notna(grade := run.get("iqr_grade")):
        facts.append(f"IQR {grade:.2f} {grade_word(grade)}")
    if pd.notna(overlap := run.get("group_dice")):
        facts.append(f"overlap {overlap:.3f}")
    if pd.notna(n_slices := run.get("n_slices")):
        facts.append(f"{n_slices:.0f} {'slice' if n_slices == 1 else 'slices'}")
    return facts


def _figures(group: Group) -> list[dict[str, Any]]:
    """Return the grades, and volumes against age."""
    kept, figures = group.kept, []
    if (grades := _known(kept, "iqr_grade")).size:
        limit = group.limits.max_iqr_grade
        caption = "CAT12’s image quality rating" + ("; dashed: the study’s limit" if limit is not None else "")
        figures.append({"caption": caption, "drawing": qc_volume_figures.grades(grades, limit), "key": []})
    for measure in group.measures:
        if measure.column not in ("tiv_ml", "total_ml"):
            continue
        placed = kept[kept["age"].notna() & kept[measure.column].notna()]
        if len(placed):
            drawing, key = qc_volume_figures.against_age(placed, measure.column, measure.title)
            figures.append({"caption": f"{_short(measure)} against age", "drawing": drawing, "key": key})
    return figures


def _strips(group: Group) -> list[Figure]:
    """Return the distributions of the main measures by site, and of volumes by sex."""
    kept = group.kept.assign(everyone=group.dataset)
    by = "site" if 0 < len(set(kept["site"]) - {""}) <= MAX_SITES else "everyone"
    figures = []
    for measure in group.measures:
        if measure.column not in STRIPS:
            continue
        limit = getattr(group.limits, measure.limit) if measure.limit else None
        for grouping in [by, "sex"] if measure.column in ("tiv_ml", "total_ml") else [by]:
            values = quality.groups(kept, grouping, measure.column)
            if values:
                said = "" if grouping == "everyone" else f" by {grouping}"
                title = _short(measure) + said
                shown = title if limit is None else f"{title}; dashed: the study’s limit"
                drawing = quality.strips(values, measure.title, limit, title, from_zero=False)
                figures.append(Figure(shown, drawing))
    return figures


def _short(measure: Measure) -> str:
    """Return the first part of a measure's meaning, as a caption."""
    words = measure.meaning.split(",")[0]
    return words[0].upper() + words[1:]

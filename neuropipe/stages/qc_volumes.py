"""What the quality page of maps and slices shows: everyone on a contact sheet, outliers, and copies."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe import config as configuration
from neuropipe.paths import Study, atomic
from neuropipe.shards.read import Shards
from neuropipe.signals import group_quality
from neuropipe.stages import qc_runs
from neuropipe.train.progress import Progress

# The measures in which a map may be an outlier, and on which side: 1 high, -1 low, 0 both.
SIDES = {"iqr_grade": 1, "group_dice": -1, "group_correlation": -1, "tiv_ml": 0, "total_ml": 0}
GREY_SIDES = {"mean": 0, "sd": 0}  # where nothing is known in mL
SITE_MEASURES = ("iqr_grade", "tiv_ml", "total_ml", "gm_ml", "wm_ml", "csf_ml", "group_dice", "group_correlation")
GROUP_SIDE = 160  # pixels of the longest side of a slice of the group's mean


def make(settings: configuration.StudyConfig, tree: Study, dataset: str, made_at: datetime) -> tuple[str, pd.DataFrame]:
    """Write everything that lies beside the page: tables, and ``sheets/*.png``.

    Returns
    -------
    str
        The page.
    DataFrame
        One row per map or scan, kept or left out.
    """
    from neuropipe.report import qc_volumes

    folder, shards = tree.qc(dataset), Shards(tree.shards(dataset))
    runs = qc_runs.read(settings, tree, dataset, carried=())
    runs["age"] = pd.to_numeric(runs["age"], errors="coerce")
    kept = runs[runs["reason"] == ""]
    found, twice = outliers(kept), duplicates(shards.manifest)
    runs["note"] = _notes(runs["run_id"], twice)
    runs["n_slices"] = runs["run_id"].map(_n_slices(shards))
    runs = _worst_first(runs, found)
    runs[["sheet", "place"]], strip = _write_sheets(shards, runs, folder / "sheets")
    group = qc_volumes.Group(
        study=settings.study,
        dataset=dataset,
        content=shards.content,
        map_name=settings.datasets[dataset].map or "gm",
        runs=runs,
        outliers=found,
        duplicates=twice,
        sites=group_quality.site_means(kept, SITE_MEASURES),
        limits=settings.exclude,
        strip=strip,
        pictures=_write_group(folder, shards),
    )
    qc_runs.write_tables(folder, sites=group.sites, outliers=found, duplicates=twice)
    return qc_volumes.render(group, made_at), runs


def outliers(kept: pd.DataFrame) -> pd.DataFrame:
    """Return the maps unlike the others, the farthest first.

    Returns
    -------
    DataFrame
        As of `group_quality.outliers`, and ``n_mads``, the distance from the median in median absolute deviations, and
        ``reason``, both in words. Good quality, and more overlap than most, make no outlier.
    """
    total = kept.get("total_ml", pd.Series(dtype=float))
    sides = SIDES if total.notna().any() else SIDES | GREY_SIDES
    found = group_quality.outliers(kept, sides)
    z = found["robust_z"].astype(float)
    found = found[z * found["measure"].map(sides).astype(float) >= 0].reset_index(drop=True)
    n_mads = found["robust_z"].astype(float).abs() / group_quality.MAD_TO_SD
    reasons = [
        f"{row.measure} {row.value:.4g}, {n:.1f} MADs {'above' if row.robust_z > 0 else 'below'} the median "
        f"{row.median:.4g}"
        for row, n in zip(found.itertuples(), n_mads, strict=True)
    ]
    return found.assign(n_mads=n_mads, reason=reasons)


def duplicates(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the samples whose values occur more than once.

    Returns
    -------
    DataFrame
        group (counted from 1), run_id, participant_id, sha256; sorted by group and run.
    """
    twice = manifest[manifest["sha256"].duplicated(keep=False)].sort_values("run_id", kind="stable")
    number = twice["sha256"].factorize()[0] + 1
    table = twice[["run_id", "participant_id", "sha256"]]
    table.insert(0, "group", number)
    return table.sort_values(["group", "run_id"], ignore_index=True)


def _notes(run_ids: pd.Series, twice: pd.DataFrame) -> list[str]:
    """Return for every run which others are identical to it; empty where none is."""
    groups = {run_id: set(part["run_id"]) for _, part in twice.groupby("group") for run_id in part["run_id"]}
    others = [sorted(groups.get(run_id, set()) - {run_id}) for run_id in run_ids]
    return [f"identical to {' and '.join(names)}" if names else "" for names in others]


def _n_slices(shards: Shards) -> dict[str, int]:
    """Return the number of slices of each scan; nothing of maps."""
    if shards.content != "image":
        return {}
    return {row.run_id: int(row.shape[0]) for row in shards.manifest.itertuples()}


def _worst_first(runs: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return the runs by overlap with the group's mask, the least first, then the farthest outliers; left out last."""
    farthest = found.assign(z=found["robust_z"].astype(float).abs()).groupby("run_id")["z"].max()
    overlap = runs.get("group_dice", pd.Series(np.nan, index=runs.index))
    keys = {"out": runs["reason"] != "", "overlap": pd.to_numeric(overlap), "z": -runs["run_id"].map(farthest)}
    order = pd.DataFrame(keys).sort_values(list(keys), kind="stable")
    return runs.loc[order.index].reset_index(drop=True)


# --- pictures -----------------------------------------------------------------------------------


def _write_sheets(shards: Shards, runs: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, tuple[int, int]]:
    """Write the contact sheets, fifty runs each.

    Returns
    -------
    DataFrame
        sheet (file name; empty for runs that are not in the shards) and place on it (from 0) of every run.
    (int, int)
        Height and width of a strip in pixels; equal on all sheets.
    """
    from neuropipe.report import contact_sheet, png

    rows = {run_id: i for i, run_id in enumerate(shards.manifest["run_id"])}
    drawn = [i for i, run_id in enumerate(runs["run_id"]) if run_id in rows and runs["reason"].iloc[i] == ""]
    places = pd.DataFrame({"sheet": "", "place": 0}, index=runs.index)
    progress, names, shape = Progress(f"qc {shards.dataset}", len(drawn), 0), [], (1, 1)
    for start in range(0, len(drawn), contact_sheet.PER_SHEET):
        part, strips = drawn[start : start + contact_sheet.PER_SHEET], []
        for i in part:
            strips.append(_strip(shards, rows[runs["run_id"].iloc[i]]))
            progress.advance()
        names.append(f"{len(names):03d}.png")
        sheet = contact_sheet.sheet(strips)
        shape = (len(sheet) // len(strips), sheet.shape[1])
        _write(folder / names[-1], png.encode_grey(sheet))
        places.iloc[part, 0], places.iloc[part, 1] = names[-1], range(len(part))
    progress.close()
    for stale in {path.name for path in folder.glob("[0-9]*.png")} - set(names):
        (folder / stale).unlink()
    return places, shape


def _strip(shards: Shards, i: int) -> np.ndarray:
    from neuropipe.report import contact_sheet

    if shards.content == "image":
        return contact_sheet.greys(contact_sheet.of_slices(shards.values(i)))
    return contact_sheet.greys(contact_sheet.of_volume(shards.values(i), _voxel_mm(shards)))


def _voxel_mm(shards: Shards) -> np.ndarray:
    """Return the edges of a voxel in mm, the lengths of the affine's columns; equal ones where it is not known."""
    affine = shards.grid.affine
    return np.ones(3) if affine is None else np.linalg.norm(affine[:3, :3], axis=0)


def _write_group(folder: Path, shards: Shards) -> list[tuple[str, str]]:
    """Write pictures of the group's mean and mask; return caption and path of each, none where there is no group."""
    return list(_group_pictures(folder, shards)) if (folder / "group.npz").is_file() else []


def _group_pictures(folder: Path, shards: Shards) -> Iterator[tuple[str, str]]:
    from neuropipe.report import contact_sheet, png

    with np.load(folder / "group.npz", allow_pickle=False) as group:
        arrays = [("Mean of everyone who was kept", "mean"), ("Mask of the group", "mask")]
        for caption, name in [(caption, name) for caption, name in arrays if name in group and group[name].ndim == 3]:
            array = group[name].astype(np.float32)
            if shards.content == "image":
                strip = contact_sheet.of_slices(array)
            else:
                strip = contact_sheet.of_volume(array, _voxel_mm(shards), GROUP_SIDE)
            _write(folder / "sheets" / f"{name}.png", png.encode_grey(contact_sheet.greys(strip)))
            yield caption, f"sheets/{name}.png"


def _write(path: Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)

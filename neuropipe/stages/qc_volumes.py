"""What the quality page of maps and slices shows: everyone on a contact sheet, outliers, and copies."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe import config as configuration
from neuropipe.bids.index import read_tsv
from neuropipe.errors import NeuropipeError, RunExcluded
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
    runs[["sheet", "place"]], strip = _write_sheets(list(_strips(settings, tree, shards, runs)), folder / "sheets")
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


def _write_sheets(strips: list[np.ndarray | None], folder: Path) -> tuple[pd.DataFrame, tuple[int, int]]:
    """Write the contact sheets, fifty strips each.

    Parameters
    ----------
    strips : list of uint8 array (row, column) or None
        Of every run, some 15 kB each; None where there is nothing to show.

    Returns
    -------
    DataFrame
        sheet (file name; empty without a strip) and place on it (from 0) of every run.
    (int, int)
        Height and width of a strip in pixels on all sheets: those of the first.
    """
    from neuropipe.report import contact_sheet, png

    shown = [i for i, strip in enumerate(strips) if strip is not None]
    shape = strips[shown[0]].shape if shown else (1, 1)
    places, names = pd.DataFrame({"sheet": "", "place": 0}, index=range(len(strips))), []
    for start in range(0, len(shown), contact_sheet.PER_SHEET):
        part = shown[start : start + contact_sheet.PER_SHEET]
        names.append(f"{len(names):03d}.png")
        _write(folder / names[-1], png.encode_grey(contact_sheet.sheet([strips[i] for i in part], shape)))
        places.loc[part, "sheet"], places.loc[part, "place"] = names[-1], range(len(part))
    for stale in {path.name for path in folder.glob("[0-9]*.png")} - set(names):
        (folder / stale).unlink()
    return places, shape


def _strips(
    settings: configuration.StudyConfig, tree: Study, shards: Shards, runs: pd.DataFrame
) -> Iterator[np.ndarray | None]:
    """Yield the strip of every run: from the shards, or, of those that were left out, from their own file."""
    rows = {run_id: i for i, run_id in enumerate(shards.manifest["run_id"])}
    listed = {row["run_id"]: row for row in read_tsv(tree.manifest(shards.dataset)).to_dict("records")}
    progress = Progress(f"qc {shards.dataset}", len(runs), 0)
    for run_id in runs["run_id"]:
        if run_id in rows:
            yield _strip(shards.values(rows[run_id]), _voxel_mm(shards), shards.content)
        else:
            yield _source_strip(settings, shards, listed.get(run_id))
        progress.advance()
    progress.close()


def _source_strip(settings: configuration.StudyConfig, shards: Shards, row: dict[str, str] | None) -> np.ndarray | None:
    """Return the strip of a scan as it lies in its own file; None where that cannot be read."""
    from neuropipe.bids import anatomy
    from neuropipe.volumes import grids

    if row is None:
        return None
    section = settings.datasets[shards.dataset]
    root = anatomy.data_root(Path(configuration.expand(section.path)))
    try:
        found = anatomy.read(section, root, row, settings.volumes.image_size)
        array, affine = found.array, found.affine
        if shards.content == "volume":
            array, affine = grids.as_ras(array, affine)
    except (RunExcluded, NeuropipeError, OSError):  # it is left out, and the page says why
        return None
    return _strip(np.nan_to_num(array, posinf=0, neginf=0), _edges(affine), shards.content)


def _strip(array: np.ndarray, voxel_mm: np.ndarray, content: str) -> np.ndarray:
    from neuropipe.report import contact_sheet

    if content == "image":
        return contact_sheet.greys(contact_sheet.of_slices(array))
    return contact_sheet.greys(contact_sheet.of_volume(array, voxel_mm))


def _voxel_mm(shards: Shards) -> np.ndarray:
    """Return the edges of a dataset's voxels in mm; of slices nothing is known."""
    return _edges(shards.grid.affine if shards.content == "volume" else None)


def _edges(affine: np.ndarray | None) -> np.ndarray:
    """Return the edges of a voxel in mm, the lengths of the affine's columns; equal ones where it is not known."""
    return np.ones(3) if affine is None else np.linalg.norm(affine[:3, :3], axis=0)


def _write_group(folder: Path, shards: Shards) -> list[tuple[str, str]]:
    """Write pictures of the group's mean and mask; return caption and path of each, none where there is no group."""
    from neuropipe.report import contact_sheet, png

    pictures = []
    if shards.content != "volume" or not (folder / "group.npz").is_file():
        return pictures
    with np.load(folder / "group.npz", allow_pickle=False) as group:
        for caption, name in (("Mean of everyone who was kept", "mean"), ("Mask of the group", "mask")):
            strip = contact_sheet.of_volume(group[name].astype(np.float32), _voxel_mm(shards), GROUP_SIDE)
            _write(folder / "sheets" / f"{name}.png", png.encode_grey(contact_sheet.greys(strip)))
            pictures.append((caption, f"sheets/{name}.png"))
    return pictures


def _write(path: Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)

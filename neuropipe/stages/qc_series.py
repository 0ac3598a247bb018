"""What the quality page of series shows: a picture of every run, and motion in connectivity."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe import config as configuration
from neuropipe.bids.index import read_tsv
from neuropipe.paths import Study, write_text
from neuropipe.provenance import write_json
from neuropipe.shards import manifest as manifests
from neuropipe.shards.read import Shards
from neuropipe.signals import group_quality
from neuropipe.signals.traces import Traces
from neuropipe.stages import qc_runs
from neuropipe.train.progress import Progress


def make(settings: configuration.StudyConfig, tree: Study, dataset: str, made_at: datetime) -> tuple[str, pd.DataFrame]:
    """Write everything that lies beside the page: tables, and ``runs/*.svg``.

    Returns
    -------
    str
        The page.
    DataFrame
        One row per run, kept or left out.
    """
    from neuropipe.report import qc

    folder = tree.qc(dataset)
    runs = _with_displacement(qc_runs.read(settings, tree, dataset, carried=("traces",)), tree, dataset)
    regions = manifests.read_parquet(folder / "regions.parquet")
    runs["picture"], tsnr = _draw(settings, tree.root, runs, regions, folder / "runs")
    kept = runs[runs["reason"] == ""]
    edges, qc_fc = _qc_fc(Shards(tree.shards(dataset)), kept.set_index("run_id")["mean_fd_mm"])
    group = qc.Group(
        study=settings.study,
        dataset=dataset,
        runs=runs,
        regions=regions.assign(tsnr=tsnr),
        edges=edges,
        qc_fc=qc_fc,
        sites=group_quality.site_means(kept),
        outliers=group_quality.outliers(kept),
        limits=settings.exclude,
    )
    manifests.write_parquet(folder / "edges.parquet", edges)
    write_json(folder / "group.json", qc_fc)
    qc_runs.write_tables(folder, sites=group.sites, outliers=group.outliers)
    return qc.render(group, made_at), runs


def _with_displacement(runs: pd.DataFrame, tree: Study, dataset: str) -> pd.DataFrame:
    """Return the runs with ``mean_fd_mm``.

    Where a run has no displacement of its own, as ready-made series have none, the column ``mean_fd`` (mm) of
    participants.tsv gives its mean.
    """
    people = read_tsv(tree.participants(dataset)).set_index("participant_id")
    given = pd.to_numeric(people.get("mean_fd", pd.Series(dtype=float)), errors="coerce")
    measured = pd.to_numeric(runs.get("mean_fd_mm", pd.Series(np.nan, index=runs.index)))
    return runs.assign(mean_fd_mm=measured.fillna(runs["participant_id"].map(given)))


def _draw(
    settings: configuration.StudyConfig, root: Path, runs: pd.DataFrame, regions: pd.DataFrame, folder: Path
) -> tuple[list[str], np.ndarray]:
    """Write the picture of every run that has traces.

    Returns
    -------
    list of str
        The picture of each run, relative to the page; empty without.
    array (region,)
        Temporal signal-to-noise, the mean over the runs that were kept; NaN where unknown.
    """
    from neuropipe.report import qc_picture

    layout = qc_picture.Layout.of(regions, settings.clean.fd_threshold_mm, settings.exclude.min_region_coverage)
    total, count, pictures = np.zeros(len(regions)), np.zeros(len(regions)), []
    progress = Progress(f"qc {folder.parent.name}", len(runs), 0)
    for run in runs.to_dict("records"):
        pictures.append(f"{folder.name}/{run['run_id']}.svg" if run["traces"] else "")
        if run["traces"]:
            traces = Traces.read(root / run["traces"])
            write_text(folder.parent / pictures[-1], qc_picture.draw(traces, layout))
            if not run["reason"]:
                total += np.nan_to_num(traces.tsnr)
                count += np.isfinite(traces.tsnr)
        progress.advance()
    progress.close()
    for stale in {path.name for path in folder.glob("*.svg")} - {Path(picture).name for picture in pictures}:
        (folder / stale).unlink()
    with np.errstate(invalid="ignore"):
        return pictures, total / count


def _qc_fc(shards: Shards, mean_fd_mm: pd.Series) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return QC-FC of every edge and what it comes to; empty where no run has a displacement."""
    found = group_quality.qc_fc(_people(shards, mean_fd_mm))
    if found is None:
        return pd.DataFrame(columns=["region", "other", "distance_mm", "qc_fc", "p", "n_people"]), {"n_people": 0}
    distance = group_quality.distances(shards.regions.table[["x", "y", "z"]].to_numpy(float))
    region, other = np.triu_indices(len(shards.regions), k=1)
    edges = pd.DataFrame(
        {
            "region": region.astype(np.int16),
            "other": other.astype(np.int16),
            "distance_mm": distance.astype(np.float32),
            "qc_fc": found.r,
            "p": found.p.astype(np.float32),
            "n_people": found.n_people.astype(np.int32),
        }
    )
    return edges, group_quality.summary(found, distance)


def _people(shards: Shards, mean_fd_mm: pd.Series) -> Iterator[tuple[float, np.ndarray]]:
    """Yield each person's mean displacement and connectivity, both averaged over runs, one person at a time."""
    table = shards.manifest.assign(mean_fd=shards.manifest["run_id"].map(mean_fd_mm))
    for _, rows in table[table["mean_fd"].notna()].groupby("participant_id", sort=True):
        edges = []
        for i in rows.index:
            series = shards.series(i)
            kept = np.ones(len(series), dtype=bool)
            kept[shards.censored(i)] = False
            edges.append(group_quality.connectivity(series, kept, shards.valid_regions(i)))
        yield float(rows["mean_fd"].mean()), np.mean(edges, axis=0)

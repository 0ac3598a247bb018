"""The quality page of a dataset: QC-FC, sites, outliers, and a picture of every run, kept or left out."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe import config as configuration
from neuropipe.bids.index import read_tsv
from neuropipe.errors import ConfigError
from neuropipe.locks import lock
from neuropipe.paths import Study, write_text
from neuropipe.provenance import describe, read_json, sha256, write_json
from neuropipe.shards import manifest as manifests
from neuropipe.shards.read import Shards
from neuropipe.signals import group_quality
from neuropipe.signals.traces import Traces
from neuropipe.train.progress import Progress

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe qc``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--dataset", required=True, help="name of the dataset in the config")
    parser.add_argument(
        "--output", type=Path, required=True, help="the page, e.g. results/<study>/qc/<dataset>/index.html"
    )


def run(*, config: Path, dataset: str, output: Path) -> None:
    """Write the page, ``edges.parquet``, ``group.json``, ``outliers.tsv`` and ``sites.tsv``, and ``runs/*.svg``.

    Parameters
    ----------
    config, dataset
        The study and the dataset.
    output : path
        The page, ``qc/<dataset>/index.html`` below the study's folder with the products of `collect` and the receipts
        of `parcellate`; everything else is written beside the page.
    """
    from threadpoolctl import threadpool_limits

    from neuropipe.report import qc

    settings, tree = configuration.load(config), Study(output.absolute().parents[2])
    if dataset not in settings.datasets:
        raise ConfigError(f"{config} has no dataset {dataset!r}; known: {', '.join(settings.datasets)}.")
    shards = Shards(tree.shards(dataset))
    with lock(output.with_name(".lock-qc")), threadpool_limits(limits=1):
        runs = _runs(settings, tree, dataset)
        regions = manifests.read_parquet(tree.qc(dataset) / "regions.parquet")
        runs["picture"], tsnr = _draw(settings, tree.root, runs, regions, output.parent / "runs")
        kept = runs[runs["reason"] == ""]
        edges, qc_fc = _qc_fc(shards, kept.set_index("run_id")["mean_fd_mm"])
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
        _write_tables(group, output.parent)
        inputs = {str(path.relative_to(tree.root)): sha256(path) for path in _inputs(tree, dataset)}
        packages = ("numpy", "scipy", "pandas", "jinja2")
        write_json(output.with_suffix(".json"), describe("qc", inputs=inputs, packages=packages))
        page = qc.render(group, datetime.now(UTC))
        write_text(output, page)
    log.info(
        "qc %s: %d runs, %d left out; %s (%d kB)", dataset, len(runs), len(runs) - len(kept), output, len(page) // 1000
    )


def _inputs(tree: Study, dataset: str) -> list[Path]:
    beside = [tree.shards(dataset) / "manifest.parquet", tree.participants(dataset), tree.index_excluded(dataset)]
    return [*beside, tree.qc(dataset) / "runs.parquet", *_receipts(tree, dataset)]


def _receipts(tree: Study, dataset: str) -> list[Path]:
    return sorted(tree.receipt("parcellate", dataset, 0).parent.glob("parcellate-*.json"))


# --- runs ---------------------------------------------------------------------------------------


def _runs(settings: configuration.StudyConfig, tree: Study, dataset: str) -> pd.DataFrame:
    """Return one row per run, kept or left out, with its site and the path of its traces (empty where it has none).

    Where a run has no displacement of its own, as ready-made series have none, the column ``mean_fd`` (mm) of
    participants.tsv gives its mean.
    """
    traces, excluded = {}, _left_out_by_index(tree, dataset)
    for receipt in map(read_json, _receipts(tree, dataset)):
        traces |= {product["run_id"]: product["traces"] for product in receipt["products"]}
        excluded += receipt["excluded"]
    measured = manifests.read_parquet(tree.qc(dataset) / "runs.parquet").to_dict("records")
    rows = [row | {"reason": "", "detail": "", "traces": traces.get(row["run_id"], "")} for row in measured]
    for row in excluded:
        names = {key: row[key] for key in ("run_id", "participant_id", "reason", "detail")}
        rows.append(row.get("quality", {}) | names | {"traces": row.get("traces", "")})
    table = pd.DataFrame(rows).sort_values("run_id", kind="stable", ignore_index=True)
    site_role, people = settings.datasets[dataset].roles.site, read_tsv(tree.participants(dataset))
    site = dict(zip(people["participant_id"], people[site_role], strict=True)) if site_role in people else {}
    named = [site.get(person, "").replace("n/a", "") for person in table["participant_id"]]
    given = people.set_index("participant_id").get("mean_fd", pd.Series(dtype=float))
    measured = pd.to_numeric(table.get("mean_fd_mm", pd.Series(np.nan, index=table.index)))
    filled = measured.fillna(table["participant_id"].map(pd.to_numeric(given, errors="coerce")))
    return table.assign(site=named, picture="", mean_fd_mm=filled)


def _left_out_by_index(tree: Study, dataset: str) -> list[dict[str, Any]]:
    """Return the runs and files that the index could not use; a file of no run goes by its path."""
    table = read_tsv(tree.index_excluded(dataset))
    table["run_id"] = table["run_id"].where(table["run_id"] != "n/a", table["path"])
    return table[table["run_id"] != "n/a"].to_dict("records")  # people without any file are no runs


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


# --- the group ----------------------------------------------------------------------------------


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


def _write_tables(group: Any, folder: Path) -> None:
    manifests.write_parquet(folder / "edges.parquet", group.edges)
    write_json(folder / "group.json", group.qc_fc)
    for name, table in (("sites", group.sites), ("outliers", group.outliers)):
        text = table.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n", float_format="%.6g")
        write_text(folder / f"{name}.tsv", text)

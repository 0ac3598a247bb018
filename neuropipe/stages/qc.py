"""The quality page of a dataset: what the group shows, and a picture of every run, kept or left out."""

from __future__ import annotations

import argparse
import logging
from datetime import UTC, datetime
from pathlib import Path

from neuropipe import config as configuration
from neuropipe.errors import ConfigError
from neuropipe.locks import lock
from neuropipe.paths import Study, write_text
from neuropipe.provenance import describe, sha256, write_json
from neuropipe.stages import qc_runs, qc_series, qc_volumes

log = logging.getLogger("neuropipe")
MAKERS = {"series": qc_series.make, "volume": qc_volumes.make, "image": qc_volumes.make}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe qc``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--dataset", required=True, help="name of the dataset in the config")
    parser.add_argument(
        "--output", type=Path, required=True, help="the page, e.g. results/<study>/qc/<dataset>/index.html"
    )


def run(*, config: Path, dataset: str, output: Path) -> None:
    """Write the page, and beside it ``outliers.tsv``, ``sites.tsv`` and what its content asks for.

    Of series these are ``edges.parquet``, ``group.json`` and ``runs/*.svg``; of maps and slices ``duplicates.tsv`` and
    ``sheets/*.png``.

    Parameters
    ----------
    config, dataset
        The study and the dataset.
    output : path
        The page, ``qc/<dataset>/index.html`` below the study's folder with the products of `collect` and the receipts
        of the stage that prepared the samples; everything else is written beside the page.
    """
    from threadpoolctl import threadpool_limits

    settings, tree = configuration.load(config), Study.of(output, "qc/<dataset>/index.html")
    if dataset not in settings.datasets:
        raise ConfigError(f"{config} has no dataset {dataset!r}; known: {', '.join(settings.datasets)}.")
    make = MAKERS[settings.datasets[dataset].content]
    with lock(output.with_name(".lock-qc")), threadpool_limits(limits=1):
        page, runs = make(settings, tree, dataset, datetime.now(UTC))
        inputs = {tree.relative(path): sha256(path) for path in _inputs(settings, tree, dataset)}
        packages = ("numpy", "scipy", "pandas", "jinja2")
        write_json(output.with_suffix(".json"), describe("qc", inputs=inputs, packages=packages))
        write_text(output, page)
    left_out = int((runs["reason"] != "").sum())
    log.info("qc %s: %d runs, %d left out; %s (%d kB)", dataset, len(runs), left_out, output, len(page) // 1000)


def _inputs(settings: configuration.StudyConfig, tree: Study, dataset: str) -> list[Path]:
    beside = [tree.shards(dataset) / "manifest.parquet", tree.participants(dataset), tree.index_excluded(dataset)]
    return [*beside, tree.qc(dataset) / "runs.parquet", *qc_runs.receipts(settings, tree, dataset)]

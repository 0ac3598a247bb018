"""Join the predictions of all systems and compute every metric from them and their nulls alone."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from neuropipe import config as configuration
from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.provenance import describe, sha256, write_json

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe evaluate``."""
    parser.add_argument("--predictions", type=Path, nargs="+", required=True, help="predictions.parquet files")
    parser.add_argument("--nulls", type=Path, nargs="*", help="nulls.parquet files; default: beside the predictions")
    parser.add_argument("--config", type=Path, help="the study's config.yaml; default: what the predictions record")
    parser.add_argument(
        "--splits", type=Path, nargs="*", default=[], help="folders of the splits, for the leakage audit"
    )
    parser.add_argument("--output", type=Path, help="metrics.parquet; default: beside the first predictions")


def run(
    *,
    predictions: list[Path],
    nulls: list[Path] | None = None,
    config: Path | None = None,
    splits: list[Path] | None = None,
    output: Path | None = None,
) -> None:
    """Write ``metrics.parquet`` and, beside it, the joined predictions, nulls, costs and ``leakage.json``.

    Given the joined ``predictions.parquet`` of a study alone, only ``metrics.parquet`` and its sidecar
    ``metrics.json`` are written, and the metrics are the same as the first time.

    Raises
    ------
    InputError
        A file is missing, or neither a configuration nor the predictions say how many draws to make.
    """
    import pandas as pd

    from neuropipe.evaluate import leakage, tables
    from neuropipe.evaluate.summary import summarise

    output = output or predictions[0].parent / "metrics.parquet"
    nulls = nulls or [path.with_name("nulls.parquet") for path in predictions]
    predicted = tables.read(predictions, tables.PREDICTIONS, "predictions")
    permuted = tables.read(nulls, tables.NULLS, "nulls")
    predicted.attrs = _draws(config, predicted.attrs, predictions[0])
    settings = {name: int(value) for name, value in predicted.attrs.items()}
    metrics = summarise(predicted, permuted, draws=settings["bootstrap"], seed=settings["seed"])
    audit = leakage.pretraining(predicted)
    audit += leakage.follows_split(predicted, {d.name: pd.read_parquet(d / "splits.parquet") for d in splits or []})
    audit += leakage.shuffled_labels(predicted, permuted)
    for failed in (check for check in audit if not check["passed"]):
        log.warning("leakage audit: %(check)s FAILED for %(where)s: found %(value)s", failed)
    inputs = {_inside(path, output.parent): sha256(path) for path in (*predictions, *nulls)}
    sidecar = describe("evaluate", inputs=inputs, settings=settings, packages=("numpy", "scipy", "pandas", "pyarrow"))
    with lock(output.parent / ".lock-evaluate"):
        tables.write(output, metrics, tables.METRICS)
        write_json(output.with_suffix(".json"), sidecar)
        if output.parent.resolve() not in {path.parent.resolve() for path in predictions}:
            costs = [path.with_name("costs.parquet") for path in predictions]
            tables.write(output.with_name("predictions.parquet"), predicted, tables.PREDICTIONS)
            tables.write(output.with_name("nulls.parquet"), permuted, tables.NULLS)
            tables.write(output.with_name("costs.parquet"), tables.read(costs, tables.COSTS, "costs"), tables.COSTS)
            write_json(output.with_name("leakage.json"), {"checks": audit})
    log.info("evaluate: %d runs, %d rows of metrics", metrics["run_id"].nunique(), len(metrics))


def _inside(path: Path, root: Path) -> str:
    """Return a path relative to the study where it lies below it."""
    path, root = path.resolve(), root.resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _draws(config: Path | None, recorded: dict[str, str], source: Path) -> dict[str, int]:
    """Return bootstrap draws and seed: of the configuration, or as the joined predictions record them."""
    if config is not None:
        study = configuration.load(config)
        return {"bootstrap": study.evaluate.bootstrap, "seed": study.seed}
    if not {"bootstrap", "seed"} <= recorded.keys():
        raise InputError(f"{source} does not record the bootstrap draws and the seed; give --config as well.")
    return {name: int(recorded[name]) for name in ("bootstrap", "seed")}

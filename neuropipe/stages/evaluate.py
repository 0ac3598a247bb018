"""Join the predictions of all systems and compute every metric from them and their nulls alone."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropipe import config as configuration
from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.paths import write_text
from neuropipe.provenance import describe, sha256, write_json

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("neuropipe")

RECORDED = ("bootstrap", "permutations", "seed")  # with the joined predictions, so that they can be evaluated alone
AUDITED = ["run_id", "split", "repeat", "fold", "role", "dataset", "participant_id", "pretrain_overlap_n"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe evaluate``."""
    parser.add_argument("--predictions", type=Path, nargs="*", default=[], help="predictions.parquet files")
    parser.add_argument(
        "--decoding", type=Path, nargs="*", help="decoding.parquet files of decode; default: beside the predictions"
    )
    parser.add_argument("--nulls", type=Path, nargs="*", help="nulls.parquet files; default: beside the predictions")
    parser.add_argument("--config", type=Path, help="the study's config.yaml; default: what the predictions record")
    parser.add_argument(
        "--splits", type=Path, nargs="*", default=[], help="folders of the splits, for the leakage audit"
    )
    parser.add_argument("--output", type=Path, help="metrics.parquet; default: beside the first predictions")


def run(
    *,
    predictions: list[Path],
    decoding: list[Path] | None = None,
    nulls: list[Path] | None = None,
    config: Path | None = None,
    splits: list[Path] | None = None,
    output: Path | None = None,
) -> None:
    """Write ``metrics.parquet``, ``metrics.csv`` and, beside them, joined predictions, nulls, costs, ``leakage.json``.

    ``breakdown.parquet`` (sites, sexes) and ``net_benefit.parquet`` (decision curves) follow from the predictions;
    how they depend on confounds, from ``confounds.parquet`` where that lies beside them.
    ``efficiency.parquet`` (learning curves) and, of clips, ``decoding.parquet`` are joined where there are any. Given
    the joined ``predictions.parquet`` of a study alone (``decoding.parquet`` beside it), only what follows from them is
    written, with the sidecar ``metrics.json``, and it is the same as the first time.

    Raises
    ------
    InputError
        A file is missing, or neither a configuration nor the predictions say how many draws to make.
    """
    import pandas as pd

    from neuropipe.evaluate import shown, tables
    from neuropipe.evaluate.breakdown import breakdown
    from neuropipe.evaluate.decision_curve import decision_curves
    from neuropipe.evaluate.summary import summarise

    if decoding is None:
        decoding = [path for part in predictions if (path := part.with_name("decoding.parquet")).is_file()]
    if not (given := [*predictions, *decoding]):
        raise InputError("Nothing to evaluate: name predictions.parquet or decoding.parquet files.")
    output = output or given[0].parent / "metrics.parquet"
    nulls = nulls or [path.with_name("nulls.parquet") for path in predictions]
    predicted = tables.read(predictions, tables.PREDICTIONS, "predictions", tables.LATER)
    permuted = tables.read(nulls, tables.NULLS, "nulls")
    decoded = tables.read(decoding, tables.DECODING, "predictions of clips")
    settings = _draws(config, predicted.attrs | decoded.attrs, given[0])
    predicted.attrs = decoded.attrs = settings
    known = sorted({path for part in predictions if (path := part.with_name("confounds.parquet")).is_file()})
    confounds = tables.read(known, tables.CONFOUNDS, "confounds")
    metrics = summarise(
        predicted,
        permuted,
        draws=settings["bootstrap"],
        seed=settings["seed"],
        decoded=decoded,
        permutations=settings["permutations"],
        confounds=confounds,
    )
    beside = {name: shown.read(predictions, name, columns) for name, columns in shown.FILES.items()}
    rest = shown.metrics(beside, draws=settings["bootstrap"], seed=settings["seed"])
    metrics = pd.concat([metrics, rest], ignore_index=True) if len(rest) else metrics
    groups = breakdown(predicted, draws=settings["bootstrap"], seed=settings["seed"])
    curves = decision_curves(predicted)
    fitted = [path.with_name("transforms.json") for path in predictions]
    audit = _audit(predicted, decoded, permuted, metrics, fitted, splits or [])
    inputs = {_inside(path, output.parent): sha256(path) for path in (*given, *nulls, *known)}
    sidecar = describe("evaluate", inputs=inputs, settings=settings, packages=("numpy", "scipy", "pandas", "pyarrow"))
    with lock(output.parent / ".lock-evaluate"):
        tables.write(output, metrics, tables.METRICS)
        tables.write(output.with_name("breakdown.parquet"), groups, tables.BREAKDOWN)
        tables.write(output.with_name("net_benefit.parquet"), curves, tables.NET_BENEFIT)
        write_json(output.with_suffix(".json"), sidecar)
        write_text(output.with_suffix(".csv"), tables.to_csv(metrics))
        if output.parent.resolve() not in {path.parent.resolve() for path in given}:
            costs = [path.with_name("costs.parquet") for path in given]
            tables.write(output.with_name("confounds.parquet"), confounds, tables.CONFOUNDS)
            tables.write(output.with_name("predictions.parquet"), predicted, tables.PREDICTIONS)
            tables.write(output.with_name("nulls.parquet"), permuted, tables.NULLS)
            tables.write(output.with_name("costs.parquet"), tables.read(costs, tables.COSTS, "costs"), tables.COSTS)
            for name, table in beside.items():
                shown.write(output.with_name(f"{name}.parquet"), table, shown.FILES[name])
            if decoding:
                tables.write(output.with_name("decoding.parquet"), decoded, tables.DECODING)
            _join(given, output.with_name("places.parquet"), tables.PLACES)
            _join(given, output.with_name("drivers.parquet"), tables.DRIVERS)
            _join(given, output.with_name("efficiency.parquet"), tables.EFFICIENCY)
            write_json(output.with_name("leakage.json"), {"checks": audit})
    log.info("evaluate: %d runs, %d rows of metrics", metrics["run_id"].nunique(), len(metrics))


def _audit(
    predicted: pd.DataFrame,
    decoded: pd.DataFrame,
    permuted: pd.DataFrame,
    metrics: pd.DataFrame,
    fitted: list[Path],
    splits: list[Path],
) -> list[dict[str, Any]]:
    """Return the checks of the leakage audit, and say aloud which of them failed."""
    import pandas as pd

    from neuropipe.evaluate import leakage

    everyone = [table[AUDITED] for table in (predicted, decoded) if len(table)]
    people = pd.concat(everyone, ignore_index=True).drop_duplicates()
    frozen = {folder.name: pd.read_parquet(folder / "splits.parquet") for folder in splits}
    audit = leakage.pretraining(people) + leakage.follows_split(people, frozen) + leakage.transforms(fitted, frozen)
    audit += leakage.shuffled_labels(predicted, permuted) + leakage.sites(metrics)
    for failed in (check for check in audit if not check["passed"]):
        log.warning("leakage audit: %(check)s FAILED for %(where)s: found %(value)s", failed)
    return audit


def _join(given: list[Path], output: Path, columns: dict[str, Any]) -> None:
    """Write the tables of a name that lie beside the predictions, those of people and of clips; no file without any."""
    from neuropipe.evaluate import tables

    parts = [part for path in given if (part := path.with_name(output.name)).is_file()]
    output.unlink(missing_ok=True)
    if parts:
        tables.write(output, tables.read(parts, columns, output.stem), columns)


def _inside(path: Path, root: Path) -> str:
    """Return a path relative to the study where it lies below it."""
    path, root = path.resolve(), root.resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _draws(config: Path | None, recorded: dict[str, str], source: Path) -> dict[str, int]:
    """Return draws of bootstrap and null, and the seed: of the configuration, or as joined predictions record them."""
    if config is not None:
        study = configuration.load(config)
        asked = study.evaluate
        return {"bootstrap": asked.bootstrap, "permutations": asked.permutations, "seed": study.seed}
    if not {"bootstrap", "seed"} <= recorded.keys():
        raise InputError(f"{source} does not record the bootstrap draws and the seed; give --config as well.")
    return {name: int(recorded.get(name, 0)) for name in RECORDED}

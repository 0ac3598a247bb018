"""From what features show besides the target (`looks`) to rows of metrics: sites, recognised people, strangers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from neuropipe.evaluate import tables, uncertainty
from neuropipe.evaluate.sites import balanced_accuracy
from neuropipe.evaluate.summary import reference_names
from neuropipe.evaluate.testsets import MEAN

FILES = {"sites": tables.SITES, "identified": tables.IDENTIFIED, "familiarity": tables.FAMILIARITY}


def read(predictions: list[Path], name: str, columns: dict[str, Any]) -> pd.DataFrame:
    """Return the tables called `name` beside some predictions, as far as there are any.

    How far people lie from the training side of a fine-tuned network is taken from its ``decisions.parquet``.
    """
    paths = [path.with_name(f"{name}.parquet") for path in predictions]
    parts = [tables.read([path for path in paths if path.is_file()], columns, name)]
    if name == "familiarity":
        parts += [_of_decisions(path) for path in predictions if path.with_name("decisions.parquet").is_file()]
    kept = [part for part in parts if len(part)]
    return pd.concat(kept, ignore_index=True) if kept else parts[0]


def _of_decisions(predictions: Path) -> pd.DataFrame:
    """Return rows of `tables.FAMILIARITY` from what a fine-tuned network said of people."""
    keys = ["system", "repeat", "fold", "role", "dataset", "participant_id"]
    decided = tables.read([predictions.with_name("decisions.parquet")], tables.DECISIONS, "decisions")
    known = tables.read([predictions], tables.PREDICTIONS, "predictions", tables.LATER)
    joined = decided.merge(known, on=keys, suffixes=("", "_")).dropna(subset=["is_far"])
    return tables.frame(joined.reindex(columns=list(tables.FAMILIARITY)), tables.FAMILIARITY)


def write(path: Path, table: pd.DataFrame, columns: dict[str, Any]) -> None:
    """Write a table of a whole study; an empty one is removed."""
    path.unlink(missing_ok=True)
    if len(table):
        tables.write(path, table, columns)


def metrics(shown: dict[str, pd.DataFrame], *, draws: int, seed: int) -> pd.DataFrame:
    """Return rows of `tables.METRICS`, each in the run of its system's first linear readout.

    ``site_balanced_accuracy`` and ``identification_top1`` have their chance level as ``null_mean`` and are compared
    with those of the reference, and after ComBat with those before; ``share_far`` is of test people.

    Parameters
    ----------
    shown : dict of str to DataFrame
        By name, the tables of `FILES`.
    draws, seed : int
        Of the bootstrap over persons.
    """
    far = shown["familiarity"]
    parts = [
        *_rows(shown["sites"], "site_balanced_accuracy", _told, draws, seed),
        *_rows(shown["identified"], "identification_top1", _recognised, draws, seed),
        *_rows(far[far["role"] == "test"], "share_far", _strangers, draws, seed),
    ]
    return tables.frame(parts, tables.METRICS)


@dataclass(frozen=True, eq=False)
class Shown:
    """A value with its bootstrap (draws,), chance level, interval and how that was made; `people` are its rows."""

    facts: dict[str, Any]
    people: tuple[str, ...]
    value: float
    bootstrap: np.ndarray
    chance: float
    low: float
    high: float
    method: str


def _rows(
    table: pd.DataFrame,
    metric: str,
    measure: Callable[[pd.DataFrame, np.ndarray], tuple[np.ndarray, float]],
    draws: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one metric: of every run, once per run that it is compared with."""
    for (task, _), part in table.groupby(["task", "split"], sort=True):
        rng_seed = [seed, zlib.crc32(f"{task}/{metric}".encode())]
        found = [_shown(rows, measure, draws, rng_seed) for _, rows in part.groupby("run_id", sort=True)]
        for one in found:
            row = {
                **one.facts,
                "fold": MEAN,
                "metric": metric,
                "value": one.value,
                "ci_low": one.low,
                "ci_high": one.high,
                "ci_method": one.method,
                "null_mean": one.chance,
            }
            compared = [] if metric == "share_far" else list(_differences(one, found))
            yield from [row | other for other in compared] or [row]


def _shown(rows: pd.DataFrame, measure: Callable, draws: int, seed: list[int]) -> Shown:
    rows = rows.sort_values(["fold", "dataset", "participant_id"], ignore_index=True)
    units = pd.factorize(rows["person"])[0]
    strata = pd.factorize(rows["site"], sort=True)[0] if "site" in rows else None
    value, chance = measure(rows, np.ones((1, len(rows))))
    blocks = uncertainty.bootstrap_weights(units, strata, draws, np.random.default_rng(seed))
    bootstrap = np.concatenate([measure(rows, weights)[0] for weights in blocks])
    low, high, method = *uncertainty.percentile_interval(bootstrap), "bootstrap"
    if np.ptp(bootstrap) == 0 and value[0] in (0, 1):  # all alike: no draw can differ
        n = len(np.unique(units))
        exact = stats.binomtest(round(value[0] * n), n).proportion_ci(uncertainty.LEVEL, "exact")
        low, high, method = float(exact.low), float(exact.high), "exact_binomial"
    facts = {name: rows[name].iloc[0] for name in tables.ABOUT if name in tables.METRICS}
    people = tuple(rows["fold"] + "/" + rows["dataset"] + "/" + rows["participant_id"])
    facts |= {
        "dataset": "+".join(sorted(rows["dataset"].unique())),
        "n_test": len(rows[["dataset", "participant_id"]].drop_duplicates()),
    }
    return Shown(facts, people, float(value[0]), bootstrap, chance, low, high, method)


def _differences(one: Shown, found: list[Shown]) -> Iterator[dict[str, Any]]:
    """Yield the difference from the reference and, after ComBat, from the system before; of the same people."""
    name, references = one.facts["system"], reference_names(one.facts["target_type"])
    before = tables.unharmonised(name)
    wanted = {before} if before in references else {before, *references}
    for other in found:
        theirs = other.facts["system"]
        related = theirs in wanted - {name} and (theirs in references or _same(other.facts["seed"], one.facts["seed"]))
        if not related or other.people != one.people:
            continue
        low, high = uncertainty.percentile_interval(one.bootstrap - other.bootstrap)
        compared = {"reference": other.facts["system"], "delta": one.value - other.value}
        yield compared | {"delta_ci_low": low, "delta_ci_high": high}


def _same(seed: Any, other: Any) -> bool:
    return str(seed) == str(other)


def _told(rows: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, float]:
    hits = (rows["site"] == rows["predicted"]).to_numpy(bool)
    return balanced_accuracy(hits, rows["site"].to_numpy(), weights), 1 / rows["site"].nunique()


def _recognised(rows: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, float]:
    hits = (rows["second_found"].to_numpy(float) + rows["first_found"].to_numpy(float)) / 2
    return weights @ hits / weights.sum(axis=1), 1 / float(rows["n_candidates"].iloc[0])


def _strangers(rows: pd.DataFrame, weights: np.ndarray) -> tuple[np.ndarray, float]:
    return weights @ rows["is_far"].to_numpy(float) / weights.sum(axis=1), np.nan

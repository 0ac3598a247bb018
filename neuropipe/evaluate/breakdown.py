"""The primary metric of every run among the people of one site, or of one sex."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.evaluate import tables
from neuropipe.evaluate.estimates import PERFECT
from neuropipe.evaluate.metrics import METRICS, PRIMARY
from neuropipe.evaluate.testsets import Answered, read_answer
from neuropipe.evaluate.uncertainty import bootstrap_weights, percentile_interval, perfect_interval, separate_pairs

COLUMNS = ("site", "sex")
UNKNOWN = "n/a"
MIN_PEOPLE = 5  # of a group, and of each class of a binary target in it, for an interval


def breakdown(predictions: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """Return the primary metric of all runs, group by group; columns of `tables.BREAKDOWN`.

    An AUROC over several folds compares people of the same fold only, because scores of different folds have no
    common scale. A value that is not defined (one class only) is NaN, and so is the interval of fewer than
    `MIN_PEOPLE` people (of a class). Runs on the same people share the draws of the bootstrap.

    Parameters
    ----------
    predictions : DataFrame
        Columns of `tables.PREDICTIONS`.
    draws, seed : int
        Of the bootstrap over persons.
    """
    tested = predictions[predictions["role"] == "test"]
    rows = [
        row
        for _, run in tested.groupby(["task", "split", "run_id"], sort=True)
        for column in COLUMNS
        for row in _groups(read_answer(run), column, draws, seed)
    ]
    return tables.frame(rows, tables.BREAKDOWN)


def _groups(answered: Answered, column: str, draws: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row per value of a column; a column that nobody has a value of gives none."""
    names = answered.rows[column].replace("", pd.NA).fillna(UNKNOWN).astype(str)
    if (names == UNKNOWN).all():
        return
    run = answered.rows[tables.WHOSE].iloc[0].to_dict()
    for name, rows in names.groupby(names, sort=True).indices.items():
        rng = np.random.default_rng([seed, zlib.crc32(f"{run['task']}/{column}/{name}".encode())])
        yield run | {"column": column, "group": name} | _group(answered, rows, draws, rng)


def _group(answered: Answered, at: np.ndarray, draws: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return counts of people, and the primary metric with its interval, of the rows `at`."""
    rows, kind = answered.rows.iloc[at], answered.rows["target_type"].iloc[0]
    y, units = rows["y"].to_numpy(float), pd.factorize(rows["person"])[0]
    people = rows.drop_duplicates(["dataset", "participant_id"])
    found: dict[str, Any] = {"n": len(people), "metric": PRIMARY[kind]}
    enough = len(people)
    if kind == "binary":
        found["n_positive"] = int(people["y"].sum())
        enough = min(found["n_positive"], len(people) - found["n_positive"])
    value = float(_values(answered, at, kind, np.ones((1, len(at))))[0])
    if enough < MIN_PEOPLE or not np.isfinite(value):
        return found | {"value": value}
    if kind == "binary" and value in PERFECT:
        compared = sum(separate_pairs(y[inside], units[inside]) for inside in _by_fold(answered, at))
        low, high = perfect_interval(value, y, units, min(compared, separate_pairs(y, units)))
    else:
        strata = None if kind == "regression" else y.astype(np.int64)
        weights = bootstrap_weights(units, strata, draws, rng)
        low, high = percentile_interval(np.concatenate([_values(answered, at, kind, weight) for weight in weights]))
    return found | {"value": value, "ci_low": low, "ci_high": high}


def _by_fold(answered: Answered, at: np.ndarray) -> list[np.ndarray]:
    """Return which of the rows `at` are of each fold that has any of them (bool)."""
    return [inside for fold in answered.folds if (inside := np.isin(at, fold)).any()]


def _values(answered: Answered, at: np.ndarray, kind: str, weight: np.ndarray) -> np.ndarray:
    """Return the primary metric (draws,) of some rows; an AUROC is over pairs of people of one fold."""
    compute = METRICS[kind][PRIMARY[kind]].compute
    if kind != "binary":
        return compute(answered.scored.take(at), weight)
    total = pairs = np.zeros(len(weight))
    for inside in _by_fold(answered, at):
        part, own = answered.scored.take(at[inside]), weight[:, inside].astype(float)
        n_pairs = (own @ part.y[0]) * (own @ (1 - part.y[0]))
        total = total + n_pairs * np.nan_to_num(compute(part, own))
        pairs = pairs + n_pairs
    return np.divide(total, pairs, out=np.full(len(weight), np.nan), where=pairs > 0)

"""Studies side by side: whether they asked the same of the same people, and by how much their answers differ."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.evaluate import tables, uncertainty
from neuropipe.evaluate.estimates import PERFECT
from neuropipe.evaluate.metrics import METRICS, PRIMARY
from neuropipe.evaluate.testsets import POOLED, TestSet, clip_sets, test_sets
from neuropipe.provenance import read_json

SHARED = ["system", "readout", "seed"]  # what makes two runs of two studies the same system
PEOPLE = "test people and their labels"
# What two studies must have in common for a task, by the words of the page: columns of the metrics.
FACTS = {
    "target": "target",
    "kind of target": "target_type",
    "datasets": "dataset",
    "split": "split_scheme",
    "training people": "n_train",
    "validation people": "n_val",
    "atlas": "atlas_id",
    "order of regions": "roi_order_hash",
    "recordings": "data_hash",
}
DRAWN = {"bootstrap draws": "bootstrap", "permutations": "permutations", "seed": "seed"}
DIFFERENCES = [
    "task",
    *SHARED,
    "metric",
    "study",
    "other",
    "value",
    "other_value",
    "delta",
    "low",
    "high",
    "p",
    "method",
]


@dataclass(frozen=True, eq=False)
class Answers:
    """What `neuropipe evaluate` left of one study.

    Attributes
    ----------
    name : str
        For people.
    metrics, predictions, decoded : DataFrame
        Of test people; columns of `tables`.
    settings : dict
        Draws and seed, as the metrics' sidecar has them.
    """

    name: str
    metrics: pd.DataFrame
    predictions: pd.DataFrame
    decoded: pd.DataFrame
    settings: dict[str, Any]

    def tested(self, task: str) -> pd.DataFrame:
        """Return the task's rows of people, or of clips."""
        found = self.predictions[self.predictions["task"] == task]
        return found if len(found) else self.decoded[self.decoded["task"] == task]


def read(folders: Sequence[Path]) -> list[Answers]:
    """Read the joined tables of several studies.

    Raises
    ------
    InputError
        A folder is not an evaluated study, or there are fewer than two.
    """
    if len(folders) < 2:
        raise InputError(f"Comparing needs the folders of two studies at least, found {len(folders)}.")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    if len(set(names)) < len(names):
        raise InputError(f"Each study is given once; found {', '.join(map(str, folders))}.")
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _read(folder: Path, name: str) -> Answers:
    metrics = tables.read(
        [folder / "metrics.parquet"], tables.METRICS, "metrics of an evaluated study", tables.LATER_METRICS
    )
    predictions = tables.read([folder / "predictions.parquet"], tables.PREDICTIONS, "predictions")
    clips = [folder / "decoding.parquet"] if (folder / "decoding.parquet").is_file() else []
    decoded = tables.read(clips, tables.DECODING, "predictions of clips")
    sidecar = folder / "metrics.json"
    settings = read_json(sidecar).get("Settings", {}) if sidecar.is_file() else {}
    tested = (table[table["role"] == "test"] for table in (predictions, decoded))
    return Answers(name, metrics, *tested, settings)


def shared_tasks(studies: Sequence[Answers]) -> list[str]:
    """Return the tasks that two studies at least have, sorted."""
    counts = pd.Series([task for one in studies for task in one.metrics["task"].unique()]).value_counts()
    return sorted(counts.index[counts > 1])


def protocol(studies: Sequence[Answers]) -> pd.DataFrame:
    """Return what each study did for each shared task.

    Returns
    -------
    DataFrame
        Columns ``task``, ``fact``, one per study (text; None where it lacks the task) and ``same`` (bool).
    """
    rows = []
    for task in shared_tasks(studies):
        own = {one.name: _facts(one, task) for one in studies if (one.metrics["task"] == task).any()}
        for fact in next(iter(own.values())):
            said = {name: facts[fact] for name, facts in own.items()}
            rows.append({"task": task, "fact": fact, **said, "same": len(set(said.values())) == 1})
    columns = ["task", "fact", *(one.name for one in studies), "same"]
    return pd.DataFrame(rows, columns=columns).astype(object).where(lambda table: table.notna(), None)


def _facts(study: Answers, task: str) -> dict[str, str]:
    """Return a study's protocol for a task, as text by fact."""
    metrics = study.metrics[study.metrics["task"] == task]
    found = {fact: _all(metrics[column]) for fact, column in FACTS.items()}
    tested = study.tested(task)
    if metrics["target_type"].iloc[0] == "binary":
        found["positive class"] = _all(tested["positive"])
    people = _people(tested)
    n_people, n_folds = people[["dataset", "participant_id"]].drop_duplicates().shape[0], people["fold"].nunique()
    digest = zlib.crc32(people.to_csv(index=False).encode())
    found[PEOPLE] = f"{n_people} people, {n_folds} fold{'s' if n_folds > 1 else ''}, {digest:08x}"
    return found | {fact: str(study.settings.get(key, "not recorded")) for fact, key in DRAWN.items()}


def _people(tested: pd.DataFrame) -> pd.DataFrame:
    """Return who was tested in which fold with which label, once each, in a fixed order."""
    keys = ["repeat", "fold", "dataset", "participant_id"] + (["clip"] if "clip" in tested else [])
    return tested[[*keys, "y"]].drop_duplicates(keys).sort_values(keys, ignore_index=True)


def _all(values: pd.Series) -> str:
    """Return the distinct values of a column as text, the missing left out."""
    return ", ".join(sorted(values.dropna().astype(str).unique())) or "–"


def differences(studies: Sequence[Answers], draws: int, seed: int) -> pd.DataFrame:
    """Return the difference of each system that two studies share, where they tested the same people.

    Differences are of the primary metric, ``study`` less ``other``. On one test set the interval is DeLong's (AUROC;
    recovered from both intervals where one ranking is perfect) or that of a bootstrap that draws the same persons for
    both; over folds it is the corrected resampled one, with a test where there are five folds or more.

    Parameters
    ----------
    draws, seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        Columns `DIFFERENCES`; NaN where there is no interval or test.
    """
    rows = [
        row
        for task in shared_tasks(studies)
        for first, second in combinations(studies, 2)
        for row in _task_differences(task, second, first, draws, [seed, zlib.crc32(task.encode())])
    ]
    return pd.DataFrame(rows, columns=DIFFERENCES)


def _task_differences(
    task: str, study: Answers, other: Answers, draws: int, seed: list[int]
) -> Iterator[dict[str, Any]]:
    mine, theirs = study.tested(task), other.tested(task)
    if mine.empty or theirs.empty or not _people(mine).equals(_people(theirs)):
        return
    runs = [dict(iter(table.groupby(SHARED, dropna=False, sort=True))) for table in (mine, theirs)]
    known = {_comparable(key): key for key in runs[1]}
    for key, rows in runs[0].items():
        if (same := known.get(_comparable(key))) is None:
            continue
        name = PRIMARY[rows["target_type"].iloc[0]]
        pair = _sets(rows), _sets(runs[1][same])
        yield {
            **dict(zip(["task", *SHARED], [task, *key], strict=True)),
            "metric": name,
            "study": study.name,
            "other": other.name,
            **_difference(*pair, name, draws, seed),
        }


def _comparable(key: tuple) -> tuple:
    """Return a key in which a missing seed equals a missing seed."""
    return tuple("" if pd.isna(part) else part for part in key)


def _sets(rows: pd.DataFrame) -> list[TestSet]:
    """Return a run's test sets without the pooled one."""
    found = clip_sets(rows, 0, 0) if "clip" in rows else test_sets(rows, None)
    return [part for part in found if part.name != POOLED]


def _difference(mine: list[TestSet], theirs: list[TestSet], name: str, draws: int, seed: list[int]) -> dict[str, Any]:
    metric = METRICS[mine[0].facts["target_type"]][name]
    once = [np.ones((1, len(part.people))) for part in mine]
    values, others = (
        np.array([float(metric.compute(part.scored, weight)[0]) for part, weight in zip(sets, once, strict=True)])
        for sets in (mine, theirs)
    )
    found = {"value": values.mean(), "other_value": others.mean(), "delta": (values - others).mean(), "p": np.nan}
    if len(mine) > 1:
        ratio = float(np.mean([part.facts["n_test"] / part.facts["n_train"] for part in mine]))
        low, high = uncertainty.corrected_interval(values - others, ratio)
        p = uncertainty.nadeau_bengio(values - others, ratio)[1]
        return found | {"low": low, "high": high, "p": p, "method": "corrected_resampled"}
    part, other = mine[0], theirs[0]
    alone = part.units.max() + 1 == len(part.units)
    perfect = name == "auroc" and bool({values[0], others[0]} & set(PERFECT))
    if name == "auroc" and alone and not perfect:
        scores = np.concatenate([part.scored.prediction, other.scored.prediction])
        low, high = uncertainty.delong_difference(part.scored.y[0], scores)[1:]
        return found | {"low": low, "high": high, "method": "delong"}
    strata = part.scored.y[0].astype(np.int64) if metric.stratified else None
    weights = uncertainty.bootstrap_weights(part.units, strata, draws, np.random.default_rng(seed))
    drawn = [[metric.compute(one.scored, weight) for one in (part, other)] for weight in weights]
    own, others_own = (np.concatenate(blocks) for blocks in zip(*drawn, strict=True))
    if perfect:
        first, second = _of_auroc(part, values[0], own), _of_auroc(other, others[0], others_own)
        low, high = uncertainty.recovered_difference(first, second)
        return found | {"low": low, "high": high, "method": "recovered"}
    low, high = uncertainty.percentile_interval(own - others_own)
    return found | {"low": low, "high": high, "method": "paired_bootstrap"}


def _of_auroc(part: TestSet, value: float, bootstrap: np.ndarray) -> tuple[float, float, float]:
    """Return an AUROC with its interval, exact where the ranking is perfect."""
    if value in PERFECT:
        return value, *uncertainty.perfect_interval(value, part.scored.y[0], part.units)
    return value, *uncertainty.percentile_interval(bootstrap)

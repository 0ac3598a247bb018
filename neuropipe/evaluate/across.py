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
from neuropipe.evaluate import tables
from neuropipe.evaluate.comparison import difference_interval, resampled
from neuropipe.evaluate.estimates import Run, judge
from neuropipe.evaluate.metrics import PRIMARY
from neuropipe.evaluate.testsets import TestSet, clip_sets, test_sets
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
DIFFERENCES = ["task", *SHARED, "metric", "study", "other"]
DIFFERENCES += ["value", "other_value", "delta", "low", "high", "p", "method"]


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
        for row in _task_differences(task, second, first, draws, seed)
    ]
    return pd.DataFrame(rows, columns=DIFFERENCES)


def _task_differences(task: str, study: Answers, other: Answers, draws: int, seed: int) -> Iterator[dict[str, Any]]:
    mine, theirs = study.tested(task), other.tested(task)
    if mine.empty or theirs.empty or not _people(mine).equals(_people(theirs)):
        return
    runs = [dict(iter(table.groupby(SHARED, dropna=False, sort=True))) for table in (mine, theirs)]
    known = {_comparable(key): key for key in runs[1]}
    for key, rows in runs[0].items():
        if (same := known.get(_comparable(key))) is None:
            continue
        name = PRIMARY[rows["target_type"].iloc[0]]
        sets = {study.name: _sets(rows), other.name: _sets(runs[1][same])}
        yield {
            **dict(zip(["task", *SHARED], [task, *key], strict=True)),
            "metric": name,
            "study": study.name,
            "other": other.name,
            **_difference(*judge(task, sets, draws, seed, only=name), name),
        }


def _comparable(key: tuple) -> tuple:
    """Return a key in which a missing seed equals a missing seed."""
    return tuple("" if pd.isna(part) else part for part in key)


def _sets(rows: pd.DataFrame) -> list[TestSet]:
    """Return a run's test sets."""
    return clip_sets(rows, 0, 0) if "clip" in rows else test_sets(rows, None)


def _difference(mine: Run, theirs: Run, name: str) -> dict[str, Any]:
    """Return what one run of a metric has over another on the same people, as within one study."""
    values, others = mine.fold_values(name), theirs.fold_values(name)
    found = {"value": values.mean(), "other_value": others.mean(), "delta": (values - others).mean(), "p": np.nan}
    if mine.pooled:
        (over,) = resampled(mine, name, mine.metrics[name], [theirs])
        interval = {"low": over["delta_ci_low"], "high": over["delta_ci_high"], "p": over["p_nb"]}
        return found | interval | {"method": "corrected_resampled"}
    part, other = mine.folds[0], theirs.folds[0]
    estimates = mine.estimates[part.name, name], theirs.estimates[other.name, name]
    low, high, method = difference_interval(part, other, name, *estimates, ranks=name == "auroc")
    return found | {"low": low, "high": high, "method": method}

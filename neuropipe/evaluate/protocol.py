"""The one protocol by which every system answers a task: same people, same folds, same null."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.errors import InputError, SplitError
from neuropipe.evaluate import tables
from neuropipe.evaluate.features import Features
from neuropipe.evaluate.linear import STRENGTHS, Logistic, Path, Ridge, nested
from neuropipe.evaluate.targets import Target
from neuropipe.splits.make import fold_numbers, ordered_units
from neuropipe.splits.people import People

N_INNER_FOLDS = 5
READOUTS: dict[str, type[Path]] = {"ridge": Ridge, "logistic": Logistic}


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows of `People.table` (int arrays) on each side of one fold, people without a target left out."""

    repeat: int
    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def judged(self) -> np.ndarray:
        """Rows that are predicted: validation, then test."""
        return np.concatenate([self.validation, self.test])


@dataclass(frozen=True, eq=False)
class Question:
    """A task on a split: everything that a system needs to answer it, and nothing about systems.

    Attributes
    ----------
    people, target, split
        Who, what, and the name and scheme of the split.
    folds : list of Fold
        In the order of the split's table.
    labels : float ndarray (n_people, 1 + draws)
        The target, then its permutations; NaN rows where it is unknown.
    seed : int
        Of inner folds.
    facts : dict
        Columns of `tables.RUN` that hold for every system: hashes, atlas.
    """

    people: People
    target: Target
    split: str
    scheme: str
    folds: list[Fold]
    labels: np.ndarray
    seed: int
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """Who answers: a name, its seed, and what is known of its training.

    Attributes
    ----------
    name : str
        Recipe or baseline.
    seed : int or None
        Seed of the model.
    facts : dict
        Columns of `tables.RUN` that belong to the system.
    fold_facts : dict of str to dict
        By fold name: columns of `tables.FOLD` that belong to the system (checkpoint, overlap).
    """

    name: str
    seed: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    fold_facts: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Answer:
    """The tables of one or more runs, with the columns of `tables`."""

    predictions: pd.DataFrame
    nulls: pd.DataFrame
    choices: pd.DataFrame
    costs: pd.DataFrame

    @classmethod
    def join(cls, answers: list[Answer]) -> Answer:
        """Return the tables of several answers one below the other."""
        return cls(
            *(
                pd.concat([getattr(a, name) for a in answers], ignore_index=True)
                for name in ("predictions", "nulls", "choices", "costs")
            )
        )


def ask(
    people: People, target: Target, table: pd.DataFrame, *, draws: int, seed: int, facts: dict[str, Any] | None = None
) -> Question:
    """Return the question that a target puts on a split's table.

    Parameters
    ----------
    draws : int
        Permutations of the null.
    seed : int
        Of permutations and inner folds; combined with the task's name.

    Raises
    ------
    SplitError
        The table does not cover everyone with a recording, or a side has nobody with a target.
    """
    rows = dict(zip(people.ids, range(len(people)), strict=True))
    ids = table["dataset"] + "/" + table["participant_id"]
    known = set(people.ids[target.known])
    if unlisted := sorted(known - set(ids)):
        raise SplitError(
            f"The split {table['split'].iloc[0]!r} does not list {len(unlisted)} people of task {target.task!r}: "
            f"{', '.join(unlisted[:5])}. Make the split again."
        )
    folds = []
    for (repeat, name), part in table[ids.isin(known)].groupby(["repeat", "fold"], sort=False):
        place = (part["dataset"] + "/" + part["participant_id"]).map(rows).to_numpy()
        side = {role: np.sort(place[part["role"] == role]) for role in ("train", "validation", "test")}
        for role in ("train", "test"):
            if len(side[role]) == 0 or (target.kind == "binary" and len(np.unique(target.y[side[role]])) < 2):
                raise SplitError(
                    f"Task {target.task!r}, fold {name} of the split {table['split'].iloc[0]!r}: the {role} side needs "
                    f"people of every class, found {len(side[role])} people with a target. Make the split again."
                )
        folds.append(Fold(int(repeat), str(name), side["train"], side["validation"], side["test"]))
    task_seed = zlib.crc32(target.task.encode())
    labels = permuted(target.y, null_blocks(people, folds), draws, np.random.default_rng([seed, task_seed]))
    scheme = str(table["scheme"].iloc[0])
    return Question(people, target, str(table["split"].iloc[0]), scheme, folds, labels, seed, facts or {})


def null_blocks(people: People, folds: list[Fold]) -> np.ndarray:
    """Return a text block (n_people,) for every person: labels are exchanged within blocks only.

    Blocks are sites, divided by side. A split that was stratified by label gives every side its
    share of each class; labels that moved between sides would undo that, and what the training side
    gained the test side would lacks, so that shuffled labels would score below chance. Over repeats
    nobody has one side, and blocks are sites alone.
    """
    blocks = people.table["site"].to_numpy(dtype=object).copy()
    if len({fold.repeat for fold in folds}) > 1:
        return blocks
    side = np.full(len(people), "", dtype=object)
    if len(folds) == 1:
        side[folds[0].validation] = "validation"
    for fold in folds:
        side[fold.test] = fold.name
    return blocks + "/" + side


def permuted(y: np.ndarray, blocks: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return `y` (n,) and `draws` permutations of its known values within `blocks`, as columns (n, 1 + draws)."""
    columns = np.repeat(y[:, None], 1 + draws, axis=1)
    for block in sorted(set(blocks)):
        rows = np.flatnonzero((blocks == block) & np.isfinite(y))
        order = np.argsort(rng.random((len(rows), draws)), axis=0)
        columns[rows, 1:] = y[rows][order]
    return columns


def inner_folds(people: People, train: np.ndarray, seed: int) -> np.ndarray:
    """Return the inner fold (int) of each training row: persons and kin together, spread within site.

    Labels play no part, so that the choice of strength treats real and permuted labels alike.
    """
    rng = np.random.default_rng([seed, len(train)])
    some = replace(people, table=people.table.iloc[train])
    units = ordered_units(some, [], rng)
    n_folds = min(N_INNER_FOLDS, len(units))
    if n_folds < 2:
        raise InputError(f"Choosing a strength needs two training people at least, found {len(units)}.")
    number = dict(zip(units["person"], fold_numbers(len(units), n_folds, rng), strict=True))
    return some.table["person"].map(number).to_numpy()


def resolve_readouts(names: list[str], kind: str) -> list[str]:
    """Return the readouts that fit a kind of target: ``linear`` is logistic for classes and ridge for numbers."""
    linear = "logistic" if kind == "binary" else "ridge"
    resolved = [linear if name == "linear" else name for name in names]
    return list(dict.fromkeys(name for name in resolved if kind == "binary" or name != "logistic"))


def answer(question: Question, system: System, readout: str, features: Callable[[Fold], Features]) -> Answer:
    """Let a linear readout of `features` answer a question, with its null.

    Parameters
    ----------
    question : Question
        What is asked.
    system : System
        Whose features these are.
    readout : str
        ``ridge`` or ``logistic``.
    features : callable
        Features of a fold, one row per person of `question.people`.
    """
    started = time.perf_counter()
    model = READOUTS[readout]
    run_id = _run_id(question, system, readout)
    predictions, nulls, choices = [], [], []
    for fold in question.folds:
        table = features(fold)
        coordinates = table.coordinates(fold.train)
        result = nested(
            model,
            coordinates[fold.train],
            question.labels[fold.train],
            coordinates[fold.judged],
            inner_folds(question.people, fold.train, question.seed),
        )
        predictions.append(_predictions(question, system, run_id, readout, fold, result.prediction[:, 0]))
        nulls += _nulls(question, run_id, fold, result.prediction[:, 1:])
        choices += [
            {
                "run_id": run_id,
                "repeat": fold.repeat,
                "fold": fold.name,
                "n_features": table.values.shape[1],
                "strength": strength,
                "inner_loss": loss,
                "chosen": place == result.chosen[0],
            }
            for place, (strength, loss) in enumerate(zip(STRENGTHS, result.inner_loss[:, 0], strict=True))
        ]
    seconds = time.perf_counter() - started
    return Answer(
        pd.concat(predictions, ignore_index=True),
        tables.frame(nulls, tables.NULLS),
        tables.frame(choices, tables.CHOICES),
        tables.frame([cost(question, system, readout, "readout_with_null", seconds, "s")], tables.COSTS),
    )


def constant_answer(question: Question, system: System) -> Answer:
    """Let the training side's prevalence or mean answer; it has no null, because it knows no labels of people."""
    run_id = _run_id(question, system, "baseline")
    predictions = []
    for fold in question.folds:
        mean = question.target.y[fold.train].mean()
        constant = np.log(mean / (1 - mean)) if question.target.kind == "binary" else mean
        value = np.full(len(fold.judged), constant)
        predictions.append(_predictions(question, system, run_id, "baseline", fold, value, is_logit=True))
    empty = (tables.frame([], columns) for columns in (tables.NULLS, tables.CHOICES, tables.COSTS))
    return Answer(pd.concat(predictions, ignore_index=True), *empty)


def cost(question: Question, system: System, readout: str, measure: str, value: float, unit: str) -> dict[str, Any]:
    """Return a row of the table of costs."""
    return {
        "run_id": _run_id(question, system, readout),
        "system": system.name,
        "task": question.target.task,
        "readout": readout,
        "seed": system.seed,
        "measure": measure,
        "value": value,
        "unit": unit,
    }


def _run_id(question: Question, system: System, readout: str) -> str:
    seed = "" if system.seed is None else f"_seed-{system.seed}"
    return re.sub(r"[^A-Za-z0-9_-]+", "-", f"{question.target.task}_{system.name}").strip("-") + f"_{readout}{seed}"


def _predictions(
    question: Question,
    system: System,
    run_id: str,
    readout: str,
    fold: Fold,
    value: np.ndarray,
    is_logit: bool | None = None,
) -> pd.DataFrame:
    """Return the rows of one fold; `value` is what the readout gives for `fold.judged`."""
    target, rows = question.target, fold.judged
    binary = target.kind == "binary"
    logit = binary and (readout == "logistic" if is_logit is None else is_logit)
    people = question.people.table.iloc[rows]
    table = people[["dataset", "participant_id", "person", "site", "sex"]].reset_index(drop=True)
    facts = {
        **question.facts,
        **system.facts,
        **system.fold_facts.get(fold.name, {}),
        "run_id": run_id,
        "system": system.name,
        "task": target.task,
        "readout": readout,
        "split": question.split,
        "split_scheme": question.scheme,
        "seed": system.seed,
        "target": target.column,
        "target_type": target.kind,
        "positive": target.positive,
        "repeat": fold.repeat,
        "fold": fold.name,
        "n_train": len(fold.train),
        "n_val": len(fold.validation),
        "train_mean": target.y[fold.train].mean(),
    }
    score = 1 / (1 + np.exp(-value)) if logit else value
    table = table.assign(
        **facts,
        role=["validation"] * len(fold.validation) + ["test"] * len(fold.test),
        y=target.y[rows],
        score=score if binary else np.nan,
        yhat=np.nan if binary else value,
        logit=value if logit else np.nan,
    )
    return tables.frame(table.reindex(columns=list(tables.PREDICTIONS)), tables.PREDICTIONS)


def _nulls(question: Question, run_id: str, fold: Fold, prediction: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield one row per test person: permuted labels, and predictions of readouts trained on permuted labels."""
    if prediction.shape[1] == 0:
        return
    people = question.people.table
    tested = prediction[len(fold.validation) :].astype(np.float32)
    for row, values in zip(fold.test, tested, strict=True):
        yield {
            "run_id": run_id,
            "repeat": fold.repeat,
            "fold": fold.name,
            "dataset": people["dataset"].iat[row],
            "participant_id": people["participant_id"].iat[row],
            "y": question.labels[row, 1:].astype(np.float32),
            "prediction": values,
        }
